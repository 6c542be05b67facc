//! Ends that the container chooses, and a stop in the middle that is none.

use std::io::Write;

use crx_fixture::leftovers::{self, Leftovers};
use crx_fixture::{Bundle, Need, need};
use rustix::process::Signal;
use serde_json::json;

#[test]
fn a_container_that_was_stopped_for_a_while_ends_normally_and_leaves_nothing() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let source = tempfile::tempdir().unwrap();
    let bundle = Bundle::busybox()
        .mount("/mnt/host", "bind", source.path().to_str().unwrap(), &["rbind"])
        .script("echo ready; read -r line; echo \"got $line\"; echo kept > /mnt/host/file; exit 6");
    let mut running = bundle.command().start();
    running.wait_for("ready\n");
    let all = leftovers::descendants(running.pid());
    assert!(!all.is_empty(), "crx has no VMM below it");
    let everybody = |signal| {
        running.signal(signal);
        for pid in &all {
            let pid = rustix::process::Pid::from_raw(*pid as i32).unwrap();
            let _ = rustix::process::kill_process(pid, signal);
        }
    };
    everybody(Signal::STOP);
    std::thread::sleep(std::time::Duration::from_secs(3));
    everybody(Signal::CONT);
    let mut stdin = running.take_stdin();
    stdin.write_all(b"a line\n").unwrap();
    drop(stdin);
    let outcome = running.wait().expect(6);
    assert_eq!(outcome.out(), "ready\ngot a line\n", "{}", outcome.all());
    assert_eq!(std::fs::read_to_string(source.path().join("file")).unwrap(), "kept\n");
    drop(bundle);
    before.expect_none_new("a normal end");
}

#[test]
fn a_killed_container_leaves_nothing() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    // In the pod's own PID namespace it is no PID 1, which nothing inside could kill.
    let bundle = Bundle::busybox()
        .set("/linux/namespaces", json!([{"type": "mount"}, {"type": "uts"}]))
        .script("sleep 10000 & (setsid sleep 10000 &) ; echo ready; kill -KILL $$");
    let outcome = bundle.run().expect(128 + 9);
    assert_eq!(outcome.out(), "ready\n", "{}", outcome.all());
    drop(bundle);
    before.expect_none_new("a killed container");
}
