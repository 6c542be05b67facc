//! A container's cgroup: the directory, its limits, its device program, its processes, and its end. Only the
//! controllers that a limit or a question needs are enabled, since each costs at every fork and page.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crx_proto::{Cgroup as Limits, IdMapping, Mount, MountKind, Namespace, NamespaceKind, Plan, StartError};
use rustix::fs::{AtFlags, Mode, OFlags, Uid, chownat, mkdirat, openat};
use rustix::io::{self, Errno};

use super::device_program;
use super::limits::{Setting, controllers, settings};
use crate::failure::{failed, refused};
use crate::mounts::{Pod, counter};
use crate::sys;

/// Most bytes read of a control file.
const MAX_FILE_BYTES: usize = 4 << 10;
/// Most instructions of a device program (BPF_MAXINSNS of linux/bpf_common.h).
const MAX_DEVICE_INSTRUCTIONS: usize = 4096;
/// Most cgroups below a container's that are looked into.
const MAX_CGROUPS: usize = 4096;

/// What a cgroup's owner may write, besides the directory (our kernel's /sys/kernel/cgroup/delegate).
const DELEGATED: [&str; 5] =
    ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads", "memory.oom.group", "memory.reclaim"];

/// The cgroup of a container.
pub(crate) struct Cgroup {
    directory: OwnedFd,
    /// Its path in the pod.
    path: String,
    device_program: Option<OwnedFd>,
    /// Its memory is accounted.
    has_memory: bool,
    /// `cgroup.events`, once somebody waits for one.
    events: Option<OwnedFd>,
    /// `memory.events`, once watched, and the processes ended for lack of memory so far.
    memory_events: Option<(OwnedFd, u64)>,
}

impl Cgroup {
    /// Makes the cgroup and sets its limits.
    pub(crate) fn create(name: &str, limits: &Limits, pod: &Pod) -> Result<Self, StartError> {
        let settings = settings(limits);
        let controllers = controllers(&settings);
        let root =
            pod.cgroup_root().map_err(|error| failed("linux.resources", "open the cgroup tree", error))?;
        enable(root.as_fd(), &controllers)?;
        let fail = |error| failed("linux.cgroupsPath", format_args!("make the cgroup {name}"), error);
        mkdirat(&root, name, Mode::from_raw_mode(0o755)).map_err(fail)?;
        let mut cgroup = Self {
            directory: open_directory(root.as_fd(), name).map_err(fail)?,
            path: pod.cgroup_path(name),
            device_program: None,
            has_memory: controllers.contains("+memory"),
            events: None,
            memory_events: None,
        };
        let limited = || {
            settings.iter().try_for_each(|setting| set(cgroup.as_fd(), setting))?;
            load_device_program(limits)
        };
        match limited() {
            Ok(program) => {
                cgroup.device_program = program;
                Ok(cgroup)
            }
            Err(error) => {
                let _ = cgroup.remove();
                Err(error)
            }
        }
    }

    /// Gives the cgroup to the process's user, if the plan is of the kind for which the specification asks that.
    pub(crate) fn delegate(&self, plan: &Plan) -> Result<(), StartError> {
        delegate(plan, &self.directory)
            .map_err(|error| failed("linux.cgroupsPath", "give it to its user", error))
            .inspect_err(|_| drop(self.remove()))
    }

    /// Makes a cgroup that was created with `before` a plan's.
    pub(crate) fn limit(&mut self, plan: &Plan, before: &Limits, pod: &Pod) -> Result<(), StartError> {
        if plan.cgroup != *before {
            self.update(&plan.cgroup, pod)?;
        }
        if plan.cgroup.devices != before.devices {
            self.device_program = load_device_program(&plan.cgroup)?;
        }
        self.delegate(plan)
    }

