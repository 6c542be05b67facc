//! Cgroups of the host: the process of a pod lives where `linux.cgroupsPath` says, so that the host's accounting has
//! it. The container's limits are the guest kernel's; here nothing is limited.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, bail};

/// How long the end of a process may take to reach its cgroup.
const PATIENCE: Duration = Duration::from_secs(2);

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
pub(crate) fn directories(cgroups_path: &str) -> anyhow::Result<Vec<PathBuf>> {
    if cgroups_path.contains(':') {
        bail!(
            "linux.cgroupsPath: {cgroups_path:?} is a systemd slice; only paths of the cgroup file system are \
             supported (podman: --cgroup-manager=cgroupfs)"
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
pub(crate) fn enter(directories: &[PathBuf], pid: u32) -> anyhow::Result<()> {
    let enter = |directory: &PathBuf| {
        fs::create_dir_all(directory)?;
        fs::write(directory.join("cgroup.procs"), pid.to_string())
    };
    for directory in directories {
        if let Err(error) = enter(directory) {
            remove(directories);
            return Err(error).with_context(|| {
                format!("linux.cgroupsPath: cannot use the cgroup {}", directory.display())
            });
        }
    }
    Ok(())
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
        for path in ["/a/../../b", "system.slice:crx:x"] {
            let error = directories(path).unwrap_err().to_string();
            assert!(error.starts_with("linux.cgroupsPath: "), "{error}");
        }
    }
}
