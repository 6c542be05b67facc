//! Limits as cgroup v2 has them: which files get which values, and which controllers they need.

use crx_proto::{Cgroup as Limits, IoDeviceLimit};

/// A value to be written to a control file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Below `linux.resources` of config.json.
    pub(crate) field: String,
    pub(crate) file: String,
    pub(crate) value: String,
}

/// `+memory +pids`: the controllers whose files are written.
pub(crate) fn controllers(settings: &[Setting]) -> String {
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
pub(crate) fn settings(limits: &Limits) -> Vec<Setting> {
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