    /// Its device program, if it has one that is yet to decide.
    pub(crate) fn device_program(&self) -> Option<BorrowedFd<'_>> {
        self.device_program.as_ref().map(AsFd::as_fd)
    }

    /// The cgroup as its first process, which is told its device program, sees it.
    pub(crate) fn with_program(&self, program: Option<OwnedFd>) -> io::Result<Self> {
        Ok(Self {
            directory: self.directory.try_clone().map_err(|_| Errno::MFILE)?,
            path: self.path.clone(),
            device_program: program,
            has_memory: self.has_memory,
            events: None,
            memory_events: None,
        })
    }

    /// Its path in the pod.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Lets the device program decide from now on. Called by the container's process, once its devices are made.
    pub(crate) fn restrict_devices(&self) -> Result<(), StartError> {
        let Some(program) = &self.device_program else { return Ok(()) };
        // BPF_PROG_ATTACH wants the directory opened for reading, not only named.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(&self.directory, ".", flags, Mode::empty())
            .map_err(Into::into)
            .and_then(|cgroup| sys::attach_device_program(cgroup.as_fd(), program.as_fd()))
            .map_err(|error| failed("linux.resources.devices", "attach the device program", error))
    }

    /// The descriptors that [`Cgroup::restrict_devices`] uses.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(&self.directory), self.device_program.as_ref()].into_iter().flatten().map(AsFd::as_fd)
    }

    /// Changes the limits that `limits` sets. Its device rules are not looked at, as runc's update does not.
    pub(crate) fn update(&mut self, limits: &Limits, pod: &Pod) -> Result<(), StartError> {
        let settings = settings(limits);
        let controllers = controllers(&settings);
        let root =
            pod.cgroup_root().map_err(|error| failed("linux.resources", "open the cgroup tree", error))?;
        enable(root.as_fd(), &controllers)?;
        self.has_memory |= controllers.contains("+memory");
        if let Some(max) = limits.memory.max {
            let used = self.read("memory.current").ok().and_then(|text| text.trim().parse::<u64>().ok());
            // The kernel would end processes until the rest fits.
            if let Some(used) = used.filter(|used| *used > max) {
                let what = format_args!("{max} bytes are less than the {used} in use");
                return Err(refused("linux.resources.memory.limit", what));
            }
        }
        settings.iter().try_for_each(|setting| set(self.as_fd(), setting))
    }

    /// Enables those of `controllers` (`memory`, `pids`, ...) that the kernel has and that are not enabled yet.
    pub(crate) fn account(&mut self, controllers: &[&str], pod: &Pod) -> io::Result<()> {
        let had = self.read("cgroup.controllers")?;
        let missing = |name: &&&str| !had.split_whitespace().any(|enabled| enabled == **name);
        if controllers.iter().any(|name| missing(&name)) {
            let root = pod.cgroup_root()?;
            let available = read_at(root.as_fd(), "cgroup.controllers")?;
            let wanted = controllers.iter().filter(missing);
            let wanted = wanted.filter(|name| available.split_whitespace().any(|there| there == **name));
            for name in wanted {
                write(root.as_fd(), "cgroup.subtree_control", &format!("+{name}"))?;
                self.has_memory |= *name == "memory";
            }
        }
        Ok(())
    }

    /// A cgroup below, made if it is not there; the container's own for an empty path.
    pub(crate) fn below(&self, path: &str) -> Result<OwnedFd, StartError> {
        let fail = |error| failed("cgroup", format_args!("make {path}"), error);
        let mut at = open_directory(self.as_fd(), ".").map_err(fail)?;
        for name in path.split('/').filter(|name| !name.is_empty() && *name != ".") {
            if name == ".." {
                return Err(refused("cgroup", format_args!("{path} is not below the container's")));
            }
            match mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(fail(error)),
            }
            at = open_directory(at.as_fd(), name).map_err(fail)?;
        }
        Ok(at)
    }

    /// Ends every process in the cgroup. Frozen ones end too.
    pub(crate) fn kill(&self) -> io::Result<()> {
        write(self.as_fd(), "cgroup.kill", "1")
    }

    /// Sends a signal to every process in the cgroup and below.
    pub(crate) fn signal(&self, signal: u8) -> std::io::Result<()> {
        if i32::from(signal) == libc::SIGKILL {
            return Ok(self.kill()?);
        }
        for pid in self.members()? {
            // One that has ended meanwhile needs no signal.
            let _ = sys::kill(pid, signal);
        }
        Ok(())
    }

    /// The processes in the cgroup and below.
    pub(crate) fn members(&self) -> std::io::Result<Vec<u32>> {
        let mut members = Vec::new();
        for directory in directories(&self.path)? {
            match std::fs::read_to_string(Path::new(&directory).join("cgroup.procs")) {
                Ok(text) => members.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
                // A cgroup that was removed meanwhile, or a threaded one, whose processes are above.
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP)
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(members)
    }

    /// Stops every process, or lets them go on. That all have stopped is told by [`Cgroup::is_frozen`].
    pub(crate) fn freeze(&self, frozen: bool) -> io::Result<()> {
        write(self.as_fd(), "cgroup.freeze", if frozen { "1" } else { "0" })
    }

    /// `cgroup.events`, if somebody has asked for one. It polls with an exceptional condition when it changes.
    pub(crate) fn events(&self) -> Option<BorrowedFd<'_>> {
        self.events.as_ref().map(AsFd::as_fd)
    }

    /// A process is left. From now on [`Cgroup::events`] tells of changes.
    pub(crate) fn is_populated(&mut self) -> bool {
        self.event("populated")
    }

    /// Every process has stopped. From now on [`Cgroup::events`] tells of changes.
    pub(crate) fn is_frozen(&mut self) -> bool {
        self.event("frozen")
    }

    fn event(&mut self, name: &str) -> bool {
        if self.events.is_none() {
            self.events = open(self.as_fd(), "cgroup.events").ok();
        }
        let text = self.events.as_ref().and_then(|file| read_again(file).ok());
        text.is_some_and(|text| counter(&text, name) > 0)
    }

    /// `memory.events`, if it is watched. It polls with an exceptional condition when it changes.
    pub(crate) fn memory_events(&self) -> Option<BorrowedFd<'_>> {
        self.memory_events.as_ref().map(|(file, _)| file.as_fd())
    }

    /// The kernel has ended a process for lack of memory since the last call. If memory is accounted,
    /// [`Cgroup::memory_events`] tells when to ask again.
    pub(crate) fn lost_a_process(&mut self) -> bool {
        if !self.has_memory {
            return false;
        }
        if self.memory_events.is_none() {
            self.memory_events = open(self.as_fd(), "memory.events").ok().map(|file| (file, 0));
        }
        let Some((file, before)) = &mut self.memory_events else { return false };
        let now = read_again(file).map_or(*before, |text| counter(&text, "oom_kill"));
        std::mem::replace(before, now) < now
    }

    /// Processes that the kernel has ended here for lack of memory, as far as that is accounted.
    pub(crate) fn lost_processes(&self) -> u64 {
        if !self.has_memory {
            return 0;
        }
        self.read("memory.events").map_or(0, |text| counter(&text, "oom_kill"))
    }

    /// The kernel ended a process for lack of memory: one of this cgroup since there were `before`
    /// [`Cgroup::lost_processes`], or, if nothing is accounted here, the one with this ID.
    pub(crate) fn ran_out_of_memory(&self, pid: u32, before: u64) -> bool {
        if self.has_memory {
            return self.lost_processes() > before;
        }
        says_killed(&sys::kernel_log_tail(), pid)
    }

    /// Reads a file of the cgroup, a few lines of text.
    pub(crate) fn read(&self, file: &str) -> io::Result<String> {
        read_at(self.as_fd(), file)
    }

    /// Removes the cgroup and those that were made below it. No process is left in them.
    pub(crate) fn remove(&self) -> std::io::Result<()> {
        remove(&self.path)
    }
}

