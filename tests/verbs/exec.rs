//! `exec`: one more process in a container.

use crx_fixture::{Bundle, Need, need};
use rustix::process::{Pid, WaitOptions, waitpid};
use serde_json::json;

use crate::detached::{Detached, verb, wait_until};

fn sleeper() -> Detached {
    let container = Detached::new(Bundle::busybox().script("export MARK=first; exec sleep 1000"));
    container.run();
    container
}

#[test]
fn exec_runs_a_program_in_the_container_as_it_is_told() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let container = sleeper();
    let sh = |options: &[&str], script: &str| container.exec(options, &["sh", "-c", script]);
    let outcome = sh(&[], "echo out; echo err >&2; exit 3").expect(3);
    assert_eq!((outcome.out(), outcome.err()), ("out\n".to_owned(), "err\n".to_owned()));
    assert_eq!(sh(&[], "kill -9 $$").code(), 137);
    let mut input = verb("exec").arg(container.id()).arg("cat");
    input = input.input("through stdin");
    assert_eq!(input.run().expect(0).out(), "through stdin");
    // The container's own namespaces: its first process is 1, and what it sees is one file system.
    assert_eq!(sh(&[], "cat /proc/1/comm").expect(0).out(), "sleep\n");
    let _ = sh(&[], "echo written > /file").expect(0);
    assert_eq!(std::fs::read_to_string(container.bundle.rootfs().join("file")).unwrap(), "written\n");
    let first = sh(&[], "readlink /proc/1/ns/* | sort").expect(0).out();
    assert_eq!(sh(&[], "readlink /proc/self/ns/* | sort").expect(0).out(), first);
    assert_eq!(
        sh(&[], "cat /proc/self/cgroup").expect(0).out(),
        sh(&[], "cat /proc/1/cgroup").expect(0).out()
    );
    // Options.
    let options = ["--env", "A=b", "--cwd", "/tmp", "--user", "1000:1001", "-g", "2000"];
    let outcome = sh(&options, "echo $A; pwd; id -u; id -g; id -G").expect(0);
    assert_eq!(outcome.out(), "b\n/tmp\n1000\n1001\n1001 2000\n");
    let outcome = sh(&["--cap", "CAP_SYS_TIME"], "grep CapEff /proc/self/status").expect(0);
    let mask = u64::from_str_radix(outcome.out().split_whitespace().last().unwrap(), 16).unwrap();
    assert_ne!(mask & 1 << 25, 0, "{mask:x}");
    let outcome = sh(&["--no-new-privs"], "grep NoNewPrivs /proc/self/status").expect(0);
    assert!(outcome.out().contains('1'), "{}", outcome.all());
    // What cannot be.
    let outcome = container.exec(&[], &["no-such-program"]);
    assert!(outcome.code() != 0 && outcome.err().contains("no-such-program"), "{}", outcome.all());
    let outcome = container.exec(&["--cwd", "relative"], &["true"]);
    assert_ne!(outcome.code(), 0, "{}", outcome.all());
    // It goes on.
    assert_eq!(container.status(), "running");
}

#[test]
fn exec_takes_its_process_from_a_file_and_can_be_left_alone() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let container = sleeper();
    let process = json!({
        "terminal": false,
        "user": {"uid": 5, "gid": 6},
        "args": ["sh", "-c", "echo $NAME $(id -u) > /tmp/report; exit 9"],
        "env": ["PATH=/bin:/usr/bin", "NAME=value"],
        "cwd": "/",
        "capabilities": {},
        "rlimits": [],
    });
    std::fs::set_permissions(
        container.bundle.rootfs().join("tmp"),
        std::os::unix::fs::PermissionsExt::from_mode(0o1777),
    )
    .unwrap();
    std::fs::write(container.file("process.json"), process.to_string()).unwrap();
    let command = verb("exec").args(["--detach", "--process"]).arg(container.file("process.json"));
    let mut command =
        command.arg("--pid-file").arg(container.file("exec-pid")).arg(container.id()).prepared();
    let null = std::process::Stdio::null;
    let status = command.stdin(null()).stdout(null()).stderr(null()).status().unwrap();
    assert!(status.success());
    let pid = Pid::from_raw(container.read("exec-pid").trim().parse().unwrap()).unwrap();
    let mut ended = None;
    wait_until("the process ends", || {
        ended = waitpid(Some(pid), WaitOptions::NOHANG).unwrap();
        ended.is_some()
    });
    assert_eq!(ended.unwrap().1.exit_status(), Some(9));
    let report = std::fs::read_to_string(container.bundle.rootfs().join("tmp/report")).unwrap();
    assert_eq!(report, "value 5\n");
}

#[test]
fn exec_in_a_container_that_is_only_created_and_in_one_that_has_stopped() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let container = Detached::new(Bundle::busybox().script("exit 0"));
    container.create();
    assert_eq!(container.exec(&[], &["echo", "early"]).expect(0).out(), "early\n");
    container.start();
    assert_eq!(container.wait_code(), 0);
    let outcome = container.exec(&[], &["echo", "late"]);
    assert_ne!(outcome.code(), 0, "{}", outcome.all());
    assert!(outcome.err().contains("stopped") || outcome.err().contains("not running"), "{}", outcome.all());
}
