//! The container's first process, from its clone to its program: every step in the order in which runc makes
//! them, since later ones take away what earlier ones need.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crx_proto::{Plan, Process, StartError};
use rustix::fs::{Mode, fchown};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Uid, chdir, setsid, umask};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::cgroup::Cgroup;
use super::namespaces::Namespaces;
use super::program::Program;
use super::rootfs::Root;
use super::user::UserNamespace;
use super::{credentials, devices, masks, mounts};
use crate::failure::failed;
use crate::sys;

/// File mode creation mask of a process that asks for none.
const DEFAULT_UMASK: u32 = 0o022;

/// The container's end of its standard streams.
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
    /// A terminal, whose master is sent to PID 1 over this socket.
    Terminal(UnixStream),
}

/// Everything the process needs to become the container's.
pub(crate) struct Setup<'a> {
    pub(crate) plan: &'a Plan,
    /// Where the share is mounted.
    pub(crate) share: &'a str,
    /// The container's cgroup as a path of the pod.
    pub(crate) cgroup_path: String,
    pub(crate) namespaces: &'a Namespaces,
    pub(crate) cgroup: &'a Cgroup,
    pub(crate) program: &'a Program,
    pub(crate) streams: &'a Streams,
    /// Its user namespace, if it has one.
    pub(crate) user: Option<&'a UserNamespace<'a>>,
}

impl Setup<'_> {
    /// Becomes the container's process. Returns only why that was not possible.
    pub(crate) fn run(&self) -> StartError {
        self.become_container()
            .and_then(|()| self.become_process())
            .map_or_else(|error| error, |()| self.program.execute())
    }

    /// Makes the container around this process and enters it.
    fn become_container(&self) -> Result<(), StartError> {
        let plan = self.plan;
        sys::unblock_signals();
        setsid().map_err(|error| failed("process", "make a session", error))?;
        // Modes of what is made are meant as they are given.
        umask(Mode::empty());
        self.namespaces.enter()?;
        if let Some(user) = self.user {
            user.become_root(plan, self.namespaces.own_network)?;
        }
        let root = Root::open_in(self.share, self.namespaces.has_mount)?;
        let cgroup = (!self.namespaces.own_cgroup).then_some(&*self.cgroup_path);
        let context = mounts::Context { root: &root, share: self.share, cgroup };
        let read_only_later = mounts::make_all(&context, plan)?;
        devices::make_all(&root, plan, self.user.map(UserNamespace::nodes))?;
        self.connect_streams(&root)?;
        mounts::finish(&root, &read_only_later)?;
        masks::make_read_only(&root, &plan.readonly_paths)?;
        masks::mask(&root, &plan.masked_paths)?;
        if self.user.is_none() {
            self.cgroup.restrict_devices()?;
            set_privileged(&plan.process, None)?;
        }
        root.enter(plan, self.namespaces.own_mount)
    }

    /// Becomes the process that the plan describes, up to its program.
    fn become_process(&self) -> Result<(), StartError> {
        let process = &self.plan.process;
        for limit in &process.rlimits {
            sys::set_rlimit(limit).map_err(|error| {
                failed("process.rlimits", format_args!("set limit {} to {limit:?}", limit.resource), error)
            })?;
        }
        umask(Mode::from_raw_mode(process.umask.unwrap_or(DEFAULT_UMASK)));
        let changed = change_directory(process)?;
        let seccomp = self.plan.seccomp.as_ref();
        credentials::assume(process, seccomp)?;
        if !changed {
            chdir(&*process.cwd)
                .map_err(|error| failed("process.cwd", format_args!("enter {}", process.cwd), error))?;
        }
        credentials::install_last(process, seccomp)
    }

    /// Makes the streams this process's standard ones, owned by its user: a program may open /dev/stdout again.
    fn connect_streams(&self, root: &Root) -> Result<(), StartError> {
        let fail = |error: Errno| failed("process", "connect the standard streams", error);
        let uid = self.plan.process.uid;
        let own = |stream: &OwnedFd| {
            if uid == 0 { Ok(()) } else { fchown(stream, Some(Uid::from_raw(uid)), None).map_err(fail) }
        };
        match self.streams {
            Streams::Pipes { stdin, stdout, stderr } => {
                if self.user.is_none() {
                    [stdin, stdout, stderr].into_iter().try_for_each(own)?;
                }
                dup2_stdin(stdin)
                    .and_then(|()| dup2_stdout(stdout))
                    .and_then(|()| dup2_stderr(stderr))
                    .map_err(fail)
            }
            Streams::Terminal(to_init) => {
                let (rows, columns) = self.plan.process.terminal.unwrap_or_default();
                let terminal = devices::open_terminal(root, rows, columns)?;
                own(&terminal.slave)?;
                let slave = &terminal.slave;
                dup2_stdin(slave)
                    .and_then(|()| dup2_stdout(slave))
                    .and_then(|()| dup2_stderr(slave))
                    .map_err(fail)?;
                send_descriptor(to_init, &terminal.master).map_err(fail)
            }
        }
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

/// Enters the working directory, making it if it is missing. `false`: only the container's user may enter it.
fn change_directory(process: &Process) -> Result<bool, StartError> {
    let fail = |error: std::io::Error| failed("process.cwd", format_args!("enter {}", process.cwd), error);
    match chdir(&*process.cwd) {
        Ok(()) => Ok(true),
        Err(Errno::PERM | Errno::ACCESS) => Ok(false),
        Err(Errno::NOENT) => {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&process.cwd).map_err(fail)?;
            chdir(&*process.cwd).map(|()| true).map_err(|error| fail(error.into()))
        }
        Err(error) => Err(fail(error.into())),
    }
}

/// Sends a descriptor to PID 1.
fn send_descriptor(socket: &UnixStream, fd: &OwnedFd) -> rustix::io::Result<()> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket, &[std::io::IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL).map(drop)
}
