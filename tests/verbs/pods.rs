//! Pods of several containers: who shares what, and who ends with whom.

use crx_fixture::leftovers::{self, Leftovers};
use crx_fixture::{Bundle, Need, need};
use serde_json::{Value, json};

use crate::detached::{Detached, wait_until};

/// The namespaces of config.json, with those of `kinds` by the path of the first container's process.
fn sharing(first: &Detached, kinds: &[&str]) -> Value {
    let pid = first.pid().as_raw_nonzero().get();
    let namespace = |kind: &str| {
        let file = if kind == "network" { "net" } else { kind };
        if kinds.contains(&kind) {
            json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")})
        } else {
            json!({"type": kind})
        }
    };
    ["pid", "network", "ipc", "uts", "mount", "cgroup"].map(namespace).into_iter().collect()
}

fn joining(first: &Detached, script: &str, kinds: &[&str]) -> Detached {
    let namespaces = sharing(first, kinds);
    Detached::new(Bundle::busybox().script(script).edit(|config| {
        config["linux"]["namespaces"] = namespaces;
        if kinds.contains(&"uts") {
            config.as_object_mut().unwrap().remove("hostname");
        }
    }))
}

#[test]
fn containers_of_a_pod_share_what_they_are_told_to() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let first = Detached::new(
        Bundle::busybox().script("hostname the-pod 2>/dev/null; mkdir -p /dev/shm; exec sleep 1000").edit(
            |config| {
                config["hostname"] = json!("the-pod");
            },
        ),
    );
    first.run();
    let server = joining(
        &first,
        "echo content > /page; nc -l -p 8080 < /page; sleep 2000",
        &["network", "ipc", "uts"],
    );
    server.run();
    let client = joining(
        &first,
        "hostname; cat /proc/1/comm; i=0; until nc 127.0.0.1 8080 < /dev/null; do i=$((i+1)); [ $i -lt 600 ] || exit 1; sleep 0.1; done",
        &["network", "ipc", "uts"],
    );
    client.run();
    assert_eq!(client.wait_code(), 0, "{} {}", client.read("out"), client.read("err"));
    // Its own processes and files, the pod's name and network.
    assert_eq!(client.read("out"), "the-pod\nsh\ncontent\n");
    assert!(!client.bundle.rootfs().join("page").exists());
    // A container that comes and goes leaves the others alone, and its place for the next.
    let _ = client.verb(&["delete"]).expect(0);
    assert_eq!((first.status(), server.status()), ("running".to_owned(), "running".to_owned()));
    let other = joining(&first, "cat /proc/1/comm; ls /proc | grep -c '^[0-9]'", &["pid"]);
    other.run();
    assert_eq!(other.wait_code(), 0, "{}", other.read("err"));
    assert!(
        other.read("out").starts_with("sleep\n"),
        "the first container's first process: {}",
        other.read("out")
    );
    // A later container's namespaces can be joined as the first one's.
    let third = joining(&server, "cat /proc/1/cmdline | tr '\\0' ' '", &["pid"]);
    third.run();
    assert_eq!(third.wait_code(), 0, "{}", third.read("err"));
    assert!(
        third.read("out").contains("sleep 2000"),
        "the second container's processes: {}",
        third.read("out")
    );
    drop((third, other, client));
    // Everything of the pod ends with its first container.
    drop(first);
    if crx_fixture::Runtime::under_test() == crx_fixture::Runtime::Crx {
        assert_eq!(server.wait_code(), 137);
        assert_eq!(server.status(), "stopped");
    }
    drop(server);
    before.expect_none_new("a pod of several containers");
}

#[test]
fn annotations_and_the_option_name_the_pod() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let first = Detached::new(Bundle::busybox().script("echo here > /dev/shm/file; sleep 1000"));
    first.run();
    let pairs = [
        ("io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"),
        ("io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"),
    ];
    // Every pod's kernel has a boot ID of its own.
    let boot_id = "cat /proc/sys/kernel/random/boot_id";
    let id = first.exec(&[], &["sh", "-c", boot_id]).expect(0).out();
    for (kind, sandbox) in pairs {
        let container = Detached::new(Bundle::busybox().script(boot_id).edit(|config| {
            config["annotations"] = json!({kind: "container", sandbox: first.id()});
        }));
        container.run();
        assert_eq!(container.wait_code(), 0);
        assert_eq!(container.read("out"), id);
    }
    let container = Detached::new(Bundle::busybox().script(boot_id));
    let _ = container.launch(&["run", "--detach", "--pod", first.id()]).expect(0);
    assert_eq!(container.wait_code(), 0);
    assert_eq!(container.read("out"), id);
    let outcome = container.launch(&["create", "--pod", "no-such-pod"]);
    assert!(outcome.code() == 1 && outcome.err().contains("no-such-pod"), "{}", outcome.all());
}

#[test]
fn a_killed_stand_in_takes_its_container_along() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let first = Detached::new(Bundle::busybox().script("sleep 1000"));
    first.run();
    let second = joining(&first, "while :; do sleep 0.1; done", &["pid", "network"]);
    second.run();
    let root = format!("/proc/{}/root", second.pid().as_raw_nonzero());
    assert_eq!(
        std::fs::read_dir(root).unwrap().count(),
        0,
        "it has no file of the host to show or to change"
    );
    let sees = || first.exec(&[], &["sh", "-c", "grep -l '[s]leep.0.1' /proc/[0-9]*/cmdline"]).out();
    rustix::process::kill_process(second.pid(), rustix::process::Signal::KILL).unwrap();
    assert_eq!(second.wait_code(), 137);
    assert_eq!(second.status(), "stopped");
    wait_until("its processes are gone", || sees().is_empty());
    let _ = second.verb(&["delete"]).expect(0);
    // The same ID again at once, also after one that was killed to be deleted.
    for _ in 0..2 {
        second.run();
        let _ = second.verb(&["delete", "--force"]).expect(0);
    }
    assert_eq!(first.status(), "running");
}
