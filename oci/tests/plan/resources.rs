//! `linux.resources`: conversions and refusals.

use crx_oci::CpuHint;
use crx_proto::{Cgroup, DeviceKind, DeviceRule, HugetlbLimit, IoDeviceLimit};
use serde_json::{Value, json};

use crate::support::{planned, refused};

fn cgroup(resources: Value) -> Cgroup {
    planned(&[("/linux/resources", resources)]).plan.cgroup
}

#[track_caller]
fn check(pointer: &str, value: Value, line: &str) {
    let line = format!("config.json: linux.resources.{line}");
    assert_eq!(refused(&[(&format!("/linux/resources/{pointer}"), value)]), line);
}

#[test]
fn memory() {
    let memory = |value: Value| {
        let limits = cgroup(json!({ "memory": value })).memory;
        (limits.max, limits.low, limits.swap_max)
    };
    const MIB: u64 = 1 << 20;
    assert_eq!(memory(json!({})), (None, None, None));
    assert_eq!(memory(json!({"limit": 0, "swap": 0, "reservation": 0})), (None, None, None));
    assert_eq!(memory(json!({"limit": 64 * MIB})), (Some(64 * MIB), None, None));
    assert_eq!(memory(json!({"limit": 64 * MIB, "swap": 96 * MIB})), (Some(64 * MIB), None, Some(32 * MIB)));
    assert_eq!(memory(json!({"limit": 64 * MIB, "swap": 64 * MIB})), (Some(64 * MIB), None, Some(0)));
    assert_eq!(memory(json!({"limit": 64 * MIB, "swap": -1})), (Some(64 * MIB), None, Some(u64::MAX)));
    assert_eq!(memory(json!({"limit": -1})), (Some(u64::MAX), None, Some(u64::MAX)));
    assert_eq!(memory(json!({"swap": -1, "reservation": 5})), (None, Some(5), Some(u64::MAX)));
    let with = |limit: i64| planned(&[("/linux/resources/memory/limit", json!(limit))]).memory_limit_bytes;
    assert_eq!((with(1 << 20), with(-1), with(0)), (Some(MIB), None, None));
}

#[test]
fn memory_that_is_refused() {
    let few = "memory.limit: 1048575 bytes are too few to start a process; the least is 1048576";
    check("memory", json!({"limit": 1_048_575}), few);
    check("memory", json!({"limit": -2}), "memory.limit: -2 is neither a limit nor -1 for none");
    let below = "memory.swap: 2097151 is memory and swap together, and below the memory limit 2097152";
    check("memory", json!({"limit": 2_097_152, "swap": 2_097_151}), below);
    check("memory", json!({"swap": 5}), "memory.swap: needs a limit of memory next to it");
    check("memory", json!({"limit": -1, "swap": 5}), "memory.swap: needs a limit of memory next to it");
    let large =
        "memory.limit: expected an integer from -9223372036854775808 to 9223372036854775807, found 1e40";
    check("memory", json!({"limit": 1e40}), &large.replace("1e40", &json!(1e40).to_string()));
}

#[test]
fn cpu_weight_is_runcs() {
    let weight = |shares: u64| cgroup(json!({"cpu": {"shares": shares}})).cpu.weight;
    let known =
        [(0, None), (1, Some(1)), (2, Some(1)), (100, Some(4)), (1024, Some(39)), (262_144, Some(10_000))];
    for (shares, expected) in known {
        assert_eq!(weight(shares), expected, "{shares}");
    }
    assert_eq!(weight(u64::MAX), Some(10_000));
}

#[test]
fn cpu_time_and_placement() {
    let max = |value: Value| cgroup(json!({ "cpu": value })).cpu.max;
    assert_eq!(max(json!({})), None);
    assert_eq!(max(json!({"quota": 50_000})), Some((50_000, 100_000)));
    assert_eq!(max(json!({"quota": 50_000, "period": 20_000})), Some((50_000, 20_000)));
    assert_eq!(max(json!({"quota": -1})), Some((u64::MAX, 100_000)));
    assert_eq!(max(json!({"period": 20_000})), Some((u64::MAX, 20_000)));
    assert_eq!(max(json!({"quota": 0, "period": 0})), None);
    let cpu =
        cgroup(json!({"cpu": {"quota": 5000, "burst": 1000, "idle": 1, "cpus": "0-3, 7", "mems": "0"}})).cpu;
    assert_eq!((cpu.burst_us, cpu.idle), (Some(1000), Some(1)));
    assert_eq!((cpu.cpus.as_deref(), cpu.mems.as_deref()), (Some("0-3, 7"), Some("0")));
    let hint = |value: Value| planned(&[("/linux/resources/cpu", value)]).cpu;
    let expected = CpuHint { quota_cpus: Some(3), highest_cpu: Some(7) };
    assert_eq!(hint(json!({"quota": 250_000, "cpus": "7,0-3"})), expected);
    assert_eq!(hint(json!({"quota": -1})), CpuHint::default());
}

