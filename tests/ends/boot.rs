//! Ends while the guest's kernel still boots.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use crx_fixture::leftovers::{self, Leftovers};
use crx_fixture::pty::Terminal;
use crx_fixture::{Bundle, Need, need};
use rustix::process::{Pid, Signal};
use serde_json::json;

/// Moments after the start, in milliseconds.
const MOMENTS_MS: [u64; 3] = [300, 500, 700];

/// What a shell shows as 130: the exit code, or the signal itself while crx has not yet taken it over.
fn interrupted(status: ExitStatus) -> bool {
    status.code() == Some(128 + 2) || status.signal() == Some(2)
}

#[test]
fn ctrl_c_during_the_boot_ends_everything() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _alone = leftovers::alone();
    for moment_ms in MOMENTS_MS {
        let before = Leftovers::now();
        // A container that would never end by itself: only the boot's end can be what ends it.
        let bundle = Bundle::busybox().set("/process/terminal", json!(false)).args(&["sleep", "100000"]);
        let running = bundle.command_with(&["--no-template"]).start();
        std::thread::sleep(Duration::from_millis(moment_ms));
        // What a terminal does: the whole foreground group gets it.
        let group = Pid::from_raw(running.pid() as i32).unwrap();
        rustix::process::kill_process_group(group, Signal::INT).unwrap();
        let outcome = running.wait();
        assert!(interrupted(outcome.status), "Ctrl-C after {moment_ms} ms\n{}", outcome.all());
        drop(bundle);
        before.expect_none_new(&format!("Ctrl-C after {moment_ms} ms"));
    }
}

#[test]
fn ctrl_c_on_a_terminal_during_the_boot_gives_the_terminal_back() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let bundle = Bundle::busybox().set("/process/terminal", json!(true)).args(&["sleep", "100000"]);
    let mut terminal = Terminal::start(bundle.command_with(&["--no-template"]), 24, 80);
    let attributes = terminal.attributes();
    std::thread::sleep(Duration::from_millis(500));
    // By the key: either the terminal makes it a signal, or crx has it raw already and knows what to do.
    terminal.send("\x03");
    let status = terminal.wait();
    assert!(interrupted(status), "{status}\n{}", terminal.screen());
    assert_eq!(terminal.attributes(), attributes);
    drop((terminal, bundle));
    before.expect_none_new("Ctrl-C on a terminal");
}

#[test]
fn kill_9_during_the_boot_leaves_only_what_the_next_command_removes() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    for moment_ms in MOMENTS_MS {
        let bundle = Bundle::busybox().args(&["sleep", "100000"]);
        let running = bundle.command_with(&["--no-template"]).start();
        std::thread::sleep(Duration::from_millis(moment_ms));
        running.signal(Signal::KILL);
        let _ = running.wait();
        before.expect_only_state(&format!("kill -9 after {moment_ms} ms"));
    }
    let bundle = Bundle::busybox().args(&["true"]);
    // A bundle that fails only after the ID is claimed: the kernel is none.
    let guest = bundle.path().join("guest");
    std::fs::create_dir(&guest).unwrap();
    for name in ["vmlinux", "initramfs"] {
        std::fs::write(guest.join(name), "no kernel").unwrap();
    }
    bundle.write();
    let next = crx_fixture::runtime::crx().arg("--guest-dir").arg(&guest).arg("run").arg("--bundle");
    next.arg(bundle.path()).arg(bundle.id()).run().expect_refused(&["vmlinux"]);
    drop(bundle);
    before.expect_none_new("the next command");
}
