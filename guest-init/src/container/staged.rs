//! The file systems of the standard container ([`crx_proto::standard`]), made before it is known which container comes: the
//! trees of /proc, /dev and /sys, each with what is mounted, made and masked in it, detached from every root. A
//! container that asks for a tree, and perhaps for more, has it attached to its own root.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use crx_proto::{Mount, Plan, StartError, standard};
use rustix::fs::Mode;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::umask;

use super::rootfs::{Root, attach_over, clone_tree};
use super::{devices, masks, mounts};
use crate::failure::failed;

/// Where the trees are made: a directory of the initial file system.
const PLACE: &str = "/mnt";

/// The roots of the trees.
const TREES: [&str; 3] = ["/proc", "/dev", "/sys"];

/// All trees.
pub(crate) struct Staged {
    standard: Plan,
    /// Paths to be masked or made read-only that are not there.
    absent: Vec<String>,
    trees: Vec<(&'static str, OwnedFd)>,
}

/// The trees that a container gets.
pub(crate) struct Fitting<'s> {
    staged: &'s Staged,
    trees: Vec<&'s (&'static str, OwnedFd)>,
}

impl Staged {
    /// Makes the trees. This process is in the namespaces of the container to come.
    pub(crate) fn make() -> Result<Self, StartError> {
        let fail = |action| move |error| failed("pod", action, error);
        let standard = standard();
        // Modes of what is made are meant as they are given.
        umask(Mode::empty());
        mount("crx", PLACE, "tmpfs", MountFlags::empty(), None::<&CStr>).map_err(fail("stage a root"))?;
        let root = Root::at(PLACE).map_err(fail("open the staged root"))?;
        let context = mounts::Context { root: &root, share: "", cgroup: None, fitting: None };
        mounts::make_all(&context, &standard)?;
        devices::make_all(&root, &standard, None)?;
        let paths = standard.readonly_paths.iter().chain(&standard.masked_paths);
        let absent = paths.filter(|path| root.find(path).is_err()).cloned().collect();
        masks::make_read_only(&root, &standard.readonly_paths, |_| false)?;
        masks::mask(&root, &standard.masked_paths, |_| false)?;
        let trees = TREES.map(|tree| clone_tree(&format!("{PLACE}{tree}"), true).map(|fd| (tree, fd)));
        let trees = trees.into_iter().collect::<Result<_, _>>().map_err(fail("detach a staged tree"))?;
        unmount(PLACE, UnmountFlags::DETACH).map_err(fail("leave the staged root"))?;
        Ok(Self { standard, absent, trees })
    }

    /// The trees for a container: those of which it asks for everything.
    pub(crate) fn fitting(&self, plan: &Plan) -> Fitting<'_> {
        let fits = |tree: &&str| {
            let mounts = self.standard.mounts.iter().filter(|mount| is_below(&mount.destination, tree));
            let devices = self.standard.devices.iter().filter(|device| is_below(&device.path, tree));
            let mut masked = self.masked().filter(|path| is_below(path, tree));
            let mut read_only = self.read_only().filter(|path| is_below(path, tree));
            mounts.clone().all(|mount| plan.mounts.iter().any(|wanted| is_same(wanted, mount)))
                && mounts.clone().all(|mount| is_once(&plan.mounts, &mount.destination))
                && devices.clone().all(|device| plan.devices.contains(device))
                && masked.all(|path| plan.masked_paths.contains(path))
                && read_only.all(|path| plan.readonly_paths.contains(path))
        };
        let trees = self.trees.iter().filter(|(tree, _)| fits(tree));
        Fitting { staged: self, trees: trees.collect() }
    }

    fn masked(&self) -> impl Iterator<Item = &String> {
        self.standard.masked_paths.iter().filter(|path| !self.absent.contains(path))
    }

    fn read_only(&self) -> impl Iterator<Item = &String> {
        self.standard.readonly_paths.iter().filter(|path| !self.absent.contains(path))
    }
}

impl Fitting<'_> {
    /// Attaches the tree whose root the mount is; `true` if the mount is there then, of this tree or of one before.
    pub(crate) fn attach(&self, root: &Root, mount: &Mount) -> Result<bool, StartError> {
        let Some((tree, fd)) = self.tree_of(&mount.destination) else { return Ok(false) };
        if !self.staged.standard.mounts.iter().any(|standard| is_same(mount, standard)) {
            return Ok(false);
        }
        if mount.destination == *tree {
            root.directory(tree).and_then(|target| attach_over(fd, &target)).map_err(|error| {
                let field = format_args!("mounts[{}] ({tree})", mount.index);
                failed(field, "attach the staged tree", error)
            })?;
        }
        Ok(true)
    }

    /// Every device of the plan, and the links beside them, are there.
    pub(crate) fn has_devices(&self, plan: &Plan) -> bool {
        self.tree_of("/dev").is_some() && self.staged.standard.devices == plan.devices
    }

    /// The path is masked, or is known not to be there.
    pub(crate) fn is_masked(&self, path: &str) -> bool {
        self.tree_of(path).is_some() && self.staged.standard.masked_paths.iter().any(|masked| masked == path)
    }

    /// The path is read-only, or is known not to be there.
    pub(crate) fn is_read_only(&self, path: &str) -> bool {
        self.tree_of(path).is_some() && self.staged.standard.readonly_paths.iter().any(|other| other == path)
    }

    fn tree_of(&self, path: &str) -> Option<&(&'static str, OwnedFd)> {
        self.trees.iter().find(|(tree, _)| is_below(path, tree)).copied()
    }
}