#[test]
fn cpu_that_is_refused() {
    check("cpu", json!({"period": 999}), "cpu.period: 999 is not in 1000 to 1000000 microseconds");
    check("cpu", json!({"quota": 999}), "cpu.quota: 999 is below the least quota of 1000 microseconds");
    check("cpu", json!({"quota": 1000, "burst": 1001}), "cpu.burst: 1001 is above the quota 1000");
    check("cpu", json!({"idle": 2}), "cpu.idle: 2 is neither 0 nor 1");
    for bad in ["a", "1-", "-1", "3-1", "0,,1", "0\n1", "99999999999", "+1", "9000"] {
        check("cpu", json!({ "cpus": bad }), &format!("cpu.cpus: {bad:?} is not a list like \"0-3,7\""));
    }
    check("cpu", json!({"mems": "x"}), "cpu.mems: \"x\" is not a list like \"0-3,7\"");
}

#[test]
fn processes() {
    let pids = |value: Value| cgroup(json!({ "pids": value })).pids_max;
    assert_eq!(pids(json!({"limit": 10})), Some(10));
    assert_eq!(pids(json!({"limit": -1})), Some(u64::MAX));
    assert_eq!(pids(json!({"limit": 0})), Some(u64::MAX));
    assert_eq!(pids(json!({})), None);
}

#[test]
fn block_io() {
    let weight = |weight: u64| cgroup(json!({"blockIO": {"weight": weight}})).io.weight;
    assert_eq!((weight(0), weight(10), weight(500), weight(1000)), (None, Some(1), Some(4950), Some(10_000)));
    check("blockIO", json!({"weight": 9}), "blockIO.weight: 9 is not in 10 to 1000");
    let device = |rate: u64| json!([{"major": 8, "minor": 16, "rate": rate}]);
    let io = cgroup(json!({"blockIO": {
        "throttleReadBpsDevice": device(1), "throttleWriteBpsDevice": device(2),
        "throttleReadIOPSDevice": device(3), "throttleWriteIOPSDevice": device(0)}}))
    .io;
    let expected = IoDeviceLimit {
        major: 8,
        minor: 16,
        read_bytes: Some(1),
        write_bytes: Some(2),
        read_operations: Some(3),
        write_operations: Some(u64::MAX),
    };
    assert_eq!(io.max, [expected]);
    let missing = "blockIO.throttleReadBpsDevice[0].rate: missing";
    check("blockIO", json!({"throttleReadBpsDevice": [{"major": 8, "minor": 0}]}), missing);
}

#[test]
fn the_rest() {
    let expected = HugetlbLimit { page_size: "2MB".into(), limit_bytes: 4 };
    assert_eq!(cgroup(json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4}]})).hugetlb, [expected]);
    for bad in ["2M", "MB", "02MB", "2 MB", "../2MB"] {
        let line = format!("hugepageLimits[0].pageSize: {bad:?} is not a page size like \"2MB\"");
        check("hugepageLimits", json!([{"pageSize": bad, "limit": 4}]), &line);
    }
    let unified = cgroup(json!({"unified": {"pids.max": "9", "memory.high": "1"}})).unified;
    assert_eq!(unified, [("memory.high".into(), "1".into()), ("pids.max".into(), "9".into())]);
    let name = "unified[\"../x\"]: not the name of a file of a cgroup";
    check("unified", json!({"../x": "1"}), name);
    check("rdma", json!({"mlx": {"hcaHandles": 1}}), "rdma: a pod has no RDMA devices");
}

#[test]
fn what_cgroup_v2_has_not_is_a_warning() {
    let resources =
        json!({"memory": {"swappiness": 5, "disableOOMKiller": false}, "network": {"classID": 1}});
    let warnings = planned(&[("/linux/resources", resources)]).warnings;
    let line =
        |field: &str| format!("config.json: linux.resources.{field}: cgroup v2 has no such setting, ignored");
    assert_eq!(warnings, [line("memory.swappiness"), line("network.classID")]);
}

#[test]
fn device_rules() {
    let rules = |value: Value| cgroup(json!({ "devices": value })).devices;
    assert_eq!(rules(json!([])), []);
    assert_eq!(rules(json!([{"allow": true, "access": "rwm"}])), []);
    let rules = rules(json!([
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "b", "major": 8, "minor": -1, "access": "rr"}
    ]));
    let rule = |allow, kind, major, minor, access| DeviceRule { allow, kind, major, minor, access };
    let char_device = |major, minor| rule(true, Some(DeviceKind::Char), Some(major), minor, 7);
    let expected = [
        rule(false, None, None, None, 7),
        rule(true, Some(DeviceKind::Block), Some(8), None, 2),
        rule(true, Some(DeviceKind::Char), None, None, 1),
        rule(true, Some(DeviceKind::Block), None, None, 1),
        char_device(1, Some(3)),
        char_device(1, Some(5)),
        char_device(1, Some(7)),
        char_device(1, Some(8)),
        char_device(1, Some(9)),
        char_device(5, Some(0)),
        char_device(136, None),
        char_device(5, Some(2)),
    ];
    assert_eq!(rules, expected);
}
