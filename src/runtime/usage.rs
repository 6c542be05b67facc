//! A container's accounting: the texts of its cgroup's files, which come from the guest, to the statistics that `runc
//! events` prints on a host with cgroup v2. No I/O here. What cannot be read is left out; nothing in it is believed to be
//! of a sensible size.

use serde_json::{Map, Value, json};

/// Most characters of a file that are looked at: memory.stat has some 2 KiB, io.stat 100 a device.
const TEXT_MAX_BYTES: usize = 64 << 10;
/// Most fields, devices or page sizes of a kind: memory.stat of Linux 6.12 has 57 fields.
const ENTRIES_MAX: usize = 256;
/// Longest name of a field or a page size.
const NAME_MAX_BYTES: usize = 64;
/// What an unlimited limit is in runc's numbers.
const NO_LIMIT: u64 = u64::MAX;

/// The files of a cgroup, as PID 1 sent them.
struct Files<'a>(&'a [(String, String)]);

impl<'a> Files<'a> {
    /// The text of a file; empty if it was not sent.
    fn text(&self, name: &str) -> &'a str {
        let text = self.0.iter().find(|(known, _)| known == name).map_or("", |(_, text)| text.as_str());
        cut(text, TEXT_MAX_BYTES)
    }

    /// The number that a file has.
    fn number(&self, name: &str) -> Option<u64> {
        self.text(name).trim().parse().ok()
    }

    /// The limit that a file has, `max` included.
    fn limit(&self, name: &str) -> Option<u64> {
        if self.text(name).trim() == "max" { Some(NO_LIMIT) } else { self.number(name) }
    }

    /// The fields of a file with a name and a number on each line.
    fn fields(&self, name: &str) -> Vec<(&'a str, u64)> {
        self.text(name).lines().filter_map(field).take(ENTRIES_MAX).collect()
    }

    /// One of them; 0 if it is not there.
    fn field(&self, name: &str, wanted: &str) -> u64 {
        self.fields(name).into_iter().find(|(name, _)| *name == wanted).map_or(0, |(_, value)| value)
    }
}

