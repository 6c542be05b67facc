//! The container's cgroup: the directory, its limits, its device program, and its end. Only the controllers that
//! a limit needs are enabled, since each costs at every fork and page.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crx_proto::{
    Cgroup as Limits, IdMapping, IoDeviceLimit, Mount, MountKind, Namespace, NamespaceKind, Plan, StartError,
};
use rustix::fs::{AtFlags, Mode, OFlags, Uid, chownat, mkdirat, openat};
use rustix::io::{self, Errno};

use super::device_program;
use crate::failure::{failed, refused};
use crate::mounts::counter;
use crate::sys;

/// Most bytes read of a control file.
const MAX_FILE_BYTES: usize = 4 << 10;
/// Most instructions of a device program (BPF_MAXINSNS of linux/bpf_common.h).
const MAX_DEVICE_INSTRUCTIONS: usize = 4096;

/// What a cgroup's owner may write, besides the directory (our kernel's /sys/kernel/cgroup/delegate).
const DELEGATED: [&str; 5] =
    ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads", "memory.oom.group", "memory.reclaim"];

/// The cgroup of a container.
pub(crate) struct Cgroup {
    directory: OwnedFd,
    device_program: Option<OwnedFd>,
    /// Its memory is accounted.
    has_memory: bool,
}

/// A value to be written to a control file.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    /// Below `linux.resources` of config.json.
    field: String,
    file: String,
    value: String,
}

