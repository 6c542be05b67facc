//! The container that most configurations ask for, in what does not depend on a program or an image: mounts, devices, paths and
//! rules as `crx spec` writes them, which are runc's. PID 1 makes as much of it as it can before it knows of any.

use crate::{
    Capabilities, Cgroup, CpuLimits, Device, DeviceKind, DeviceRule, IoLimits, MemoryLimits, Mount,
    MountKind, Namespace, NamespaceKind, Network, Plan, Process,
};

// MS_* of linux/mount.h.
const RDONLY: u64 = 1;
const NOSUID: u64 = 1 << 1;
const NODEV: u64 = 1 << 2;
const NOEXEC: u64 = 1 << 3;
const RELATIME: u64 = 1 << 21;
const STRICTATIME: u64 = 1 << 24;

/// Access bits of a device rule: make nodes, and all of make, read and write.
const MKNOD: u32 = 1;
const ALL: u32 = 7;

/// The plan of the standard container. The program in it is nobody's.
#[must_use]
pub fn standard() -> Plan {
    let namespace = |kind| Namespace { kind, path: None };
    Plan {
        id: String::new(),
        namespaces: [NamespaceKind::Pid, NamespaceKind::Mount, NamespaceKind::Cgroup].map(namespace).into(),
        user_mappings: None,
        network: Network::default(),
        time_offsets: Vec::new(),
        hostname: None,
        domainname: None,
        sysctl: Vec::new(),
        cgroup: Cgroup {
            memory: MemoryLimits::default(),
            cpu: CpuLimits::default(),
            pids_max: None,
            io: IoLimits::default(),
            hugetlb: Vec::new(),
            devices: device_rules(),
            unified: Vec::new(),
        },
        rootfs_propagation: 0,
        rootfs_readonly: false,
        volumes: Vec::new(),
        mounts: mounts(),
        devices: devices(),
        masked_paths: strings(&[
            "/proc/acpi",
            "/proc/asound",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/proc/sched_debug",
            "/sys/firmware",
            "/proc/scsi",
        ]),
        readonly_paths: strings(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]),
        process: Process {
            terminal: None,
            args: strings(&["sh"]),
            env: Vec::new(),
            cwd: "/".to_owned(),
            uid: 0,
            gid: 0,
            additional_gids: Vec::new(),
            umask: None,
            capabilities: Capabilities::default(),
            rlimits: Vec::new(),
            no_new_privileges: false,
            oom_score_adj: None,
            io_priority: None,
        },
        seccomp: None,
        start_hooks: Vec::new(),
        state_json: String::new(),
    }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn mounts() -> Vec<Mount> {
    let file_system = |fstype: &str, source: &str, data: &str| MountKind::FileSystem {
        fstype: fstype.to_owned(),
        source: source.to_owned(),
        data: data.to_owned(),
    };
    let pseudo = NOSUID | NODEV | NOEXEC;
    let mounts = [
        ("/proc", file_system("proc", "proc", ""), 0),
        ("/dev", file_system("tmpfs", "tmpfs", "mode=755,size=65536k"), NOSUID | STRICTATIME),
        (
            "/dev/pts",
            file_system("devpts", "devpts", "newinstance,ptmxmode=0666,mode=0620,gid=5"),
            NOSUID | NOEXEC,
        ),
        ("/dev/shm", file_system("tmpfs", "shm", "mode=1777,size=65536k"), pseudo),
        ("/dev/mqueue", file_system("mqueue", "mqueue", ""), pseudo),
        ("/sys", file_system("sysfs", "sysfs", ""), pseudo | RDONLY),
        ("/sys/fs/cgroup", MountKind::Cgroup, pseudo | RDONLY | RELATIME),
    ];
    let mount = |(index, (destination, kind, flags)): (usize, (&str, MountKind, u64))| Mount {
        index: index as u32,
        destination: destination.to_owned(),
        kind,
        flags,
        clear_flags: 0,
        propagation: 0,
        recursive_flags: 0,
        recursive_clear_flags: 0,
        copy_up: false,
    };
    mounts.into_iter().enumerate().map(mount).collect()
}

fn devices() -> Vec<Device> {
    let nodes =
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    let device = |(name, major, minor)| Device {
        path: format!("/dev/{name}"),
        kind: DeviceKind::Char,
        major,
        minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
    };
    nodes.map(device).into()
}

/// Nothing but making nodes, and the devices that every container may use.
fn device_rules() -> Vec<DeviceRule> {
    let rule = |allow, kind, major, minor, access| DeviceRule { allow, kind, major, minor, access };
    let char = |major, minor| rule(true, Some(DeviceKind::Char), Some(major), minor, ALL);
    vec![
        rule(false, None, None, None, ALL),
        rule(true, Some(DeviceKind::Char), None, None, MKNOD),
        rule(true, Some(DeviceKind::Block), None, None, MKNOD),
        char(1, Some(3)),
        char(1, Some(5)),
        char(1, Some(7)),
        char(1, Some(8)),
        char(1, Some(9)),
        char(5, Some(0)),
        char(136, None),
        char(5, Some(2)),
    ]
}
