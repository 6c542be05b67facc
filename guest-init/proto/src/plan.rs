//! The plan: a container as PID 1 makes it, flat and typed. Nothing of config.json is parsed in the guest,
//! and nothing optional is left that has a default.

use serde::{Deserialize, Serialize};

use crate::Network;

/// One container, ready to be made. The order of the fields is the order in which PID 1 works.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The container's ID; names its cgroup.
    pub id: String,
    /// Namespaces of the container: new ones, or existing ones of the pod by path. A kind that is not
    /// named is shared with the pod.
    pub namespaces: Vec<Namespace>,
    /// IDs of the container's user namespace, if it has one.
    pub user_mappings: Option<UserMappings>,
    /// What is new in the pod's network, set up before anything else; empty for most containers that join a pod.
    pub network: Network,
    /// Offsets of the container's clocks, if it has a time namespace.
    pub time_offsets: Vec<TimeOffset>,
    /// Host name, if the container has a UTS namespace or is the pod's first.
    pub hostname: Option<String>,
    /// NIS domain name, likewise.
    pub domainname: Option<String>,
    /// Kernel parameters: name as below /proc/sys with dots or slashes as in config.json, and value.
    pub sysctl: Vec<(String, String)>,
    /// Limits.
    pub cgroup: Cgroup,
    /// Mount flags of the root's propagation (MS_PRIVATE, MS_SLAVE, ... with MS_REC), 0 for the default
    /// (MS_PRIVATE | MS_REC).
    pub rootfs_propagation: u64,
    /// The root file system is remounted read-only once everything is in place.
    pub rootfs_readonly: bool,
    /// Sources of bind mounts that come from the host, as `volumes/N` of the share.
    pub volumes: Vec<Volume>,
    /// Mounts, in their order.
    pub mounts: Vec<Mount>,
    /// Device nodes to make, the default ones of the runtime specification included.
    pub devices: Vec<Device>,
    /// Paths that are covered with an empty file or directory.
    pub masked_paths: Vec<String>,
    /// Paths that are made read-only.
    pub readonly_paths: Vec<String>,
    /// The process.
    pub process: Process,
    /// The seccomp program, if any.
    pub seccomp: Option<Seccomp>,
    /// `hooks.startContainer`: programs of the container that run in it between `start` and its own program.
    pub start_hooks: Vec<Hook>,
    /// The container's state as the runtime specification has it, which these hooks read on stdin; empty without any.
    pub state_json: String,
}

/// A hook that the pod runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Absolute path in the container.
    pub path: String,
    /// Arguments, the program's name first; never empty.
    pub args: Vec<String>,
    /// `NAME=value` strings.
    pub env: Vec<String>,
    /// Seconds after which it has failed.
    pub timeout_s: Option<u32>,
}

/// A namespace of the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Which kind.
    pub kind: NamespaceKind,
    /// Join the one at this path of the pod, instead of making a new one.
    pub path: Option<String>,
}

/// Kinds of namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum NamespaceKind {
    Pid,
    Network,
    Mount,
    Ipc,
    Uts,
    User,
    Cgroup,
    Time,
}

/// What the IDs of a user namespace are in the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserMappings {
    /// Users; ID 0 is among them.
    pub uids: Vec<IdMapping>,
    /// Groups; ID 0 is among them.
    pub gids: Vec<IdMapping>,
}

/// A range of IDs; it does not overlap another, on either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// The first in the container.
    pub container: u32,
    /// The first in the pod.
    pub pod: u32,
    /// How many.
    pub size: u32,
}

impl IdMapping {
    /// What `id` of the container is in the pod, if it is anything there.
    #[must_use]
    pub fn find(mappings: &[Self], id: u32) -> Option<u32> {
        let offset =
            |mapping: &Self| id.checked_sub(mapping.container).filter(|offset| *offset < mapping.size);
        mappings.iter().find_map(|mapping| Some(mapping.pod + offset(mapping)?))
    }

    /// The mappings as /proc/PID/uid_map takes them.
    #[must_use]
    pub fn lines(mappings: &[Self]) -> String {
        mappings.iter().map(|Self { container, pod, size }| format!("{container} {pod} {size}\n")).collect()
    }
}

/// How far a clock of a time namespace is ahead of the pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeOffset {
    /// Which.
    pub clock: TimeOffsetClock,
    /// Whole seconds, negative if it is behind.
    pub seconds: i64,
    /// Nanoseconds more, below 1000000000.
    pub nanoseconds: u32,
}

/// Clocks that can have an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum TimeOffsetClock {
    Monotonic,
    Boottime,
}

/// A source of a bind mount that the host shares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// It is a directory; anything else is bound as a file.
    pub is_directory: bool,
}

/// A mount of the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Index in config.json's `mounts`, for messages.
    pub index: u32,
    /// Absolute path in the container, without `.` and `..`.
    pub destination: String,
    /// What is mounted.
    pub kind: MountKind,
    /// MS_* flags to set (MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOATIME, ...), without MS_BIND and
    /// MS_REC and without propagation.
    pub flags: u64,
    /// MS_* flags of per-mount attributes that the options clear explicitly (`rw`, `suid`, ...): matters for binds, where what
    /// is not named is inherited.
    pub clear_flags: u64,
    /// MS_* propagation (with MS_REC if recursive), 0 for none.
    pub propagation: u64,
    /// MS_* attributes applied to the whole tree of a recursive bind (`rro`, `rnosuid`, ...).
    pub recursive_flags: u64,
    /// MS_* attributes cleared on the whole tree of a recursive bind (`rrw`, `rsuid`, ...).
    pub recursive_clear_flags: u64,
    /// `tmpcopyup`: a new tmpfs starts with the content of the directory that it covers.
    pub copy_up: bool,
}

