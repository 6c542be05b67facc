//! What happens when something dies: containerd, a shim, a pod, a container for lack of memory. `ctr` shows the truth, and
//! nothing is left.

use std::fs;

use crx_fixture::containerd::{SERVICE, SHIM};
use rustix::process::{Pid, Signal, kill_process};

use crate::containerd;

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
}

/// The shim that has started a process.
fn shim_of(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap();
    let program = fs::read_link(format!("/proc/{parent}/exe")).unwrap();
    assert!(program.ends_with(SHIM), "{}", program.display());
    parent
}

#[test]
fn a_containerd_that_was_killed_finds_its_containers_again() {
    let Some(mut containerd) = containerd() else { return };
    let _ = containerd.container(&["--detach"], "a", &SERVICE).run().expect(0);
    containerd.wait_until_ready("a");
    let before = containerd.task("a");
    containerd.stop();
    containerd.start();
    assert_eq!(containerd.task("a"), before);
    assert_eq!(containerd.ok(&["task", "exec", "--exec-id=e", "a", "echo", "still here"]), "still here\n");
    containerd.ok(&["task", "kill", "--signal=TERM", "a"]);
    containerd.wait_for("a", "STOPPED");
    assert_eq!(containerd.deleted("a"), 7);
    containerd.finish();
}

#[test]
fn a_shim_that_is_killed_takes_its_pod_with_it_and_leaves_nothing() {
    let Some(containerd) = containerd() else { return };
    let _ = containerd.container(&["--detach"], "a", &["sleep", "1000"]).run().expect(0);
    let (pid, _) = containerd.task("a").unwrap();
    kill(shim_of(pid));
    containerd.until("the task is gone", || containerd.task("a").is_none());
    containerd.until("the pod is gone", || !fs::exists(format!("/proc/{pid}")).unwrap());
    containerd.finish();
}

#[test]
fn a_pod_whose_process_is_killed_has_stopped() {
    let Some(containerd) = containerd() else { return };
    let _ = containerd.container(&["--detach"], "a", &["sleep", "1000"]).run().expect(0);
    kill(containerd.task("a").unwrap().0);
    containerd.wait_for("a", "STOPPED");
    assert_eq!(containerd.deleted("a"), 137);
    containerd.finish();
}

#[test]
fn lack_of_memory_is_an_event() {
    let Some(containerd) = containerd() else { return };
    let mut events = containerd.command(&["events"]).start();
    let options = ["--rm", "--memory-limit=33554432"];
    let outcome = containerd.container(&options, "a", &["tail", "/dev/zero"]).run();
    assert_eq!(outcome.code(), 137, "{}", outcome.all());
    events.wait_for("/tasks/delete");
    assert!(events.stdout_so_far().contains("/tasks/oom"), "{}", events.stdout_so_far());
    events.signal(Signal::TERM);
    let _ = events.wait();
    containerd.finish();
}
