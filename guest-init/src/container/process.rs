//! What every process of a container does around itself, the first one and executed ones alike, up to its program:
//! every step in the order in which runc makes them, since later ones take away what earlier ones need.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crx_proto::{Hook, Process, Seccomp, StartError};
use rustix::fs::{Mode, fchown};
use rustix::io::Errno;
use rustix::process::{Uid, chdir, setsid, umask};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::link::Link;
use super::program::Program;
use super::rootfs::Root;
use super::{credentials, devices, hooks};
use crate::failure::failed;
use crate::sys;

/// File mode creation mask of a process that asks for none.
const DEFAULT_UMASK: u32 = 0o022;

/// The container's end of the standard streams of a process.
pub(crate) enum Streams {
    /// Pipes.
    Pipes {
        /// Read end of stdin.
        stdin: OwnedFd,
        /// Write end of stdout.
        stdout: OwnedFd,
        /// Write end of stderr.
        stderr: OwnedFd,
    },
    /// A terminal, which the process opens and whose master it sends to PID 1.
    Terminal,
}

impl Streams {
    /// The descriptors in it.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let pipes = match self {
            Self::Pipes { stdin, stdout, stderr } => [Some(stdin), Some(stdout), Some(stderr)],
            Self::Terminal => [None, None, None],
        };
        pipes.into_iter().flatten().map(AsFd::as_fd)
    }
}

/// Hooks that run in the container before its program.
#[derive(Clone, Copy)]
pub(crate) struct StartHooks<'a> {
    pub(crate) hooks: &'a [Hook],
    /// What they read on stdin.
    pub(crate) state_json: &'a str,
}

/// A process on its way to its program.
pub(crate) struct Becoming<'a> {
    pub(crate) process: &'a Process,
    pub(crate) seccomp: Option<&'a Seccomp>,
    pub(crate) program: &'a Program,
    pub(crate) streams: &'a Streams,
    /// Its user has the streams already, as in a user namespace nobody could give them.
    pub(crate) owns_streams: bool,
    pub(crate) hooks: StartHooks<'a>,
    /// The process's end of its link. A terminal needs one, and so does a gate.
    pub(crate) link: Option<&'a Link>,
    /// It waits for PID 1's word before it goes on to its program.
    pub(crate) gate: bool,
}

impl Becoming<'_> {
    /// The first steps, still in the pod.
    pub(crate) fn begin(&self) -> Result<(), StartError> {
        sys::unblock_signals();
        setsid().map_err(|error| failed("process", "make a session", error))?;
        // Modes of what is made are meant as they are given.
        umask(Mode::empty());
        Ok(())
    }

    /// Makes the streams this process's standard ones, owned by its user: a program may open /dev/stdout again. A
    /// terminal becomes the container's console too, if `console` says so.
    pub(crate) fn connect_streams(&self, root: &Root, console: bool) -> Result<(), StartError> {
        let fail = |error: Errno| failed("process", "connect the standard streams", error);
        let uid = self.process.uid;
        let own = |stream: &OwnedFd| {
            if uid == 0 { Ok(()) } else { fchown(stream, Some(Uid::from_raw(uid)), None).map_err(fail) }
        };
        let become_standard = |stdin: &OwnedFd, stdout: &OwnedFd, stderr: &OwnedFd| {
            dup2_stdin(stdin)
                .and_then(|()| dup2_stdout(stdout))
                .and_then(|()| dup2_stderr(stderr))
                .map_err(fail)
        };
        match self.streams {
            Streams::Pipes { stdin, stdout, stderr } => {
                if !self.owns_streams {
                    [stdin, stdout, stderr].into_iter().try_for_each(own)?;
                }
                become_standard(stdin, stdout, stderr)
            }
            Streams::Terminal => {
                let (rows, columns) = self.process.terminal.unwrap_or_default();
                let terminal = devices::open_terminal(root, rows, columns)?;
                if console {
                    devices::bind_console(root, &terminal)?;
                }
                let slave = &terminal.slave;
                own(slave)?;
                become_standard(slave, slave, slave)?;
                self.link
                    .ok_or(Errno::BADF)
                    .and_then(|link| link.send_terminal(&terminal.master))
                    .map_err(fail)
            }
        }
    }

    /// The last steps, in the container: who the process is, the gate, the hooks, the program. Returns only why
    /// that was not possible. A working directory that is missing is made, if `make_cwd` says so.
    pub(crate) fn finish(&self, make_cwd: bool) -> StartError {
        self.assume(make_cwd)
            .and_then(|()| self.pass_gate())
            .map_or_else(|error| error, |()| self.program.execute())
    }

    fn assume(&self, make_cwd: bool) -> Result<(), StartError> {
        let process = self.process;
        for limit in &process.rlimits {
            sys::set_rlimit(limit).map_err(|error| {
                failed("process.rlimits", format_args!("set limit {} to {limit:?}", limit.resource), error)
            })?;
        }
        umask(Mode::from_raw_mode(process.umask.unwrap_or(DEFAULT_UMASK)));
        let changed = change_directory(process, make_cwd)?;
        credentials::assume(process, self.seccomp)?;
        if !changed {
            chdir(&*process.cwd)
                .map_err(|error| failed("process.cwd", format_args!("enter {}", process.cwd), error))?;
        }
        Ok(())
    }

    fn pass_gate(&self) -> Result<(), StartError> {
        if self.gate {
            self.program.look_up()?;
            let link = self.link.ok_or(Errno::BADF);
            link.and_then(Link::wait_at_gate)
                .map_err(|error| failed("process", "wait to be started", error))?;
        }
        hooks::run(self.hooks)?;
        credentials::install_last(self.process, self.seccomp)
    }
}

/// Sets what only the pod's root may set: on this process, or on the one with the ID `pid`.
pub(crate) fn set_privileged(process: &Process, pid: Option<u32>) -> Result<(), StartError> {
    if let Some(adjustment) = process.oom_score_adj.filter(|adjustment| *adjustment != 0) {
        let directory = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
        std::fs::write(format!("/proc/{directory}/oom_score_adj"), adjustment.to_string())
            .map_err(|error| failed("process.oomScoreAdj", "set", error))?;
    }
    if let Some(priority) = process.io_priority {
        sys::set_io_priority(pid.unwrap_or(0), priority)
            .map_err(|error| failed("process.ioPriority", "set", error))?;
    }
    Ok(())
}

/// Enters the working directory, making it if it is missing and may be made. `false`: only the container's user may
/// enter it.
fn change_directory(process: &Process, make: bool) -> Result<bool, StartError> {
    let fail = |error: std::io::Error| failed("process.cwd", format_args!("enter {}", process.cwd), error);
    match chdir(&*process.cwd) {
        Ok(()) => Ok(true),
        Err(Errno::PERM | Errno::ACCESS) => Ok(false),
        Err(Errno::NOENT) if make => {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&process.cwd).map_err(fail)?;
            chdir(&*process.cwd).map(|()| true).map_err(|error| fail(error.into()))
        }
        Err(error) => Err(fail(error.into())),
    }
}
