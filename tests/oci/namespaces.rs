//! Namespaces: those that are not asked for are the pod's, those with a path are joined.

use crx_fixture::{Bundle, Facts, Need, Runtime, need};
use rustix::process::Signal;
use serde_json::json;

/// Runs the container to the line `ready`, then ends its first process (which execs a sleep) by SIGTERM: it
/// is no PID 1, so the signal's default action holds.
fn ask_and_terminate(bundle: Bundle, questions: &[(&str, &str)]) -> Facts {
    let script = crx_fixture::facts::script(questions) + "echo ready; exec sleep 10000\n";
    let bundle = bundle.script(&script);
    let mut running = bundle.command().start();
    running.wait_for("\nready\n");
    // The shell may still be on its way to exec; it has no handler either.
    running.signal(Signal::TERM);
    Facts::read(&running.wait().expect(128 + 15))
}

#[test]
fn what_is_not_asked_for_is_shared_and_a_path_is_joined() {
    if !need::met(&[Need::Container]) {
        return;
    }
    // The pod's first process, or for runc a process of the host that it may ask about.
    let owner = if Runtime::under_test() == Runtime::Crx { 1 } else { std::process::id() };
    // (A path of a network namespace is the host's: tests/network.)
    let path = format!("/proc/{owner}/ns/ipc");
    let bundle = Bundle::busybox()
        .set(
            "/linux/namespaces",
            json!([{"type": "mount"}, {"type": "ipc", "path": path}, {"type": "uts"}, {"type": "network"}]),
        )
        .set("/process/env/-", json!(format!("OWNER={owner}")))
        .capabilities(&["CAP_SYS_PTRACE", "CAP_KILL", "CAP_DAC_OVERRIDE"]);
    let facts = ask_and_terminate(
        bundle,
        &[
            ("pid", "echo $$"),
            ("first process", "cat /proc/1/comm"),
            ("pid namespace", "readlink /proc/self/ns/pid; readlink /proc/$OWNER/ns/pid"),
            ("ipc namespace", &format!("readlink /proc/self/ns/ipc; readlink {path}")),
            ("mnt namespace", "readlink /proc/self/ns/mnt; readlink /proc/$OWNER/ns/mnt"),
            (
                "orphans",
                "for i in 1 2 3 4 5 6 7 8; do (sleep 0.1 &) ; done; sleep 2; \
                         for p in /proc/[0-9]*; do read -r _ _ s _ < $p/stat && [ $s = Z ] && cat $p/stat; done; true",
            ),
        ],
    );
    assert_ne!(facts.text("pid"), "1", "a PID namespace that nobody asked for");
    assert_ne!(facts.text("first process"), "sh");
    let same = |name: &str| {
        let lines: Vec<&str> = facts.text(name).lines().collect();
        assert_eq!(lines.len(), 2, "{name} in {}", facts.transcript());
        lines[0] == lines[1]
    };
    assert!(same("pid namespace"), "{}", facts.transcript());
    assert!(same("ipc namespace"), "{}", facts.transcript());
    assert!(!same("mnt namespace"), "{}", facts.transcript());
    facts.expect("orphans", "");
}

#[test]
fn a_cgroup_namespace_hides_where_the_container_is() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let bundle = Bundle::busybox().edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "cgroup");
        namespaces.push(json!({"type": "cgroup"}));
    });
    let facts =
        Facts::ask(bundle, &[("cgroup", "cat /proc/self/cgroup"), ("root", "ls -d /sys/fs/cgroup/*")]);
    assert!(!facts.text("cgroup").is_empty());
    for line in facts.text("cgroup").lines() {
        assert!(line.ends_with(":/"), "not the namespace's root: {line}");
    }
    facts.expect_success("root");
}

#[test]
fn a_time_namespace_has_clocks_of_its_own() {
    // Newer than the runc of today's distributions.
    if !need::met(&[Need::Pod]) {
        return;
    }
    let bundle = Bundle::busybox().set("/linux/namespaces/-", json!({"type": "time"})).set(
        "/linux/timeOffsets",
        json!({"monotonic": {"secs": 1_000_000, "nanosecs": 5}, "boottime": {"secs": 2_000_000}}),
    );
    let facts = Facts::ask(
        bundle,
        &[
            ("offsets", "tr -s ' ' < /proc/self/timens_offsets"),
            ("uptime", "cut -d. -f1 /proc/uptime"),
            ("namespace", "[ $(readlink /proc/self/ns/time) = $(readlink /proc/self/ns/time_for_children) ]"),
        ],
    );
    facts.expect("offsets", "monotonic 1000000 5\nboottime 2000000 0");
    let uptime: u64 = facts.text("uptime").parse().unwrap();
    assert!((2_000_000..2_100_000).contains(&uptime), "uptime {uptime}");
    facts.expect_success("namespace");
}

#[test]
fn the_pods_own_namespaces_are_joined_by_path() {
    // To runc this would be the host's mount namespace, whose root it would replace.
    if !need::met(&[Need::Pod]) {
        return;
    }
    let kinds = [("mount", "mnt"), ("time", "time"), ("pid", "pid")];
    let namespaces = kinds.map(|(kind, name)| json!({"type": kind, "path": format!("/proc/1/ns/{name}")}));
    let bundle = Bundle::busybox().edit(|config| {
        config["linux"]["namespaces"] = json!(namespaces);
        config["root"]["readonly"] = json!(true);
        config["hostname"] = json!("");
    });
    let kinds = "for kind in mnt time pid; do";
    let facts = Facts::ask(
        bundle.capabilities(&["CAP_SYS_PTRACE"]),
        &[
            ("own", &format!("{kinds} readlink /proc/self/ns/$kind; done")),
            ("pod", &format!("{kinds} readlink /proc/1/ns/$kind; done")),
            ("root", "ls -d /bin && touch /bin/x"),
        ],
    );
    facts.expect("own", facts.text("pod"));
    facts.expect_failure("root", "Read-only file system");
}
