//! Damaged configurations: whatever is changed, the answer is a plan or one line, never a panic. The changes come
//! from a seed, so that a failure can be repeated.

use serde_json::{Value, json};

use crate::support::{config_with, plan_in, write_bundle};

/// xorshift64*, Marsaglia and Vigna.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }
}

fn rich_config() -> Value {
    config_with(&[
        ("/process/rlimits", json!([{"type": "RLIMIT_CORE", "soft": 1, "hard": 2}])),
        ("/process/user", json!({"uid": 1, "gid": 2, "umask": 18, "additionalGids": [3, 4]})),
        (
            "/linux/namespaces",
            json!(
                ["pid", "network", "ipc", "uts", "mount", "user", "time"].map(|kind| json!({"type": kind}))
            ),
        ),
        ("/linux/uidMappings", json!([{"containerID": 0, "hostID": 100_000, "size": 65536}])),
        ("/linux/gidMappings", json!([{"containerID": 0, "hostID": 100_000, "size": 9}])),
        ("/linux/timeOffsets", json!({"monotonic": {"secs": 1, "nanosecs": 2}})),
        ("/linux/sysctl", json!({"net.core.somaxconn": "1", "kernel/shmmax": "2"})),
        ("/linux/devices", json!([{"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 438}])),
        (
            "/linux/resources",
            json!({
                "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "access": "r"}],
                "memory": {"limit": 1 << 30, "swap": 2_i64 << 30, "reservation": 1 << 20},
                "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0-1", "mems": "0"},
                "pids": {"limit": 32},
                "blockIO": {"weight": 100, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}]},
                "hugepageLimits": [{"pageSize": "2MB", "limit": 1}],
                "unified": {"memory.high": "1"}
            }),
        ),
        (
            "/linux/seccomp",
            json!({
                "defaultAction": "SCMP_ACT_ERRNO",
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [
                    {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
                    {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
                     "args": [{"index": 0, "value": 2_114_060_288_u64, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}
                ]
            }),
        ),
    ])
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(values) => values.iter().map(count).sum(),
        Value::Object(values) => values.values().map(count).sum(),
        _ => 0,
    }
}

/// Replaces the value that comes at `number` in reading order.
fn replace(value: &mut Value, number: &mut usize, new: &Value) {
    if *number == 0 {
        *value = new.clone();
    }
    *number = number.wrapping_sub(1);
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| replace(value, number, new)),
        Value::Object(values) => values.values_mut().for_each(|value| replace(value, number, new)),
        _ => {}
    }
}

#[test]
fn replaced_values() {
    let values = [
        Value::Null,
        json!(0),
        json!(1),
        json!(-1),
        json!(-2),
        json!(2.5),
        json!(1e300),
        json!(i64::MIN),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(""),
        json!("/"),
        json!("/../.."),
        json!("a\nb"),
        json!("\u{0}"),
        json!("ü".repeat(300)),
        json!([]),
        json!({}),
        json!([null]),
        json!([[]]),
        json!({"": ""}),
        json!(true),
    ];
    let directory = tempfile::tempdir().unwrap();
    let config = rich_config();
    let mut random = Random(0x5eed);
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..2000 {
        let mut changed = config.clone();
        for _ in 0..=random.below(3) {
            let mut number = random.below(count(&changed));
            replace(&mut changed, &mut number, &values[random.below(values.len())]);
        }
        write_bundle(directory.path(), changed.to_string().as_bytes());
        match plan_in(directory.path(), "test") {
            Ok(_) => accepted += 1,
            Err(line) => {
                assert!(line.starts_with("config.json: "), "{line}");
                refused += 1;
            }
        }
    }
    assert!(accepted > 60 && refused > 600, "{accepted} accepted, {refused} refused");
}

#[test]
fn changed_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let text = rich_config().to_string().into_bytes();
    let mut random = Random(0xb17e);
    for _ in 0..1000 {
        let mut changed = text.clone();
        for _ in 0..=random.below(4) {
            let place = random.below(changed.len());
            changed[place] = random.below(256) as u8;
        }
        if random.below(4) == 0 {
            changed.truncate(random.below(changed.len()));
        }
        write_bundle(directory.path(), &changed);
        if let Err(line) = plan_in(directory.path(), "test") {
            assert!(line.starts_with("config.json: "), "{line}");
        }
    }
}