impl Cgroup {
    /// Makes the cgroup below `root` and sets its limits.
    pub(crate) fn create(plan: &Plan, root: &OwnedFd) -> Result<Self, StartError> {
        let settings = settings(&plan.cgroup);
        let controllers = controllers(&settings);
        if !controllers.is_empty() {
            write(root.as_fd(), "cgroup.subtree_control", &controllers).map_err(|error| {
                failed("linux.resources", format_args!("enable \"{controllers}\""), error)
            })?;
        }
        let fail = |error| failed("linux.cgroupsPath", format_args!("make the cgroup {}", plan.id), error);
        mkdirat(root, &*plan.id, Mode::from_raw_mode(0o755)).map_err(fail)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(root, &*plan.id, flags, Mode::empty()).map_err(fail)?;
        for setting in &settings {
            set(directory.as_fd(), setting)?;
        }
        delegate(plan, &directory)
            .map_err(|error| failed("linux.cgroupsPath", "give it to its user", error))?;
        let device_program = load_device_program(&plan.cgroup)?;
        Ok(Self { directory, device_program, has_memory: controllers.contains("+memory") })
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

    /// Ends every process in the cgroup.
    pub(crate) fn kill(&self) -> io::Result<()> {
        write(self.as_fd(), "cgroup.kill", "1")
    }

    /// `cgroup.events`, which polls with an exceptional condition when it changes.
    pub(crate) fn open_events(&self) -> io::Result<OwnedFd> {
        openat(&self.directory, "cgroup.events", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    }

    /// The kernel ended a process for lack of memory: one of this cgroup, or, if nothing is accounted here, one
    /// of the pod.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        let own = || {
            let file =
                openat(&self.directory, "memory.events", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            file.and_then(|file| read(&file)).map_or(0, |text| counter(&text, "oom_kill"))
        };
        (self.has_memory && own() > 0) || says_killed(&sys::kernel_log_tail())
    }
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

/// The kernel's log tells that it ended a process for lack of memory (mm/oom_kill.c, __oom_kill_process).
fn says_killed(log: &[u8]) -> bool {
    const WORDS: &[u8] = b"ut of memory: Killed process";
    log.windows(WORDS.len()).any(|window| window == WORDS)
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// A process is left, as `cgroup.events` says from its start.
pub(crate) fn is_populated(events: &OwnedFd) -> bool {
    let mut buffer = [0; 256];
    let got = rustix::io::pread(events, &mut buffer, 0).unwrap_or(0);
    counter(&String::from_utf8_lossy(&buffer[..got]), "populated") > 0
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

fn write(directory: BorrowedFd<'_>, file: &str, value: &str) -> io::Result<()> {
    let file = openat(directory, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, value.as_bytes()).map(drop)
}

fn read(file: &OwnedFd) -> io::Result<String> {
    let mut buffer = vec![0; MAX_FILE_BYTES];
    let got = rustix::io::read(file, &mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..got]).into_owned())
}

/// `+memory +pids`: the controllers whose files are written.
fn controllers(settings: &[Setting]) -> String {
    let mut names: Vec<&str> = settings
        .iter()
        .filter_map(|setting| setting.file.split('.').next())
        .filter(|name| *name != "cgroup")
        .collect();
    names.sort_unstable();
    names.dedup();
    names.iter().map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ")
}

/// Every file to write, in its order.
fn settings(limits: &Limits) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut add = |field: &str, file: &str, value: Option<String>| {
        if let Some(value) = value {
            settings.push(Setting { field: field.to_owned(), file: file.to_owned(), value });
        }
    };
    let Limits { memory, cpu, pids_max, io, hugetlb, devices: _, unified } = limits;
    add("memory.limit", "memory.max", memory.max.map(or_max));
    add("memory.reservation", "memory.low", memory.low.map(or_max));
    add("memory.swap", "memory.swap.max", memory.swap_max.map(or_max));
    add("cpu.shares", "cpu.weight", cpu.weight.map(|weight| weight.to_string()));
    add("cpu.quota", "cpu.max", cpu.max.map(|(quota, period)| format!("{} {period}", or_max(quota))));
    add("cpu.burst", "cpu.max.burst", cpu.burst_us.map(|burst| burst.to_string()));
    add("cpu.idle", "cpu.idle", cpu.idle.map(|idle| idle.to_string()));
    add("cpu.mems", "cpuset.mems", cpu.mems.clone());
    add("cpu.cpus", "cpuset.cpus", cpu.cpus.clone());
    add("pids.limit", "pids.max", pids_max.map(or_max));
    add("blockIO.weight", "io.weight", io.weight.map(|weight| weight.to_string()));
    for limit in &io.max {
        add("blockIO", "io.max", Some(io_line(limit)));
    }
    for limit in hugetlb {
        let file = format!("hugetlb.{}.max", limit.page_size);
        add("hugepageLimits", &file, Some(or_max(limit.limit_bytes)));
    }
    for (file, value) in unified {
        add(&format!("unified[\"{file}\"]"), file, Some(value.clone()));
    }
    settings
}

/// A number as cgroup files have it.
fn or_max(value: u64) -> String {
    if value == u64::MAX { "max".to_owned() } else { value.to_string() }
}

/// A line of io.max.
fn io_line(limit: &IoDeviceLimit) -> String {
    let mut line = format!("{}:{}", limit.major, limit.minor);
    let parts = [
        ("rbps", limit.read_bytes),
        ("wbps", limit.write_bytes),
        ("riops", limit.read_operations),
        ("wiops", limit.write_operations),
    ];
    for (name, value) in parts {
        if let Some(value) = value {
            line.push_str(&format!(" {name}={}", or_max(value)));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_words_about_a_killed_process_are_known() {
        assert!(says_killed(b"<3>[ 1.2] Out of memory: Killed process 7 (tail)"));
        assert!(says_killed(b"Memory cgroup out of memory: Killed process 7 (tail)"));
        assert!(!says_killed(b"out of luck"));
    }

    #[test]
    fn limits_become_files_and_only_their_controllers() {
        let mut limits = Limits::default();
        assert_eq!(controllers(&settings(&limits)), "");
        limits.pids_max = Some(u64::MAX);
        limits.memory.max = Some(1 << 20);
        limits.memory.swap_max = Some(0);
        limits.cpu.max = Some((u64::MAX, 100_000));
        limits.unified = vec![("cgroup.max.depth".to_owned(), "3".to_owned())];
        let settings = settings(&limits);
        assert_eq!(controllers(&settings), "+cpu +memory +pids");
        let written: Vec<_> = settings.iter().map(|s| (s.file.as_str(), s.value.as_str())).collect();
        let expected = [
            ("memory.max", "1048576"),
            ("memory.swap.max", "0"),
            ("cpu.max", "max 100000"),
            ("pids.max", "max"),
            ("cgroup.max.depth", "3"),
        ];
        assert_eq!(written, expected);
    }

    #[test]
    fn a_throttled_device_is_one_line() {
        let limit = IoDeviceLimit {
            major: 8,
            minor: 0,
            read_bytes: Some(1),
            write_bytes: None,
            read_operations: Some(u64::MAX),
            write_operations: Some(4),
        };
        assert_eq!(io_line(&limit), "8:0 rbps=1 riops=max wiops=4");
    }
}
