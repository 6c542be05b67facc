//! Create, start, state, kill, delete: every state, and what each verb says in the wrong one.

use crx_fixture::leftovers::{self, Leftovers};
use crx_fixture::{Bundle, Need, Runtime, need};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::detached::{Detached, verb, wait_until};

/// Stays until it is told to end, and then says so in its exit code.
const ENDLESS: &str = "trap 'exit 7' TERM; echo started; while :; do sleep 0.2; done";

#[test]
fn a_container_goes_through_its_states() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let container = Detached::new(Bundle::busybox().script(ENDLESS).edit(|config| {
        config["annotations"] = serde_json::json!({"org.example.key": "value"});
    }));
    container.create();
    let state = container.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], container.id());
    assert_eq!(state["pid"], container.pid().as_raw_nonzero().get());
    assert_eq!(state["annotations"]["org.example.key"], "value");
    assert_eq!(
        state["bundle"].as_str().unwrap(),
        container.bundle.path().canonicalize().unwrap().to_str().unwrap()
    );
    assert_eq!(container.read("out"), "", "nothing runs before start");
    let again = container.launch(&["create"]);
    assert_ne!(again.code(), 0, "an ID is used once");

    container.start();
    wait_until("it runs", || container.read("out") == "started\n");
    assert_eq!(container.status(), "running");
    let refused = container.verb(&["start"]).expect(1);
    assert!(refused.err().contains("already running"), "{}", refused.all());
    let refused = container.verb(&["delete"]).expect(1);
    assert!(refused.err().contains("is not stopped: running"), "{}", refused.all());
    let list: Vec<Value> =
        serde_json::from_str(&verb("list").args(["--format", "json"]).run().expect(0).out()).unwrap();
    assert!(
        list.iter().any(|state| state["id"] == container.id() && state["status"] == "running"),
        "{list:?}"
    );

    let _ = container.command(&["kill"]).arg("TERM").run().expect(0);
    assert_eq!(container.wait_code(), 7);
    let state = container.state();
    assert_eq!((&state["status"], &state["pid"]), (&Value::from("stopped"), &Value::from(0)));
    for wrong in [&["start"][..], &["pause"], &["resume"]] {
        let _ = container.verb(wrong).expect(1);
    }
    let refused = container.verb(&["kill"]).expect(1);
    assert!(refused.err().contains("container not running"), "{}", refused.all());
    let _ = container.verb(&["delete"]).expect(0);
    let gone = container.verb(&["state"]).expect(1);
    assert!(gone.err().contains("does not exist"), "{}", gone.all());
    let _ = container.verb(&["delete"]).expect(1);
    let _ = container.verb(&["delete", "--force"]).expect(0);
    drop(container);
    before.expect_none_new("a whole life");
}

#[test]
fn a_container_that_was_never_started_is_killed_and_deleted() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let container = Detached::new(Bundle::busybox().script("echo never"));
    container.create();
    let _ = container.command(&["kill"]).arg("9").run().expect(0);
    assert_eq!(container.wait_code(), 137);
    assert_eq!(container.status(), "stopped");
    let _ = container.verb(&["delete"]).expect(0);
    container.create();
    let _ = container.verb(&["delete"]).expect(0);
    assert_eq!(container.read("out"), "");
    container.wait();
    drop(container);
    before.expect_none_new("containers that never ran");
}

#[test]
fn a_program_that_is_missing_is_told_at_create() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let container = Detached::new(Bundle::busybox().args(&["no-such-program"]));
    let outcome = container.launch(&["create"]);
    assert_ne!(outcome.code(), 0, "{}", outcome.all());
    assert!(outcome.err().contains("executable file not found in $PATH"), "{}", outcome.all());
    let gone = container.verb(&["state"]).expect(1);
    assert!(gone.err().contains("does not exist"), "{}", gone.all());
    drop(container);
    before.expect_none_new("a create that failed");
}

#[test]
fn pause_stops_every_process_until_resume() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let container = Detached::new(Bundle::busybox().script("while :; do echo tick; sleep 0.1; done"));
    container.run();
    wait_until("it ticks", || container.read("out").len() > 5);
    let _ = container.verb(&["pause"]).expect(0);
    assert_eq!(container.status(), "paused");
    // What was on its way when the processes stopped has arrived.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let ticks = container.read("out").len();
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(container.read("out").len(), ticks, "a paused container writes");
    let _ = container.verb(&["pause"]).expect(1);
    let _ = container.verb(&["resume"]).expect(0);
    assert_eq!(container.status(), "running");
    wait_until("it ticks again", || container.read("out").len() > ticks);
    let _ = container.verb(&["resume"]).expect(1);
    // Also a paused container can be killed.
    let _ = container.verb(&["pause"]).expect(0);
    let _ = container.verb(&["delete", "--force"]).expect(0);
}

