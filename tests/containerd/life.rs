//! A detached container from its start to its removal, and everything that containerd can say of it meanwhile.

use serde_json::Value;

use crx_fixture::containerd::SERVICE;
use crx_fixture::runtime::crx;

use crate::containerd;

/// What happened to tasks, in the order in which `ctr events` printed it.
fn topics(events: &str) -> Vec<&str> {
    events
        .lines()
        .filter_map(|line| line.split_whitespace().find_map(|word| word.strip_prefix("/tasks/")))
        .collect()
}

#[test]
fn a_detached_container_is_watched_paused_and_killed_and_its_events_are_in_order() {
    let Some(containerd) = containerd() else { return };
    let mut events = containerd.command(&["events"]).start();
    let _ = containerd.container(&["--detach"], "a", &SERVICE).run().expect(0);
    let (pid, status) = containerd.task("a").unwrap();
    assert!(pid > 0 && status == "RUNNING", "{pid} {status}");

    containerd.wait_until_ready("a");
    let exec = |exec_id: &str, script: &str| {
        containerd.command(&["task", "exec", "--exec-id", exec_id, "a", "sh", "-c", script])
    };
    let outcome = exec("e1", "echo in; cat; exit 5").input("through stdin\n").run().expect(5);
    assert_eq!(outcome.out(), "in\nthrough stdin\n");
    let outcome = containerd.run(&["task", "exec", "--exec-id", "e2", "a", "no-such-program"]);
    assert!(outcome.code() != 0 && outcome.err().contains("no-such-program"), "{}", outcome.all());

    containerd.ok(&["task", "pause", "a"]);
    assert_eq!(containerd.task("a").unwrap().1, "PAUSED");
    containerd.ok(&["task", "resume", "a"]);
    assert_eq!(containerd.task("a").unwrap().1, "RUNNING");
    let metrics: Value =
        serde_json::from_str(&containerd.ok(&["task", "metrics", "--format=json", "a"])).unwrap();
    let number = |pointer: &str| metrics.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    assert!(number("/memory/usage_limit") > 0 && number("/pids/current") > 0, "{metrics}");
    assert!(number("/cpu/usage_usec") > 0, "{metrics}");
    assert!(containerd.ok(&["task", "ps", "a"]).lines().count() >= 2);
    let why =
        crx().args(["--root", "/run/containerd/crx/crx-test", "why", "--json", "a"]).run().expect(0).out();
    assert!(why.contains("container planned") && why.contains("start awaited"), "{why}");
    let outcome = containerd.run(&["task", "checkpoint", "a"]);
    assert!(outcome.code() != 0 && outcome.err().contains("not supported"), "{}", outcome.all());

    let outcome = containerd.run(&["task", "delete", "a"]);
    assert!(outcome.code() != 0, "it runs: {}", outcome.all());
    containerd.ok(&["task", "kill", "--signal=TERM", "a"]);
    containerd.wait_for("a", "STOPPED");
    assert_eq!(containerd.deleted("a"), 7);
    events.wait_for("/tasks/delete");
    let printed = events.stdout_so_far();
    // ctr pauses a task for a checkpoint. The second process is not there, the last one is the container's.
    let expected = [
        "create",
        "start",
        "exec-added",
        "exec-started",
        "exit",
        "exec-added",
        "exec-started",
        "exit",
        "exec-added",
        "paused",
        "resumed",
        "paused",
        "resumed",
        "exit",
        "delete",
    ];
    assert_eq!(topics(&printed), expected, "{printed}");
    events.signal(rustix::process::Signal::TERM);
    let _ = events.wait();
    containerd.finish();
}

#[test]
fn containers_of_a_pod_have_one_shim_and_one_kernel() {
    let Some(containerd) = containerd() else { return };
    let program = ["sh", "-c", "echo shared > /dev/shm/file; exec sleep 1000"];
    let _ = containerd.container(&["--detach"], "a", &program).run().expect(0);
    let options = ["--rm", "--annotation", "dev.crx.pod=a"];
    let boot_id = "cat /proc/sys/kernel/random/boot_id";
    let of = |id: &str| containerd.container(&options, id, &["sh", "-c", boot_id]).run().expect(0).out();
    let first = containerd.ok(&["task", "exec", "--exec-id=e", "a", "sh", "-c", boot_id]);
    assert_eq!(of("b"), first, "the same kernel");
    let shims = std::fs::read_dir("/run/containerd/s").unwrap().count();
    let _ = containerd
        .container(&["--detach", "--annotation", "dev.crx.pod=a"], "c", &["sleep", "1000"])
        .run()
        .expect(0);
    assert_eq!(std::fs::read_dir("/run/containerd/s").unwrap().count(), shims, "the same shim");
    // The pod ends with its first container, and the other with it.
    containerd.ok(&["task", "kill", "--signal=KILL", "a"]);
    for id in ["a", "c"] {
        containerd.wait_for(id, "STOPPED");
        assert_eq!(containerd.deleted(id), 137);
    }
    containerd.finish();
}