/// The statistics, from the files.
pub(crate) fn statistics(files: &[(String, String)]) -> Value {
    let files = Files(files);
    json!({
        "cpu": cpu(&files),
        // runc leaves what only cgroup v1 has at 0.
        "cpuset": {
            "cpu_exclusive": 0,
            "mem_hardwall": 0,
            "mem_exclusive": 0,
            "memory_migrate": 0,
            "memory_spread_page": 0,
            "memory_spread_slab": 0,
            "memory_pressure": 0,
            "sched_load_balance": 0,
            "sched_relax_domain_level": 0,
        },
        "memory": memory(&files),
        "pids": pids(&files),
        "blkio": block_io(&files),
        "hugetlb": hugetlb(&files),
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

fn cpu(files: &Files<'_>) -> Value {
    let nanoseconds = |name| files.field("cpu.stat", name).saturating_mul(1000);
    let mut usage = object(&[("total", nanoseconds("usage_usec"))]);
    usage.insert("kernel".to_owned(), json!(nanoseconds("system_usec")));
    usage.insert("user".to_owned(), json!(nanoseconds("user_usec")));
    let throttling = object(&[
        ("periods", files.field("cpu.stat", "nr_periods")),
        ("throttledPeriods", files.field("cpu.stat", "nr_throttled")),
        ("throttledTime", nanoseconds("throttled_usec")),
    ]);
    json!({ "usage": usage, "throttling": throttling })
}

fn memory(files: &Files<'_>) -> Value {
    let entry = |limit: Option<u64>, usage: Option<u64>, max: Option<u64>| {
        let mut entry = object(&[("usage", usage.unwrap_or(0)), ("max", max.unwrap_or(0))]);
        entry.insert("limit".to_owned(), json!(limit.unwrap_or(0)));
        entry.insert("failcnt".to_owned(), json!(0));
        entry
    };
    let (limit, usage) = (files.limit("memory.max"), files.number("memory.current"));
    // As cgroup v1 and runc count it: memory and swap together.
    let together = |swap: Option<u64>, memory: Option<u64>| Some(swap?.saturating_add(memory.unwrap_or(0)));
    let swap_usage = together(files.number("memory.swap.current"), usage);
    let swap_limit = together(files.limit("memory.swap.max"), limit);
    let raw: Map<String, Value> = files
        .fields("memory.stat")
        .into_iter()
        .map(|(name, value)| (name.to_owned(), json!(value)))
        .collect();
    let mut memory = object(&[("cache", files.field("memory.stat", "file"))]);
    memory.insert("usage".to_owned(), entry(limit, usage, files.number("memory.peak")).into());
    memory.insert("swap".to_owned(), entry(swap_limit, swap_usage, None).into());
    memory.insert("kernel".to_owned(), entry(None, None, None).into());
    memory.insert("kernelTCP".to_owned(), entry(None, None, None).into());
    if !raw.is_empty() {
        memory.insert("raw".to_owned(), raw.into());
    }
    memory.into()
}

fn pids(files: &Files<'_>) -> Value {
    // Here runc says 0 for no limit.
    object(&[
        ("current", files.number("pids.current").unwrap_or(0)),
        ("limit", files.number("pids.max").unwrap_or(0)),
    ])
    .into()
}

/// io.stat: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`. What cgroup v1 did not have is left out.
fn block_io(files: &Files<'_>) -> Value {
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for line in files.text("io.stat").lines().take(ENTRIES_MAX) {
        let mut words = line.split_ascii_whitespace();
        let Some((major, minor)) = words.next().and_then(device) else { continue };
        for (name, value) in words.filter_map(|word| word.split_once('=')).take(ENTRIES_MAX) {
            let (list, op) = match name {
                "rbytes" => (&mut bytes, "Read"),
                "wbytes" => (&mut bytes, "Write"),
                "rios" => (&mut operations, "Read"),
                "wios" => (&mut operations, "Write"),
                _ => continue,
            };
            if let Ok(value) = value.parse() {
                let mut entry = object(&[("major", major), ("minor", minor), ("value", value)]);
                entry.insert("op".to_owned(), json!(op));
                list.push(Value::Object(entry));
            }
        }
    }
    let mut lists = Map::new();
    for (name, list) in [("ioServiceBytesRecursive", bytes), ("ioServicedRecursive", operations)] {
        if !list.is_empty() {
            lists.insert(name.to_owned(), list.into());
        }
    }
    lists.into()
}

fn hugetlb(files: &Files<'_>) -> Value {
    let size = |(name, _): &'_ (String, String)| {
        let size = name.strip_prefix("hugetlb.")?.strip_suffix(".current")?;
        is_name(size).then(|| size.to_owned())
    };
    let entry = |size: String| {
        let usage = files.number(&format!("hugetlb.{size}.current")).unwrap_or(0);
        let mut entry = object(&[("usage", usage)]);
        let failures = files.field(&format!("hugetlb.{size}.events"), "max");
        entry.insert("failcnt".to_owned(), json!(failures));
        (size, Value::Object(entry))
    };
    files.0.iter().filter_map(size).take(ENTRIES_MAX).map(entry).collect::<Map<_, _>>().into()
}

/// An object of what is not 0: runc leaves that out.
fn object(fields: &[(&str, u64)]) -> Map<String, Value> {
    let filled = fields.iter().filter(|(_, value)| *value != 0);
    filled.map(|(name, value)| ((*name).to_owned(), json!(value))).collect()
}

/// A line with a name and a number.
fn field(line: &str) -> Option<(&str, u64)> {
    let (name, value) = line.split_once(' ')?;
    is_name(name).then(|| Some((name, value.trim().parse().ok()?)))?
}

fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
    !name.is_empty() && name.len() <= NAME_MAX_BYTES && name.bytes().all(is_plain)
}

fn device(word: &str) -> Option<(u64, u64)> {
    let (major, minor) = word.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The beginning of a text, up to a character's border.
fn cut(text: &str, max_bytes: usize) -> &str {
    let mut end = max_bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str)]) -> Value {
        let own = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        statistics(&files.iter().map(own).collect::<Vec<_>>())
    }

    #[test]
    fn processor_time_is_in_nanoseconds() {
        let text =
            "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 3\nnr_throttled 2\nthrottled_usec 5\n";
        let expected = json!({
            "usage": {"total": 30_000, "kernel": 10_000, "user": 20_000},
            "throttling": {"periods": 3, "throttledPeriods": 2, "throttledTime": 5000},
        });
        assert_eq!(of(&[("cpu.stat", text)])["cpu"], expected);
    }

    #[test]
    fn memory_has_its_limit_and_swap_counts_memory() {
        let files = [
            ("memory.current", "4096\n"),
            ("memory.max", "8192\n"),
            ("memory.peak", "5000\n"),
            ("memory.swap.current", "100\n"),
            ("memory.swap.max", "1000\n"),
            ("memory.stat", "anon 1\nfile 2\n"),
        ];
        let expected = json!({
            "cache": 2,
            "usage": {"limit": 8192, "usage": 4096, "max": 5000, "failcnt": 0},
            "swap": {"limit": 9192, "usage": 4196, "failcnt": 0},
            "kernel": {"limit": 0, "failcnt": 0},
            "kernelTCP": {"limit": 0, "failcnt": 0},
            "raw": {"anon": 1, "file": 2},
        });
        assert_eq!(of(&files)["memory"], expected);
        let unlimited = of(&[("memory.max", "max\n"), ("memory.swap.max", "max\n")]);
        assert_eq!(unlimited["memory"]["usage"]["limit"], u64::MAX);
        assert_eq!(unlimited["memory"]["swap"]["limit"], u64::MAX);
    }

    #[test]
    fn processes_block_devices_and_huge_pages() {
        let stats = of(&[
            ("pids.current", "3\n"),
            ("pids.max", "10\n"),
            ("io.stat", "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n"),
            ("hugetlb.2MB.current", "2097152\n"),
            ("hugetlb.2MB.events", "max 4\n"),
        ]);
        assert_eq!(stats["pids"], json!({"current": 3, "limit": 10}));
        let entry = |op: &str, value: u64| json!({"major": 8, "minor": 16, "op": op, "value": value});
        let expected = json!({
            "ioServiceBytesRecursive": [entry("Read", 1), entry("Write", 2)],
            "ioServicedRecursive": [entry("Read", 3), entry("Write", 4)],
        });
        assert_eq!(stats["blkio"], expected);
        assert_eq!(stats["hugetlb"], json!({"2MB": {"usage": 2_097_152, "failcnt": 4}}));
        assert_eq!(of(&[("pids.current", "1"), ("pids.max", "max")])["pids"], json!({"current": 1}));
    }

    #[test]
    fn nothing_sent_is_zeros() {
        let stats = of(&[]);
        assert_eq!(stats["cpu"], json!({"usage": {"kernel": 0, "user": 0}, "throttling": {}}));
        assert_eq!(
            (&stats["pids"], &stats["blkio"], &stats["hugetlb"]),
            (&json!({}), &json!({}), &json!({}))
        );
        assert_eq!(stats["memory"]["usage"], json!({"limit": 0, "failcnt": 0}));
    }

    #[test]
    fn what_a_guest_makes_up_is_capped_and_left_out() {
        let many: String = (0..100_000).map(|number| format!("x{number} 1\n")).collect();
        let devices: String = (0..100_000).map(|number| format!("{number}:0 rbytes=1\n")).collect();
        let long = "é".repeat(TEXT_MAX_BYTES);
        let stats = of(&[
            ("memory.stat", &many),
            ("io.stat", &devices),
            ("memory.current", &long),
            ("memory.max", "-5"),
            ("memory.swap.current", "18446744073709551615"),
            ("memory.swap.max", "18446744073709551616"),
            ("pids.current", "1e9"),
            ("cpu.stat", "usage_usec 18446744073709551615\nuser_usec\nsystem_usec x\n\n nr_periods 5\n"),
            ("hugetlb.\u{1b}[1m.current", "1"),
            ("hugetlb..current", "1"),
            ("hugetlb.current", "1"),
        ]);
        assert_eq!(stats["memory"]["raw"].as_object().map(Map::len), Some(ENTRIES_MAX));
        assert_eq!(stats["blkio"]["ioServiceBytesRecursive"].as_array().map(Vec::len), Some(ENTRIES_MAX));
        assert_eq!(stats["memory"]["usage"], json!({"limit": 0, "failcnt": 0}));
        assert_eq!(stats["memory"]["swap"]["usage"], u64::MAX);
        assert_eq!(stats["cpu"]["usage"], json!({"total": u64::MAX, "kernel": 0, "user": 0}));
        assert_eq!((&stats["pids"], &stats["hugetlb"]), (&json!({}), &json!({})));
        let odd = of(&[
            ("io.stat", "8 rbytes=1\n:: x\n8:0 =\n8:0 rbytes=-1 wbytes\n"),
            ("memory.stat", "\u{7}x 1\na b\n"),
        ]);
        assert_eq!((&odd["blkio"], odd["memory"].get("raw")), (&json!({}), None));
    }
}
