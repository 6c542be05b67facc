//! `crx` and its VMM killed with SIGKILL, one or both: what is left is gone at once or with the next command.

use crx_fixture::leftovers::{self, Leftovers};
use crx_fixture::{Bundle, Need, Running, need};
use rustix::process::{Pid, Signal, kill_process};

/// A container that runs until it is killed, and `crx` of it.
fn endless(bundle: Bundle) -> (Bundle, Running) {
    let bundle = bundle.script("echo ready; while :; do sleep 1000; done");
    let mut running = bundle.command().start();
    running.wait_for("ready\n");
    (bundle, running)
}

fn vmm(running: &Running) -> Pid {
    let below = leftovers::descendants(running.pid());
    let is_vmm = |pid: &u32| {
        let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split('\0').any(|word| word == "vmm")
    };
    let pid = below.into_iter().find(is_vmm).expect("crx has a VMM below it");
    Pid::from_raw(pid as i32).unwrap()
}

#[test]
fn a_killed_vmm_is_reported_and_leaves_nothing() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let (bundle, running) = endless(Bundle::busybox());
    kill_process(vmm(&running), Signal::KILL).unwrap();
    let outcome = running.wait().expect(1);
    let text = outcome.err();
    assert_eq!(text.lines().count(), 1, "{}", outcome.all());
    assert!(text.starts_with("crx: "), "{}", outcome.all());
    drop(bundle);
    before.expect_none_new("a killed VMM");
}

#[test]
fn a_killed_crx_takes_the_pod_with_it_and_the_next_command_removes_the_rest() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let (bundle, running) = endless(Bundle::busybox());
    running.signal(Signal::KILL);
    let outcome = running.wait();
    assert_eq!(outcome.status.code(), None, "{}", outcome.all());
    before.expect_only_state("kill -9 of crx");
    // The same ID is free for the next container, whose run removes what the first left.
    let again = bundle.script("echo again");
    assert_eq!(again.run().expect(0).out(), "again\n");
    drop(again);
    before.expect_none_new("the next command");
}

#[test]
fn what_is_left_when_both_are_killed_goes_with_the_next_command() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let (bundle, running) = endless(Bundle::busybox());
    let vmm = vmm(&running);
    running.signal(Signal::KILL);
    kill_process(vmm, Signal::KILL).unwrap();
    let _ = running.wait();
    before.expect_only_state("kill -9 of crx and its VMM");
    // A command that claims an ID and goes no further, for a kernel that is none.
    let guest = bundle.path().join("guest");
    std::fs::create_dir(&guest).unwrap();
    for name in ["vmlinux", "initramfs"] {
        std::fs::write(guest.join(name), "no kernel").unwrap();
    }
    let other = crx_fixture::runtime::crx().arg("--guest-dir").arg(&guest).arg("run").arg("--bundle");
    other.arg(bundle.path()).arg(format!("{}-next", bundle.id())).run().expect_refused(&["vmlinux"]);
    drop(bundle);
    before.expect_none_new("the next command");
}