/// The path is `tree` or below it.
fn is_below(path: &str, tree: &str) -> bool {
    path.strip_prefix(tree).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The same mount, wherever it stands in config.json.
fn is_same(left: &Mount, right: &Mount) -> bool {
    Mount { index: right.index, ..left.clone() } == *right
}

/// Nothing else is mounted there, or above the trees.
fn is_once(mounts: &[Mount], destination: &str) -> bool {
    let at = mounts.iter().filter(|mount| mount.destination == destination || mount.destination == "/");
    at.count() == 1
}

#[cfg(test)]
mod tests {
    use crx_proto::{Device, MountKind};

    use super::*;

    /// Trees that are only looked at.
    fn staged(absent: &[&str]) -> Staged {
        let file = || std::fs::File::open("/").unwrap().into();
        Staged {
            standard: standard(),
            absent: absent.iter().map(|path| (*path).to_owned()).collect(),
            trees: TREES.map(|tree| (tree, file())).into(),
        }
    }

    fn trees(staged: &Staged, plan: &Plan) -> Vec<&'static str> {
        staged.fitting(plan).trees.iter().map(|(tree, _)| *tree).collect()
    }

    #[test]
    fn the_standard_container_gets_every_tree_also_in_another_order_and_with_more() {
        let staged = staged(&[]);
        let mut plan = standard();
        assert_eq!(trees(&staged, &plan), TREES);
        plan.mounts.swap(3, 4);
        let mut more = plan.mounts[3].clone();
        more.destination = "/dev/more".to_owned();
        plan.mounts.push(more);
        plan.masked_paths.push("/proc/more".to_owned());
        plan.devices.push(Device { path: "/dev/fuse".to_owned(), ..plan.devices[0].clone() });
        assert_eq!(trees(&staged, &plan), TREES);
        let fitting = staged.fitting(&plan);
        assert!(!fitting.has_devices(&plan), "one more is to be made");
        assert!(fitting.is_masked("/proc/kcore") && !fitting.is_masked("/proc/more"));
        assert!(fitting.is_read_only("/proc/sys") && !fitting.is_read_only("/proc/kcore"));
    }

    #[test]
    fn what_is_asked_for_in_another_way_is_not_taken_from_the_stage() {
        let staged = staged(&[]);
        let without = |change: &dyn Fn(&mut Plan)| {
            let mut plan = standard();
            change(&mut plan);
            trees(&staged, &plan)
        };
        assert_eq!(without(&|plan| plan.mounts[0].flags = 1), ["/dev", "/sys"]);
        assert_eq!(without(&|plan| drop(plan.masked_paths.remove(2))), ["/dev", "/sys"]);
        assert_eq!(without(&|plan| drop(plan.readonly_paths.remove(3))), ["/dev", "/sys"]);
        assert_eq!(without(&|plan| drop(plan.mounts.remove(2))), ["/proc", "/sys"]);
        assert_eq!(without(&|plan| plan.devices[1].mode = 0o600), ["/proc", "/sys"]);
        assert_eq!(
            without(&|plan| plan.mounts[6].kind =
                MountKind::Bind { source: crx_proto::BindSource::Volume(0), recursive: true }),
            ["/proc", "/dev"]
        );
        let twice = |plan: &mut Plan| plan.mounts.push(Mount { flags: 7, ..plan.mounts[5].clone() });
        assert_eq!(without(&twice), ["/proc", "/dev"]);
        let above = |plan: &mut Plan| {
            plan.mounts.insert(0, Mount { destination: "/".to_owned(), ..plan.mounts[5].clone() })
        };
        assert!(without(&above).is_empty());
    }

    #[test]
    fn a_mask_of_what_is_not_there_need_not_be_asked_for() {
        let mut plan = standard();
        plan.masked_paths.retain(|path| path != "/proc/acpi");
        assert_eq!(trees(&staged(&[]), &plan), ["/dev", "/sys"]);
        assert_eq!(trees(&staged(&["/proc/acpi"]), &plan), TREES);
    }
}
