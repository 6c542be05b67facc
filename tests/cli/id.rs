//! IDs: what may be one, and that one is used once.

use std::fs;

use crx_fixture::leftovers::{self, Leftovers};
use crx_fixture::runtime::crx;
use crx_fixture::{Bundle, Need, need};

use crate::refused;

#[test]
fn an_id_that_is_none_is_refused() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    let bundle = Bundle::busybox().args(&["true"]);
    bundle.write();
    for id in ["with/slash", "/absolute", "..", ".", "", "with space", "new\nline", &"x".repeat(300)] {
        refused(crx().arg("run").arg("--bundle").arg(bundle.path()).arg(id), &["container ID"]);
    }
}

#[test]
fn an_id_in_use_is_refused_and_the_first_container_is_left_alone() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let first = Bundle::busybox().script("echo ready; read -r line; echo \"got $line\"; exit 5");
    let pid_file = first.path().join("pid");
    let mut running = first.command_with(&["--pid-file", pid_file.to_str().unwrap()]).start();
    running.wait_for("ready\n");
    let pid: u32 = fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
    assert!(fs::exists(format!("/proc/{pid}")).unwrap(), "the pid file names no process: {pid}");

    let second = Bundle::busybox().args(&["true"]);
    second.write();
    let during = Leftovers::now();
    let outcome = crx().arg("run").arg("--bundle").arg(second.path()).arg(first.id()).run();
    outcome.expect_refused(&[first.id(), "in use"]);
    during.expect_none_new("the refused run");
    // The state directory of the other root is its own: the same ID is free there.
    use std::io::Write;
    let mut stdin = running.take_stdin();
    stdin.write_all(b"a line\n").unwrap();
    drop(stdin);
    let outcome = running.wait().expect(5);
    assert_eq!(outcome.out(), "ready\ngot a line\n");
    fs::remove_file(&pid_file).unwrap();
    before.expect_none_new("both runs");
}
