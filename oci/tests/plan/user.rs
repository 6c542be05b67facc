//! User namespaces with their mappings, and time namespaces with their offsets.

use crx_proto::{IdMapping, NamespaceKind, TimeOffset, TimeOffsetClock};
use serde_json::{Value, json};

use crate::support::{plan_of, planned, refused};

fn map(ranges: &[(u32, u32, u32)]) -> Value {
    let range = |(container, pod, size): &(u32, u32, u32)| json!({"containerID": container, "hostID": pod, "size": size});
    ranges.iter().map(range).collect()
}

/// Edits that give the default configuration a user namespace.
fn user_namespace() -> Vec<(&'static str, Value)> {
    let kinds = ["pid", "network", "ipc", "uts", "mount", "user"].map(|kind| json!({"type": kind}));
    vec![
        ("/linux/namespaces", json!(kinds)),
        ("/linux/uidMappings", map(&[(0, 100_000, 1000), (1000, 1000, 1)])),
        ("/linux/gidMappings", map(&[(0, 200_000, 65536)])),
    ]
}

#[track_caller]
fn check(edit: (&'static str, Value), line: &str) {
    let mut edits = user_namespace();
    edits.push(edit);
    assert_eq!(refused(&edits), format!("config.json: {line}"));
}

#[test]
fn mappings_are_taken_over() {
    let mut edits = user_namespace();
    edits.push(("/process/user", json!({"uid": 1000, "gid": 5, "additionalGids": [65535]})));
    let plan = planned(&edits).plan;
    assert!(plan.namespaces.iter().any(|namespace| namespace.kind == NamespaceKind::User));
    let mappings = plan.user_mappings.unwrap();
    let uids = [(0, 100_000, 1000), (1000, 1000, 1)];
    assert_eq!(mappings.uids, uids.map(|(container, pod, size)| IdMapping { container, pod, size }));
    assert_eq!(mappings.gids, [IdMapping { container: 0, pod: 200_000, size: 65536 }]);
    assert_eq!(IdMapping::lines(&mappings.uids), "0 100000 1000\n1000 1000 1\n");
    let find = |id| IdMapping::find(&mappings.uids, id);
    assert_eq!(
        [find(0), find(999), find(1000), find(1001)],
        [Some(100_000), Some(100_999), Some(1000), None]
    );
    assert_eq!(planned(&[]).plan.user_mappings, None);
}

#[test]
fn mappings_that_cannot_be_are_refused() {
    let uids = |value: Value| ("/linux/uidMappings", value);
    check(uids(json!([])), "linux.uidMappings: missing: a user namespace needs it");
    check(("/linux/gidMappings", Value::Null), "linux.gidMappings: missing: a user namespace needs it");
    check(uids(json!([{"containerID": 0, "hostID": 0}])), "linux.uidMappings[0].size: missing");
    check(uids(map(&[(0, 1, 0)])), "linux.uidMappings[0].size: 0: the range is empty");
    let id = "linux.uidMappings[0].hostID";
    check(
        uids(map(&[(0, u32::MAX, 1)])),
        &format!("{id}: expected an integer from 0 to 4294967294, found 4294967295"),
    );
    check(uids(map(&[(0, 10, u32::MAX)])), &format!("{id}: 10 and 4294967295 more IDs end above 4294967295"));
    check(uids(map(&[(1, 1, 5)])), "linux.uidMappings: ID 0 of the container is not mapped");
    let overlaps = "linux.uidMappings[2]: overlaps uidMappings[0]";
    check(uids(map(&[(0, 100, 10), (10, 200, 10), (9, 300, 1)])), overlaps);
    check(uids(map(&[(0, 100, 10), (10, 200, 10), (20, 109, 1)])), overlaps);
    let ranges = |count, step: u32| map(&(0..count).map(|n| (n, n * step, 1)).collect::<Vec<_>>());
    check(uids(ranges(341, 1)), "linux.uidMappings: 341 ranges, more than the kernel's 340");
    let bytes = "linux.uidMappings: 5570 bytes as the kernel's lines, more than its 4095";
    check(uids(ranges(340, 12_000_000)), bytes);
    let mut edits = user_namespace();
    edits.push(uids(ranges(340, 1)));
    assert_eq!(planned(&edits).plan.user_mappings.unwrap().uids.len(), 340);
}

#[test]
fn mappings_and_namespaces_belong_together() {
    let needs =
        |field| format!("config.json: linux.{field}: needs a namespace of type \"user\" in linux.namespaces");
    assert_eq!(refused(&[("/linux/uidMappings", map(&[(0, 1, 1)]))]), needs("uidMappings"));
    assert_eq!(refused(&[("/linux/gidMappings", map(&[(0, 1, 1)]))]), needs("gidMappings"));
    let only = ("/linux/namespaces", json!([{"type": "user"}]));
    check(only, "linux.namespaces: a user namespace needs one of type \"mount\" beside it");
    let path = ("/linux/namespaces/5/path", json!("/proc/1/ns/user"));
    let problem = "a pod has no other user namespace to join; without a path a new one is made";
    check(path, &format!("linux.namespaces[5].path: {problem}"));
}

#[test]
fn ids_that_are_not_mapped_are_refused() {
    let process = |user: Value| ("/process/user", user);
    check(process(json!({"uid": 1001})), "process.user.uid: 1001 is not mapped by linux.uidMappings");
    check(process(json!({"gid": 65536})), "process.user.gid: 65536 is not mapped by linux.gidMappings");
    let groups = "process.user.additionalGids[1]: 70000 is not mapped by linux.gidMappings";
    check(process(json!({"additionalGids": [0, 70000]})), groups);
    let device = json!([{"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "uid": 2000}]);
    check(
        ("/linux/devices", device),
        "linux.devices (/dev/mine).uid: 2000 is not mapped by linux.uidMappings",
    );
}

#[test]
fn clocks_have_offsets_in_a_new_time_namespace() {
    let namespaces = |time: Value| ("/linux/namespaces", json!([{"type": "mount"}, {"type": "uts"}, time]));
    let offsets = |value: Value| ("/linux/timeOffsets", value);
    let both = json!({"monotonic": {"secs": -3, "nanosecs": 999_999_999}, "boottime": {"secs": 7}});
    let plan = planned(&[namespaces(json!({"type": "time"})), offsets(both)]).plan;
    let offset = |clock, seconds, nanoseconds| TimeOffset { clock, seconds, nanoseconds };
    let boottime = offset(TimeOffsetClock::Boottime, 7, 0);
    assert_eq!(plan.time_offsets, [boottime, offset(TimeOffsetClock::Monotonic, -3, 999_999_999)]);

    let refused = |time: Value, value: Value| refused(&[namespaces(time), offsets(value)]);
    let new = || json!({"type": "time"});
    let needs = "needs a new namespace of type \"time\" in linux.namespaces";
    let one = json!({"monotonic": {"secs": 1}});
    let line = format!("config.json: linux.timeOffsets.monotonic: {needs}");
    assert_eq!(refused(json!({"type": "ipc"}), one.clone()), line);
    assert_eq!(refused(json!({"type": "time", "path": "/proc/1/ns/time"}), one), line);
    assert_eq!(
        refused(new(), json!({"realtime": {"secs": 1}})),
        "config.json: linux.timeOffsets.realtime: only the clocks monotonic and boottime have offsets"
    );
    assert_eq!(
        refused(new(), json!({"boottime": {"nanosecs": 1_000_000_000}})),
        "config.json: linux.timeOffsets.boottime.nanosecs: expected an integer from 0 to 999999999, found 1000000000"
    );
}

#[test]
fn the_configuration_for_others_than_root_can_be_planned() {
    let config: Value = serde_json::from_str(&crx_oci::rootless_spec(1000, 100)).unwrap();
    let plan = plan_of(&config).unwrap().plan;
    let range = |pod| [IdMapping { container: 0, pod, size: 1 }];
    let user = plan.user_mappings.unwrap();
    assert_eq!((user.uids.as_slice(), user.gids.as_slice()), (&range(1000)[..], &range(100)[..]));
    assert_eq!(plan.cgroup, crx_proto::Cgroup::default());
}
