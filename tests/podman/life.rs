//! A detached container from its start to its removal, and everything that podman can say of it meanwhile.

use crx_fixture::Runtime;
use crx_fixture::podman::IMAGE;
use crx_fixture::runtime::crx;
use serde_json::Value;

use crate::podman;

/// Runs until it is told to end, and counts.
const SERVICE: &str =
    "trap 'echo heard' USR1; trap 'exit 5' TERM; echo up; while :; do echo tick >> /ticks; sleep 0.1; done";

#[test]
fn a_detached_container_is_watched_paused_stopped_restarted_and_removed() {
    let Some(podman) = podman() else { return };
    podman.ok(&["run", "--detach", "--name=c", IMAGE, "sh", "-c", SERVICE]);
    podman.wait_for_log("c", "up\n");
    let state = podman.inspect("c")["State"].take();
    assert_eq!((&state["Status"], &state["Running"]), (&Value::from("running"), &Value::from(true)));
    assert!(state["Pid"].as_u64().unwrap() > 0, "{state}");
    if Runtime::under_test() == Runtime::Crx {
        let id = podman.inspect("c")["Id"].take();
        let why = crx().args(["why", "--json", id.as_str().unwrap()]).run().expect(0).out();
        let why: Value = serde_json::from_str(&why).unwrap();
        let is_there =
            |stage: &str| why["stages"].as_array().unwrap().iter().any(|have| have["stage"] == stage);
        assert!(is_there("container planned") && is_there("start awaited"), "create and start: {why}");
    }

    podman.ok(&["kill", "--signal=USR1", "c"]);
    podman.wait_for_log("c", "heard\n");
    podman.ok(&["pause", "c"]);
    assert_eq!(podman.inspect("c")["State"]["Status"], "paused");
    podman.ok(&["unpause", "c"]);
    let ticks = || podman.ok(&["exec", "c", "cat", "/ticks"]).len();
    let (before, after) = (ticks(), ticks());
    assert!(after > before, "it goes on: {before} {after}");

    podman.ok(&["stop", "--time=60", "c"]);
    let state = podman.inspect("c")["State"].take();
    assert_eq!((&state["Status"], &state["ExitCode"]), (&Value::from("exited"), &Value::from(5)));
    let copy = podman.file("copied-ticks");
    let _ = podman.command(&["cp", "c:/ticks"]).arg(&copy).run().expect(0);
    assert!(std::fs::read_to_string(copy).unwrap().starts_with("tick\n"));
    podman.ok(&["restart", "c"]);
    assert_eq!(podman.inspect("c")["State"]["Status"], "running");
    podman.ok(&["kill", "c"]);
    assert_eq!(podman.ok(&["wait", "c"]), "137\n");
    podman.ok(&["start", "c"]);
    podman.ok(&["rm", "--force", "--time=0", "c"]);
    let _ = podman.run(&["container", "exists", "c"]).expect(1);
    podman.finish();
}

#[test]
fn stats_and_top_show_what_runs() {
    let Some(podman) = podman() else { return };
    podman.ok(&["run", "--detach", "--name=c", IMAGE, "sh", "-c", "echo up; while :; do :; done"]);
    podman.wait_for_log("c", "up\n");
    let stats: Value =
        serde_json::from_str(&podman.ok(&["stats", "--no-stream", "--format=json", "c"])).unwrap();
    let number = |name: &str| {
        let text = stats[0][name].as_str().unwrap_or_default();
        let digits: String = text.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        digits.parse::<f64>().unwrap_or_else(|_| panic!("{name} in {stats}"))
    };
    assert!(number("cpu_percent") > 0.0 && number("mem_usage") > 0.0 && number("pids") >= 1.0, "{stats}");
    // With ps options it is the container's own ps that is asked.
    let table = podman.ok(&["top", "c", "-o", "pid,args"]);
    assert!(table.contains("echo up"), "{table}");
    // Without, podman reads /proc in the mount namespace of the process that the host knows: a pod has none to show.
    let outcome = podman.run(&["top", "c"]);
    if Runtime::under_test() == Runtime::Crx {
        assert!(outcome.code() == 125 && outcome.err().contains("/proc"), "{}", outcome.all());
    } else {
        let table = outcome.expect(0).out();
        assert!(table.starts_with("USER") && table.lines().count() > 1, "{table}");
    }
    podman.finish();
}