/// Removes a cgroup and those below it.
pub(super) fn remove(path: &str) -> std::io::Result<()> {
    if std::fs::remove_dir(path).is_ok() {
        return Ok(());
    }
    directories(path)?.iter().rev().try_for_each(std::fs::remove_dir)
}

/// Gives the cgroup to the process's user if it is the root of the container's tree and that can be written, as
/// the runtime specification asks ("Cgroup ownership"): a program that manages cgroups may then do so without being root,
/// or as root of a user namespace.
fn delegate(plan: &Plan, directory: &OwnedFd) -> io::Result<()> {
    let is_new = |namespace: &Namespace| namespace.kind == NamespaceKind::Cgroup && namespace.path.is_none();
    let is_writable = |mount: &Mount| {
        mount.kind == MountKind::Cgroup
            && mount.destination == "/sys/fs/cgroup"
            && mount.flags & libc::MS_RDONLY == 0
    };
    let uid = match &plan.user_mappings {
        None => Some(plan.process.uid),
        Some(mappings) => IdMapping::find(&mappings.uids, plan.process.uid),
    };
    let owner = uid.filter(|uid| *uid != 0).map(Uid::from_raw);
    if owner.is_none() || !plan.namespaces.iter().any(is_new) || !plan.mounts.iter().any(is_writable) {
        return Ok(());
    }
    for name in DELEGATED {
        match chownat(directory, name, owner, None, AtFlags::SYMLINK_NOFOLLOW) {
            // Not every controller is enabled.
            Err(Errno::NOENT) => {}
            result => result?,
        }
    }
    chownat(directory, "", owner, None, AtFlags::EMPTY_PATH)
}

