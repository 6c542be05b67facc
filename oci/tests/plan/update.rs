//! Changes of resources: what is left out stays, and what belongs together is set together.

use crx_oci::{Bundle, Update};
use crx_proto::{Cgroup, CpuLimits, MemoryLimits};
use serde_json::{Value, json};

use crate::support::{config_with, write_bundle};

const MIB: u64 = 1 << 20;

/// Changes a container that was made with `before`.
fn update(before: Value, change: &str) -> Result<Update, String> {
    let directory = tempfile::tempdir().unwrap();
    write_bundle(directory.path(), config_with(&[("/linux/resources", before)]).to_string().as_bytes());
    let bundle = Bundle::open(directory.path()).unwrap();
    crx_oci::update(&bundle, change.as_bytes()).map_err(|error| error.to_string())
}

fn limits(before: Value, change: Value) -> Cgroup {
    update(before, &change.to_string()).unwrap().limits
}

#[test]
fn what_is_left_out_or_0_stays() {
    assert_eq!(limits(json!({}), json!({})), Cgroup::default());
    // What runc's help shows, and what podman sends: devices are the container's for good.
    let nothing = json!({
        "memory": {"limit": 0, "reservation": 0, "swap": 0, "kernel": 0, "kernelTCP": 0},
        "cpu": {"shares": 0, "quota": 0, "period": 0, "realtimeRuntime": 0, "realtimePeriod": 0, "cpus": "", "mems": ""},
        "blockIO": {"weight": 0},
        "pids": {"limit": 0},
        "devices": [{"allow": false, "access": "rwm"}],
    });
    let update = update(json!({"pids": {"limit": 5}}), &nothing.to_string()).unwrap();
    assert_eq!((update.limits, update.warnings.len()), (Cgroup::default(), 0));
}

#[test]
fn what_is_set_changes() {
    let expected = Cgroup {
        memory: MemoryLimits { max: Some(64 * MIB), low: Some(MIB), swap_max: Some(0) },
        cpu: CpuLimits {
            weight: Some(39),
            max: Some((50_000, 100_000)),
            burst_us: Some(0),
            idle: Some(0),
            cpus: Some("0-1".to_owned()),
            mems: Some("0".to_owned()),
        },
        pids_max: Some(u64::MAX),
        ..Cgroup::default()
    };
    let change = json!({
        "memory": {"limit": 64 * MIB, "reservation": MIB, "swap": 64 * MIB},
        "cpu": {"shares": 1024, "quota": 50_000, "burst": 0, "idle": 0, "cpus": "0-1", "mems": "0"},
        "pids": {"limit": -1},
    });
    assert_eq!(limits(json!({}), change), expected);
    assert_eq!(limits(json!({}), json!({"blockIO": {"weight": 1000}})).io.weight, Some(10_000));
}

#[test]
fn a_quota_keeps_its_period_and_a_period_its_quota() {
    let before = json!({"cpu": {"quota": 20_000, "period": 40_000}});
    let max = |cpu: Value| limits(before.clone(), json!({ "cpu": cpu })).cpu.max;
    assert_eq!(max(json!({"quota": 30_000})), Some((30_000, 40_000)));
    assert_eq!(max(json!({"period": 50_000})), Some((20_000, 50_000)));
    assert_eq!(max(json!({"quota": -1})), Some((u64::MAX, 40_000)));
    assert_eq!(max(json!({"shares": 2})), None);
    let above = update(before, r#"{"cpu": {"burst": 20001}}"#).unwrap_err();
    assert_eq!(above, "resources: cpu.burst: 20001 is above the quota 20000");
}

#[test]
fn swap_counts_the_memory_limit_that_is_set() {
    let before = json!({"memory": {"limit": 64 * MIB}});
    let swap = limits(before, json!({"memory": {"swap": 80 * MIB}})).memory.swap_max;
    assert_eq!(swap, Some(16 * MIB));
    let without = update(json!({}), r#"{"memory": {"swap": 5}}"#).unwrap_err();
    assert_eq!(without, "resources: memory.swap: needs a limit of memory next to it");
}

#[test]
fn the_configuration_that_is_kept_has_the_change() {
    let before = json!({"cpu": {"quota": 20_000, "shares": 7}, "pids": {"limit": 5}, "devices": []});
    let update =
        update(before, r#"{"cpu": {"quota": 30000, "period": 0}, "memory": {"limit": 2097152}}"#).unwrap();
    let config: Value = serde_json::from_slice(&update.config_json).unwrap();
    let expected = json!({
        "cpu": {"quota": 30_000, "shares": 7}, "pids": {"limit": 5}, "devices": [], "memory": {"limit": 2_097_152},
    });
    assert_eq!(config["linux"]["resources"], expected);
    assert_eq!(config["process"]["args"], json!(["sh"]));
}

#[test]
fn what_is_wrong_is_named() {
    for (change, line) in [
        ("", "resources: line 1, column 0: EOF while parsing a value"),
        ("{", "resources: line 1, column 1: EOF while parsing an object"),
        ("[]", "resources: not a JSON object"),
        ("{\"cpu\": 5}", "resources: cpu: expected an object, found 5"),
        (
            "{\"memory\": {\"limit\": 5}}",
            "resources: memory.limit: 5 bytes are too few to start a process; the least is 1048576",
        ),
        (
            "{\"memory\": {\"limit\": \"5\"}}",
            "resources: memory.limit: expected an integer from -9223372036854775808 to 9223372036854775807, found \"5\"",
        ),
        ("{\"cpu\": {\"cpus\": \"x\"}}", "resources: cpu.cpus: \"x\" is not a list like \"0-3,7\""),
        (
            "{\"unified\": {\"../x\": \"1\"}}",
            "resources: unified[\"../x\"]: not the name of a file of a cgroup",
        ),
    ] {
        assert_eq!(update(json!({}), change).unwrap_err(), line, "{change}");
    }
    let update = update(json!({}), r#"{"memory": {"kernel": 5}, "cpu": {"realtimePeriod": 1}}"#).unwrap();
    assert_eq!(
        update.warnings,
        [
            "memory.kernel: cgroup v2 has no such setting, ignored",
            "cpu.realtimePeriod: cgroup v2 has no such setting, ignored"
        ]
    );
}
