//! `update` and `events`: limits that change while a container runs, what it uses, and its lack of memory.

use crx_fixture::{Bundle, Need, need};
use serde_json::Value;

use crate::detached::Detached;

/// A container that waits.
fn waiting() -> Detached {
    let container = Detached::new(Bundle::busybox().script("while :; do sleep 1; done"));
    container.run();
    container
}

#[test]
fn limits_change_while_a_container_runs_and_statistics_show_them() {
    if !need::met(&[Need::Container, Need::CgroupV2]) {
        return;
    }
    let container = waiting();
    let update = |options: &[&str]| {
        let words = [&["update"], options].concat();
        assert_eq!(container.verb(&words).expect(0).err(), "", "{options:?}");
    };
    let files = || {
        let script = "cd /sys/fs/cgroup && cat pids.max cpu.max memory.max";
        container.exec(&[], &["sh", "-c", script]).expect(0).out()
    };
    update(&["--memory", "64m", "--pids-limit", "20", "--cpu-quota", "50000"]);
    assert_eq!(files(), "20\n50000 100000\n67108864\n");
    // What is left out stays, and the quota with its new period as well.
    let words = ["update", "--resources", "-"];
    let text = r#"{"cpu": {"period": 200000}, "pids": {"limit": 0}}"#;
    assert_eq!(container.command(&words).input(text).run().expect(0).err(), "");
    assert_eq!(files(), "20\n50000 200000\n67108864\n");
    let event: Value = serde_json::from_str(&container.verb(&["events", "--stats"]).expect(0).out()).unwrap();
    assert_eq!((&event["type"], &event["id"]), (&"stats".into(), &container.id().into()));
    let data = &event["data"];
    assert_eq!((&data["pids"]["limit"], &data["memory"]["usage"]["limit"]), (&20.into(), &67_108_864.into()));
    for number in
        [&data["pids"]["current"], &data["memory"]["usage"]["usage"], &data["cpu"]["usage"]["total"]]
    {
        assert!(number.as_u64().is_some_and(|number| number > 0), "{data}");
    }
}

#[test]
fn events_tell_of_lacking_memory_and_end_with_the_container() {
    if !need::met(&[Need::Container, Need::CgroupV2]) {
        return;
    }
    let container = waiting();
    assert_eq!(container.verb(&["update", "--memory", "16m"]).expect(0).err(), "");
    let mut events = container.command(&["events", "--interval", "500ms"]).start();
    events.wait_for("\"stats\"");
    let greedy = "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done";
    let outcome = container.exec(&[], &["sh", "-c", greedy]);
    assert_eq!(outcome.code(), 137, "{}", outcome.all());
    events.wait_for("\"oom\"");
    let _ = container.command(&["kill"]).arg("KILL").run().expect(0);
    let outcome = events.wait().expect(0);
    for line in outcome.out().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["id"], container.id(), "{line}");
    }
}