#[test]
fn a_killed_process_is_a_container_that_has_stopped() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let container = Detached::new(Bundle::busybox().script(ENDLESS));
    container.run();
    kill_process(container.pid(), Signal::KILL).unwrap();
    assert_eq!(container.wait_code(), 137);
    assert_eq!(container.status(), "stopped");
    let _ = container.verb(&["exec"]).expect(1);
    let _ = container.verb(&["delete"]).expect(0);
    drop(container);
    before.expect_none_new("a VMM process that was killed");
}

#[test]
fn of_two_starts_at_once_one_starts() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let container = Detached::new(Bundle::busybox().script("echo once; sleep 1000"));
    container.create();
    let running: Vec<_> = (0..4).map(|_| container.command(&["start"]).start()).collect();
    let codes: Vec<i32> = running.into_iter().map(|running| running.wait().code()).collect();
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
    wait_until("it runs", || !container.read("out").is_empty());
    assert_eq!(container.read("out"), "once\n");
}

#[test]
fn ps_shows_the_processes_and_kill_all_reaches_them() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let script = "(trap 'echo heard' USR1; while :; do sleep 0.1; done) & trap 'echo heard' USR1; echo ready; while :; do sleep 0.1; done";
    let container = Detached::new(Bundle::busybox().script(script));
    container.run();
    wait_until("it runs", || container.read("out") == "ready\n");
    let table = container.verb(&["ps"]).expect(0).out();
    assert!(table.lines().next().unwrap().contains("PID") && table.contains("sleep 0.1"), "{table}");
    let pids: Vec<u32> =
        serde_json::from_str(&container.verb(&["ps", "--format", "json"]).expect(0).out()).unwrap();
    assert!(pids.len() >= 2, "{pids:?}");
    let _ = container.command(&["kill", "--all"]).arg("SIGUSR1").run().expect(0);
    wait_until("both hear it", || container.read("out").matches("heard").count() == 2);
}

#[test]
fn an_attached_run_can_keep_what_is_known_of_it() {
    if !need::met(&[Need::Container]) || Runtime::under_test() != Runtime::Crx {
        return;
    }
    let container = Detached::new(Bundle::busybox().script("exit 5"));
    let _ = container.bundle.command_with(&["--keep"]).run().expect(5);
    assert_eq!(container.status(), "stopped");
    let _ = container.verb(&["delete"]).expect(0);
    let _ = container.verb(&["state"]).expect(1);
}

#[test]
fn delete_force_ends_a_container_that_is_being_made() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let bundle = Bundle::busybox().script("true");
    let mark = bundle.path().join("hooked");
    let script = format!("touch {}; sleep 3", mark.display());
    let hook =
        serde_json::json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}]);
    let container =
        Detached::new(bundle.edit(|config| config["hooks"] = serde_json::json!({"createRuntime": hook})));
    let deleted = std::thread::scope(|scope| {
        let created = scope.spawn(|| container.launch(&["create"]));
        wait_until("it is being made", || mark.exists());
        assert_eq!(container.status(), "creating");
        let deleted = container.verb(&["delete", "--force"]);
        assert_ne!(created.join().unwrap().code(), 0);
        deleted
    });
    let _ = deleted.expect(0);
    let _ = container.verb(&["state"]).expect(1);
    drop(container);
    before.expect_none_new("a container that was deleted while it was made");
}

#[test]
fn a_detached_container_keeps_nothing_open_that_its_caller_had() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let container = Detached::new(Bundle::busybox().script("exec sleep 1000"));
    // The shell waits until nobody has the pipe open any more.
    let script = "kept=$(\"$@\" 7>&1 >/dev/null 2>&1 </dev/null); echo done";
    let run = verb("run").args(["--detach", "--pid-file"]).arg(container.file("pid")).arg("--bundle");
    let run = run.arg(container.bundle.path()).arg(container.id());
    assert_eq!(run.wrapped(&["sh", "-c", script, "sh"]).run().expect(0).out(), "done\n");
    assert_eq!(container.status(), "running");
}