/// The kernel's log tells that it ended this process for lack of memory (mm/oom_kill.c, __oom_kill_process).
fn says_killed(log: &[u8], pid: u32) -> bool {
    let words = format!("ut of memory: Killed process {pid} ");
    log.windows(words.len()).any(|window| window == words.as_bytes())
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// A directory and those below it, each before what is in it.
fn directories(path: &str) -> std::io::Result<Vec<std::path::PathBuf>> {
    let mut found = vec![std::path::PathBuf::from(path)];
    let mut next = 0;
    while next < found.len() && found.len() < MAX_CGROUPS {
        let entries = match std::fs::read_dir(&found[next]) {
            Err(error) if next > 0 && error.kind() == std::io::ErrorKind::NotFound => None,
            entries => Some(entries?),
        };
        for entry in entries.into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.push(entry.path());
            }
        }
        next += 1;
    }
    Ok(found)
}

/// Enables controllers (`+memory +pids`) for the containers.
fn enable(root: BorrowedFd<'_>, controllers: &str) -> Result<(), StartError> {
    if controllers.is_empty() {
        return Ok(());
    }
    write(root, "cgroup.subtree_control", controllers)
        .map_err(|error| failed("linux.resources", format_args!("enable \"{controllers}\""), error))
}

fn load_device_program(limits: &Limits) -> Result<Option<OwnedFd>, StartError> {
    let field = "linux.resources.devices";
    if limits.devices.is_empty() {
        return Ok(None);
    }
    let Some(program) = device_program::build(&limits.devices) else { return Ok(None) };
    if program.len() > MAX_DEVICE_INSTRUCTIONS {
        return Err(refused(field, "there are too many rules"));
    }
    sys::load_device_program(&program)
        .map(Some)
        .map_err(|error| failed(field, "load the device program", error))
}

/// Writes one limit.
fn set(directory: BorrowedFd<'_>, setting: &Setting) -> Result<(), StartError> {
    let result = match write(directory, &setting.file, &setting.value) {
        // A kernel without swap has no such file, and nothing to limit.
        Err(Errno::NOENT) if setting.file == "memory.swap.max" => Ok(()),
        Err(Errno::NOENT) if setting.file == "io.weight" => write(directory, "io.bfq.weight", &setting.value),
        result => result,
    };
    let action = || format!("write \"{}\" to {}", setting.value, setting.file);
    result.map_err(|error| failed(format_args!("linux.resources.{}", setting.field), action(), error))
}

fn open_directory(at: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    openat(at, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn open(directory: BorrowedFd<'_>, file: &str) -> io::Result<OwnedFd> {
    openat(directory, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

fn write(directory: BorrowedFd<'_>, file: &str, value: &str) -> io::Result<()> {
    let file = openat(directory, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, value.as_bytes()).map(drop)
}

fn read_at(directory: BorrowedFd<'_>, file: &str) -> io::Result<String> {
    read_again(&open(directory, file)?)
}

/// Reads a control file from its start.
fn read_again(file: &OwnedFd) -> io::Result<String> {
    let mut buffer = [0; MAX_FILE_BYTES];
    let got = rustix::io::pread(file, &mut buffer, 0)?;
    Ok(String::from_utf8_lossy(&buffer[..got]).into_owned())
}

#[cfg(test)]
mod tests {
    use rustix::fs::CWD;

    use super::*;

    #[test]
    fn the_kernel_s_words_about_a_killed_process_are_known() {
        assert!(says_killed(b"<3>[ 1.2] Out of memory: Killed process 7 (tail)", 7));
        assert!(says_killed(b"Memory cgroup out of memory: Killed process 7 (tail)", 7));
        assert!(!says_killed(b"Out of memory: Killed process 71 (tail)", 7));
        assert!(!says_killed(b"out of luck", 7));
    }

    #[test]
    fn memory_ran_out_only_if_a_process_was_lost_since() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        std::fs::write(directory.path().join("memory.events"), "oom 5\noom_kill 2\n").unwrap();
        let mut cgroup = Cgroup {
            directory: open_directory(CWD, path).unwrap(),
            path: path.to_owned(),
            device_program: None,
            has_memory: true,
            events: None,
            memory_events: None,
        };
        assert_eq!(cgroup.lost_processes(), 2);
        assert!(cgroup.ran_out_of_memory(u32::MAX, 0) && cgroup.ran_out_of_memory(u32::MAX, 1));
        assert!(!cgroup.ran_out_of_memory(u32::MAX, 2), "those were others");
        cgroup.has_memory = false;
        assert_eq!(cgroup.lost_processes(), 0);
    }
}
