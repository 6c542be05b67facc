//! The pod's own mounts: what PID 1 needs to make containers. Each costs guest instructions (and one more when
//! a container's mount namespace copies it), so most are made when something first asks for them.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use crx_proto::{ProcessId, SHARE_TAG, StartError};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_move, unmount};

use crate::failure::failed;

/// Where the virtio-fs share is mounted.
const SHARE: &str = "/run/crx/share";
/// Where the pod's root is mounted a second time, to be moved over the first (a directory of the initial file
/// system, as are all mount points here).
const OWN_ROOT: &str = "/mnt";
/// Where the pod's cgroup tree is mounted: not below /sys, which sysfs may cover later.
const CGROUP: &str = "/cgroup";

/// Where device nodes are made that containers bind.
const DEVICE_NODES: &str = "/run/crx/devices";
/// Whether BPF programs are compiled (Documentation/admin-guide/sysctl/net.rst).
const BPF_JIT_ENABLE: &str = "/proc/sys/net/core/bpf_jit_enable";

/// Pseudo file systems are mounted with these.
const PSEUDO: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC).union(MountFlags::NODEV);

/// What the kernel does with BPF programs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bpf {
    Compiled,
    Interpreted,
    /// One of both, and it cannot be changed.
    Fixed,
}

/// The pod's mounts.
pub(crate) struct Pod {
    /// Errors of [`Pod::prepare`], kept until there is a plan whose start they can fail.
    prepared: Result<(), StartError>,
    /// Where its cgroup tree is mounted.
    cgroup: &'static str,
    /// Where device nodes are made that containers bind.
    device_nodes: &'static str,
    /// Where the share is mounted.
    share: &'static str,
    bpf: Bpf,
    proc: bool,
    sys: bool,
    dev: bool,
}

impl Pod {
    /// Makes the mounts that every pod needs.
    pub(crate) fn prepare() -> Self {
        let prepared = own_root().map_err(|error| failed("pod", "move the root", error)).and_then(|()| {
            mount("cgroup2", CGROUP, "cgroup2", PSEUDO, c"nsdelegate,memory_recursiveprot")
                .map_err(|error| failed("pod", "mount cgroup2", error))?;
            mount(SHARE_TAG, SHARE, "virtiofs", MountFlags::empty(), None::<&CStr>)
                .map_err(|error| failed("root.path", "mount the share of the host", error))
        });
        Self {
            prepared,
            cgroup: CGROUP,
            device_nodes: DEVICE_NODES,
            share: SHARE,
            bpf: Bpf::Compiled,
            proc: false,
            sys: false,
            dev: false,
        }
    }

    /// Whether everything that every pod needs is there.
    pub(crate) fn is_prepared(&self) -> Result<(), StartError> {
        self.prepared.clone()
    }

    /// The directory of the share that has a container's files.
    pub(crate) fn share_of(&self, container: ProcessId) -> String {
        format!("{}/{}", self.share, container.0)
    }

    /// Writes what is still in memory to the host: changes of mapped files. The pod may be off before the kernel
    /// would.
    pub(crate) fn sync_share(&self) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if let Ok(share) = openat(CWD, self.share, flags, Mode::empty()) {
            let _ = rustix::fs::syncfs(&share);
        }
    }

    /// The root of the pod's cgroup tree.
    pub(crate) fn cgroup_root(&self) -> io::Result<OwnedFd> {
        directory(self.cgroup)
    }

    /// A pod that is this machine, for tests.
    #[cfg(test)]
    pub(crate) fn this_machine(cgroup: &'static str, share: &'static str, nodes: &'static str) -> Self {
        Self {
            prepared: Ok(()),
            cgroup,
            device_nodes: nodes,
            share,
            bpf: Bpf::Fixed,
            proc: true,
            sys: true,
            dev: true,
        }
    }

    /// The path of a cgroup.
    pub(crate) fn cgroup_path(&self, name: &str) -> String {
        format!("{}/{name}", self.cgroup)
    }

    /// A directory for device nodes, which may have to be made.
    pub(crate) fn device_nodes(&self) -> &'static str {
        self.device_nodes
    }

    /// Mounts /proc if it is not.
    pub(crate) fn need_proc(&mut self) -> io::Result<()> {
        if !self.proc {
            mount("proc", "/proc", "proc", PSEUDO, None::<&CStr>)?;
            self.proc = true;
        }
        Ok(())
    }

    /// Has BPF programs interpreted from now on. The first that is compiled costs the kernel 2 MiB of memory with
    /// the protection of each page changed, seconds where guest kernels are slow; a container's programs are
    /// short, and run when a device is opened or, for system calls that depend on arguments, rarely.
    pub(crate) fn interpret_bpf(&mut self) {
        if self.bpf == Bpf::Compiled && self.need_proc().is_ok() {
            // A kernel without the switch has no compiler, or one that cannot be turned off.
            let switched = std::fs::write(BPF_JIT_ENABLE, "0").is_ok();
            self.bpf = if switched { Bpf::Interpreted } else { Bpf::Fixed };
        }
    }

    /// What the kernel does with BPF programs is as a container has set it: it stays.
    pub(crate) fn leave_bpf(&mut self) {
        self.bpf = Bpf::Fixed;
    }

    /// Has BPF programs compiled again: those of the container itself may be long and busy.
    pub(crate) fn compile_bpf(&mut self) {
        if self.bpf == Bpf::Interpreted {
            let _ = std::fs::write(BPF_JIT_ENABLE, "1");
            self.bpf = Bpf::Compiled;
        }
    }

    /// Mounts what `path`, a path of the pod that a container asks for, is on.
    pub(crate) fn need_path(&mut self, path: &str) -> io::Result<()> {
        match path.split('/').nth(1) {
            Some("proc") => self.need_proc(),
            Some("sys") if !self.sys => {
                mount("sysfs", "/sys", "sysfs", PSEUDO, None::<&CStr>)?;
                mount("cgroup2", "/sys/fs/cgroup", "cgroup2", PSEUDO, None::<&CStr>)?;
                self.sys = true;
                Ok(())
            }
            Some("dev") if !self.dev => {
                mount("devtmpfs", "/dev", "devtmpfs", MountFlags::NOSUID, c"mode=755")?;
                self.dev = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The value of `name` in a file of `name value` lines; 0 if it is not there.
pub(crate) fn counter(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

/// Puts a second mount of the root file system over the first and makes it the root. pivot_root(2) refuses to
/// leave the kernel's first mount, because that one has no parent; containers would have to chroot.
fn own_root() -> io::Result<()> {
    mount_bind("/", OWN_ROOT)?;
    rustix::process::chdir(OWN_ROOT)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")
}

/// Detaches the mount at the working directory.
pub(crate) fn detach_here() -> io::Result<()> {
    unmount(".", UnmountFlags::DETACH)
}

/// A directory that is only used to name others.
fn directory(path: &str) -> io::Result<OwnedFd> {
    openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_by_its_whole_name() {
        let text = "low 0\noom 3\noom_kill 2\noom_group_kill 9\n";
        assert_eq!(counter(text, "oom_kill"), 2);
        assert_eq!(counter(text, "oom_kil"), 0);
        assert_eq!(counter("", "oom_kill"), 0);
    }
}
