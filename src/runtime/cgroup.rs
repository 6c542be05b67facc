//! Cgroups of the host: the process of a pod lives where `linux.cgroupsPath` says, so that the host's accounting has
//! it. The container's limits are the guest kernel's; here nothing is limited.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, bail};

use super::log;

/// How long the end of a process may take to reach its cgroup.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether a cgroup that may not be made is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Rootless {
    /// If the user is not root.
    Auto,
    /// Always.
    True,
    /// Never.
    False,
}

/// How the cgroups of the host are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// As scopes of systemd.
    pub(crate) systemd: bool,
    /// One that may not be made is left out.
    pub(crate) leave_out_forbidden: bool,
}

impl Manner {
    /// What the command line says; to be asked before the process is root of a namespace of its own.
    pub(crate) fn new(systemd: bool, rootless: Rootless) -> Self {
        let leave_out_forbidden = match rootless {
            Rootless::Auto => !rustix::process::geteuid().is_root(),
            Rootless::True => true,
            Rootless::False => false,
        };
        Self { systemd, leave_out_forbidden }
    }
}

/// A mounted cgroup hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    mount_point: PathBuf,
    /// It is cgroup v2.
    unified: bool,
    /// Mount options of cgroup v1: its controllers.
    options: String,
}

/// The cgroup directories for a path of config.json: one on a host with cgroup v2, one per hierarchy with v1.
///
/// # Errors
/// The path is not one of the cgroup file system.
pub(crate) fn directories(cgroups_path: &str, manner: Manner) -> anyhow::Result<Vec<PathBuf>> {
    if manner.systemd && !cgroups_path.contains(':') {
        bail!("linux.cgroupsPath: --systemd-cgroup needs \"slice:prefix:name\", found {cgroups_path:?}");
    }
    if cgroups_path.contains(':') {
        bail!(
            "linux.cgroupsPath: {cgroups_path:?} is a scope of systemd; only paths of the cgroup file system are \
             supported (podman: --cgroup-manager=cgroupfs; kubelet: cgroupDriver: cgroupfs)"
        );
    }
    let path = Path::new(cgroups_path);
    if path.components().any(|component| component == std::path::Component::ParentDir) {
        bail!("linux.cgroupsPath: {cgroups_path:?} has a \"..\"");
    }
    let path = path.strip_prefix("/").unwrap_or(path);
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").context("cannot read the host's mounts")?;
    let hierarchies = hierarchies(&mountinfo);
    let v1_is_used = hierarchies.iter().any(|hierarchy| !hierarchy.unified);
    Ok(hierarchies
        .iter()
        // Beside v1, v2 has no controllers; and a new cpuset of v1 takes nobody in before it has processors.
        .filter(|hierarchy| hierarchy.unified != v1_is_used && !has_option(&hierarchy.options, "cpuset"))
        .map(|hierarchy| hierarchy.mount_point.join(path))
        .collect())
}

/// Makes cgroups and puts a process into them.
///
/// # Errors
/// The system refuses; those that were made are gone again.
pub(crate) fn enter(directories: &[PathBuf], pid: u32, manner: Manner) -> anyhow::Result<()> {
    let enter = |directory: &PathBuf| {
        fs::create_dir_all(directory)?;
        fs::write(directory.join("cgroup.procs"), pid.to_string())
    };
    for directory in directories {
        if let Err(error) = enter(directory) {
            if manner.leave_out_forbidden && is_forbidden(&error) {
                log::debug(&format!("left out the cgroup {}: {error}", directory.display()));
                continue;
            }
            remove(directories);
            return Err(error).with_context(|| {
                format!("linux.cgroupsPath: cannot use the cgroup {}", directory.display())
            });
        }
    }
    Ok(())
}

/// This user may not, or nobody may.
fn is_forbidden(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)
}

/// Removes cgroups whose processes have ended. One that others use, or that is not there, stays as it is.
pub(crate) fn remove(directories: &[PathBuf]) {
    let deadline = Instant::now() + PATIENCE;
    for directory in directories {
        // A process leaves its cgroup last of all, after its locks and sockets.
        while fs::remove_dir(directory).is_err_and(|error| error.kind() == ErrorKind::ResourceBusy)
            && Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The cgroup hierarchies of /proc/self/mountinfo (proc(5)).
fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let hierarchy = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mount_point = PathBuf::from(mount.split(' ').nth(4)?);
        let mut words = file_system.split(' ');
        let (kind, options) = (words.next()?, words.nth(1).unwrap_or_default());
        let unified = kind == "cgroup2";
        (unified || kind == "cgroup").then(|| Hierarchy { mount_point, unified, options: options.to_owned() })
    };
    mountinfo.lines().filter_map(hierarchy).collect()
}

fn has_option(options: &str, name: &str) -> bool {
    options.split(',').any(|option| option == name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn hierarchies_are_found_among_the_mounts() {
        let mountinfo = "24 1 0:22 / /proc rw,relatime shared:5 - proc proc rw\n\
                         30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n\
                         31 24 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n";
        let found = hierarchies(mountinfo);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].mount_point, Path::new("/sys/fs/cgroup"));
        assert!(found[0].unified && !found[1].unified);
        assert!(has_option(&found[1].options, "cpuacct") && !has_option(&found[1].options, "cpuset"));
    }

    #[test]
    fn paths_that_are_none_are_refused() {
        let refused = |path, systemd| {
            let manner = Manner { systemd, leave_out_forbidden: false };
            let error = directories(path, manner).unwrap_err().to_string();
            assert!(error.starts_with("linux.cgroupsPath: "), "{error}");
            error
        };
        refused("/a/../../b", false);
        refused("system.slice:crx:x", false);
        assert!(refused("system.slice:crx:x", true).contains("cgroupfs"));
        assert!(refused("/machine/x", true).contains("--systemd-cgroup"));
    }

    #[test]
    fn a_cgroup_that_may_not_be_made_is_left_out_where_the_caller_says_so() {
        // Where not even root may make a directory, and where nobody can.
        let (forbidden, impossible) = ("/sys/kernel/crx", "/dev/null/crx");
        let made = |path, rootless| enter(&[PathBuf::from(path)], 1, Manner::new(false, rootless));
        made(forbidden, Rootless::True).unwrap();
        let error = made(forbidden, Rootless::False).unwrap_err().to_string();
        assert_eq!(error, "linux.cgroupsPath: cannot use the cgroup /sys/kernel/crx");
        made(impossible, Rootless::True).unwrap_err();
    }
}
