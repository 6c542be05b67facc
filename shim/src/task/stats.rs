//! A container's accounting in containerd's form, from the files of its cgroup, whose texts come from the guest: what is no
//! number is left out, and there are at most so many devices.

use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PidsStat,
};
use containerd_shim_protos::protobuf::MessageField;

/// Most devices that are looked at.
const DEVICES_MAX: usize = 256;
/// What an unlimited limit is in containerd's numbers.
const NO_LIMIT: u64 = u64::MAX;

/// The files of a cgroup.
struct Files<'a>(&'a [(String, String)]);

impl<'a> Files<'a> {
    fn text(&self, name: &str) -> &'a str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, text)| text.as_str())
    }

    /// The number or limit that a file has; 0 if it has none.
    fn number(&self, name: &str) -> u64 {
        let text = self.text(name).trim();
        if text == "max" { NO_LIMIT } else { text.parse().unwrap_or(0) }
    }

    /// A field of a file with a name and a number on each line; 0 if it is not there.
    fn field(&self, file: &str, wanted: &str) -> u64 {
        let number = |line: &str| {
            let (name, number) = line.split_once(' ')?;
            (name == wanted).then(|| number.trim().parse().ok())?
        };
        self.text(file).lines().find_map(number).unwrap_or(0)
    }
}

/// The metrics.
pub(super) fn metrics(files: &[(String, String)]) -> Metrics {
    let files = Files(files);
    let cpu = |name| files.field("cpu.stat", name);
    let event = |name| files.field("memory.events", name);
    Metrics {
        pids: MessageField::some(PidsStat {
            current: files.number("pids.current"),
            // Here 0 says that there is no limit.
            limit: Some(files.number("pids.max")).filter(|limit| *limit != NO_LIMIT).unwrap_or(0),
            ..Default::default()
        }),
        cpu: MessageField::some(CPUStat {
            usage_usec: cpu("usage_usec"),
            user_usec: cpu("user_usec"),
            system_usec: cpu("system_usec"),
            nr_periods: cpu("nr_periods"),
            nr_throttled: cpu("nr_throttled"),
            throttled_usec: cpu("throttled_usec"),
            ..Default::default()
        }),
        memory: MessageField::some(memory(&files)),
        memory_events: MessageField::some(MemoryEvents {
            low: event("low"),
            high: event("high"),
            max: event("max"),
            oom: event("oom"),
            oom_kill: event("oom_kill"),
            ..Default::default()
        }),
        io: MessageField::some(IOStat { usage: devices(files.text("io.stat")), ..Default::default() }),
        ..Default::default()
    }
}

fn memory(files: &Files<'_>) -> MemoryStat {
    let stat = |name| files.field("memory.stat", name);
    MemoryStat {
        anon: stat("anon"),
        file: stat("file"),
        kernel_stack: stat("kernel_stack"),
        slab: stat("slab"),
        sock: stat("sock"),
        shmem: stat("shmem"),
        file_mapped: stat("file_mapped"),
        file_dirty: stat("file_dirty"),
        file_writeback: stat("file_writeback"),
        anon_thp: stat("anon_thp"),
        inactive_anon: stat("inactive_anon"),
        active_anon: stat("active_anon"),
        inactive_file: stat("inactive_file"),
        active_file: stat("active_file"),
        unevictable: stat("unevictable"),
        slab_reclaimable: stat("slab_reclaimable"),
        slab_unreclaimable: stat("slab_unreclaimable"),
        pgfault: stat("pgfault"),
        pgmajfault: stat("pgmajfault"),
        workingset_refault: stat("workingset_refault_anon").saturating_add(stat("workingset_refault_file")),
        workingset_activate: stat("workingset_activate_anon")
            .saturating_add(stat("workingset_activate_file")),
        workingset_nodereclaim: stat("workingset_nodereclaim"),
        pgrefill: stat("pgrefill"),
        pgscan: stat("pgscan"),
        pgsteal: stat("pgsteal"),
        pgactivate: stat("pgactivate"),
        pgdeactivate: stat("pgdeactivate"),
        pglazyfree: stat("pglazyfree"),
        pglazyfreed: stat("pglazyfreed"),
        thp_fault_alloc: stat("thp_fault_alloc"),
        thp_collapse_alloc: stat("thp_collapse_alloc"),
        usage: files.number("memory.current"),
        usage_limit: files.number("memory.max"),
        max_usage: files.number("memory.peak"),
        swap_usage: files.number("memory.swap.current"),
        swap_limit: files.number("memory.swap.max"),
        ..Default::default()
    }
}

/// io.stat: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`.
fn devices(text: &str) -> Vec<IOEntry> {
    let device = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let mut entry =
            IOEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, ..Default::default() };
        for (name, number) in words.filter_map(|word| word.split_once('=')) {
            let number = number.parse().unwrap_or(0);
            match name {
                "rbytes" => entry.rbytes = number,
                "wbytes" => entry.wbytes = number,
                "rios" => entry.rios = number,
                "wios" => entry.wios = number,
                _ => {}
            }
        }
        Some(entry)
    };
    text.lines().filter_map(device).take(DEVICES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str)]) -> Metrics {
        let own = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        metrics(&files.iter().map(own).collect::<Vec<_>>())
    }

    #[test]
    fn the_files_of_a_cgroup_become_metrics() {
        let metrics = of(&[
            ("cpu.stat", "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_throttled 2\n"),
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.stat", "anon 1\nfile 2\ninactive_file 3\n"),
            ("memory.events", "low 0\noom 1\noom_kill 2\n"),
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            ("io.stat", "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5\n"),
        ]);
        assert_eq!((metrics.cpu.usage_usec, metrics.cpu.user_usec, metrics.cpu.nr_throttled), (30, 20, 2));
        let memory = &metrics.memory;
        assert_eq!((memory.usage, memory.usage_limit, memory.inactive_file), (4096, NO_LIMIT, 3));
        assert_eq!((metrics.memory_events.oom, metrics.memory_events.oom_kill), (1, 2));
        assert_eq!((metrics.pids.current, metrics.pids.limit), (3, 0));
        let device = &metrics.io.usage[0];
        assert_eq!((device.major, device.minor, device.rbytes, device.wios), (8, 16, 1, 4));
    }

    #[test]
    fn what_a_guest_makes_up_is_left_out() {
        let many: String = (0..100_000).map(|number| format!("{number}:0 rbytes=1\n")).collect();
        let metrics =
            of(&[("io.stat", &many), ("memory.current", "-5"), ("cpu.stat", "usage_usec\nusage_usec x\n")]);
        assert_eq!(metrics.io.usage.len(), DEVICES_MAX);
        assert_eq!((metrics.memory.usage, metrics.cpu.usage_usec), (0, 0));
        assert!(of(&[("io.stat", "8 rbytes=1\n:: x\n")]).io.usage.is_empty());
    }
}