/// What a mount mounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A new instance of a file system (proc, sysfs, tmpfs, devpts, mqueue, ...).
    FileSystem {
        /// Type, as in /proc/filesystems.
        fstype: String,
        /// Source, as shown in /proc/mounts.
        source: String,
        /// Options that are the file system's own (`size=64k,mode=1777`), comma-separated.
        data: String,
    },
    /// The container's own cgroup tree.
    Cgroup,
    /// A bind mount.
    Bind {
        /// Where from.
        source: BindSource,
        /// With the mounts below (`rbind`).
        recursive: bool,
    },
}

/// Source of a bind mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BindSource {
    /// `volumes/N` of the share: an index in [`Plan::volumes`].
    Volume(u32),
    /// A path of the guest itself: below /dev, /proc or /sys, where the host's would make no sense.
    Guest(String),
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Absolute path in the container.
    pub path: String,
    /// Kind.
    pub kind: DeviceKind,
    /// Major number; 0 for a FIFO.
    pub major: u32,
    /// Minor number; 0 for a FIFO.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Kinds of device nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum DeviceKind {
    Char,
    Block,
    Fifo,
}

/// The process of the container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// It has a terminal; rows and columns of it, 0 if not known.
    pub terminal: Option<(u16, u16)>,
    /// Program and arguments; never empty.
    pub args: Vec<String>,
    /// `NAME=value` strings.
    pub env: Vec<String>,
    /// Absolute working directory; made if it does not exist, as runc does.
    pub cwd: String,
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
    /// File mode creation mask, if set.
    pub umask: Option<u32>,
    /// Capability sets as bit masks.
    pub capabilities: Capabilities,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// Set no_new_privs.
    pub no_new_privileges: bool,
    /// oom_score_adj, if set.
    pub oom_score_adj: Option<i32>,
    /// ioprio_set(2) value, if set.
    pub io_priority: Option<u16>,
}

/// Capability sets; bit N is capability N of linux/capability.h.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Capabilities {
    pub bounding: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub permitted: u64,
    pub ambient: u64,
}

/// A resource limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// RLIMIT_* number.
    pub resource: u32,
    /// Soft limit; `u64::MAX` is none.
    pub soft: u64,
    /// Hard limit; `u64::MAX` is none.
    pub hard: u64,
}

/// cgroup v2 limits; what is `None` is left at the kernel's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// Memory and swap.
    pub memory: MemoryLimits,
    /// CPU time and placement.
    pub cpu: CpuLimits,
    /// pids.max; `Some(u64::MAX)` is "max".
    pub pids_max: Option<u64>,
    /// Block I/O.
    pub io: IoLimits,
    /// Huge pages.
    pub hugetlb: Vec<HugetlbLimit>,
    /// Device rules in their order, later ones win; empty: no device program is attached.
    pub devices: Vec<DeviceRule>,
    /// `linux.resources.unified`: file name and value, written last.
    pub unified: Vec<(String, String)>,
}

/// Memory limits in bytes; `u64::MAX` is "max".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryLimits {
    /// memory.max
    pub max: Option<u64>,
    /// memory.low (the specification's reservation)
    pub low: Option<u64>,
    /// memory.swap.max, swap alone as cgroup v2 counts it
    pub swap_max: Option<u64>,
}

/// CPU limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuLimits {
    /// cpu.weight, 1 to 10000 (converted from shares)
    pub weight: Option<u64>,
    /// cpu.max: quota in microseconds (`u64::MAX` is "max") and period in microseconds.
    pub max: Option<(u64, u64)>,
    /// cpu.max.burst in microseconds
    pub burst_us: Option<u64>,
    /// cpu.idle
    pub idle: Option<i64>,
    /// cpuset.cpus
    pub cpus: Option<String>,
    /// cpuset.mems
    pub mems: Option<String>,
}

/// Block I/O limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoLimits {
    /// io.weight, 1 to 10000 (converted from blkio weight)
    pub weight: Option<u64>,
    /// io.max lines
    pub max: Vec<IoDeviceLimit>,
}

/// One line of io.max.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoDeviceLimit {
    /// Device numbers.
    pub major: u32,
    /// Device numbers.
    pub minor: u32,
    /// Bytes read per second.
    pub read_bytes: Option<u64>,
    /// Bytes written per second.
    pub write_bytes: Option<u64>,
    /// Reads per second.
    pub read_operations: Option<u64>,
    /// Writes per second.
    pub write_operations: Option<u64>,
}

/// hugetlb.SIZE.max
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugetlbLimit {
    /// Page size as in the file's name, e.g. `2MB`.
    pub page_size: String,
    /// Limit in bytes.
    pub limit_bytes: u64,
}

/// A rule of the device controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// Allow or deny.
    pub allow: bool,
    /// Kind; `None` is all.
    pub kind: Option<DeviceKind>,
    /// Major number; `None` is all.
    pub major: Option<u32>,
    /// Minor number; `None` is all.
    pub minor: Option<u32>,
    /// Access bits of linux/bpf.h: 1 mknod, 2 read, 4 write.
    pub access: u32,
}

/// A seccomp program, compiled by the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seccomp {
    /// SECCOMP_FILTER_FLAG_* for seccomp(2).
    pub flags: u32,
    /// The classic BPF program.
    pub program: Vec<SockFilter>,
}

/// struct sock_filter of linux/filter.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
#[allow(missing_docs)]
pub struct SockFilter {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}
