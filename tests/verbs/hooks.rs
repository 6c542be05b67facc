//! Hooks: which run when, with what, and what a failing one does.

use std::os::unix::fs::PermissionsExt;

use crx_fixture::leftovers::{self, Leftovers};
use crx_fixture::{Bundle, Need, Runtime, need};
use serde_json::{Value, json};

use crate::detached::{Detached, wait_until};

/// A hook that appends its name and the status that it reads to a file of the host.
fn hook(bundle: &Bundle, name: &str) -> Value {
    let log = bundle.path().join("hooks.log");
    let script =
        format!("echo {name} $(sed 's/.*\"status\":\"\\([a-z]*\\)\".*/\\1/') $NAME >> {}", log.display());
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["NAME=value", "PATH=/usr/bin:/bin"], "timeout": 60})
}

#[test]
fn hooks_run_in_their_order_with_the_state() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let bundle = Bundle::busybox().script("echo program; cat /hook");
    let of = |name| json!([hook(&bundle, name)]);
    let hooks = json!({
        "prestart": of("prestart"),
        "createRuntime": of("createRuntime"),
        "createContainer": of("createContainer"),
        "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "sed 's/.*\"status\":\"\\([a-z]*\\)\".*/\\1/' > /hook"], "env": ["PATH=/bin"]}],
        "poststart": of("poststart"),
        "poststop": of("poststop"),
    });
    let container = Detached::new(bundle.edit(|config| config["hooks"] = hooks));
    container.create();
    let lines = || container.read("hooks.log").lines().map(str::to_owned).collect::<Vec<_>>();
    let created = lines();
    let names: Vec<&str> = created.iter().filter_map(|line| line.split(' ').next()).collect();
    // runc 1.1 runs poststart hooks before the program is started, which the specification has otherwise.
    assert_eq!(names.get(..3), Some(&["prestart", "createRuntime", "createContainer"][..]));
    if Runtime::under_test() == Runtime::Crx {
        assert_eq!(names.len(), 3, "{created:?}");
    }
    assert!(created.iter().all(|line| line.ends_with(" value")), "{created:?}");
    container.start();
    wait_until("poststart ran", || lines().len() == 4);
    if Runtime::under_test() == Runtime::Crx {
        assert_eq!(lines()[3], "poststart running value");
    }
    assert_eq!(container.wait_code(), 0);
    assert_eq!(container.read("out").trim_end(), "program\ncreated");
    let _ = container.verb(&["delete"]).expect(0);
    assert_eq!(lines()[4], "poststop stopped value");
}

#[test]
fn a_failing_hook_undoes_the_container() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    for kind in ["createRuntime", "createContainer"] {
        let bad = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo no such luck >&2; exit 3"]}]);
        let container = Detached::new(
            Bundle::busybox().script("true").edit(|config| config["hooks"] = json!({kind: bad})),
        );
        let outcome = container.launch(&["create"]);
        assert_ne!(outcome.code(), 0, "{}", outcome.all());
        if Runtime::under_test() == Runtime::Crx {
            assert!(outcome.err().contains(&format!("hooks.{kind}[0]")), "{}", outcome.all());
            assert!(outcome.err().contains("no such luck"), "{}", outcome.all());
        }
        let _ = container.verb(&["state"]).expect(1);
    }
    before.expect_none_new("hooks that failed");
}

#[test]
fn a_hook_in_the_container_that_fails_stops_the_start() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let bad = json!([{"path": "/bin/sh", "args": ["sh", "-c", "exit 3"]}]);
    let container = Detached::new(
        Bundle::busybox()
            .script("echo program")
            .edit(|config| config["hooks"] = json!({"startContainer": bad})),
    );
    container.create();
    let outcome = container.verb(&["start"]);
    // runc's start does not wait for the hook, and cannot tell.
    if Runtime::under_test() == Runtime::Crx {
        assert_ne!(outcome.code(), 0, "{}", outcome.all());
    }
    let _ = container.wait_code();
    assert_eq!(container.read("out"), "");
}

#[test]
fn what_a_hook_puts_into_the_root_is_there() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let bundle = Bundle::busybox().script("cat /injected");
    let target = bundle.rootfs().join("injected");
    let script = format!("echo by the hook > {}", target.display());
    let hooks = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    let bundle = bundle.edit(|config| config["hooks"] = hooks);
    assert_eq!(bundle.run().expect(0).out(), "by the hook\n");
    assert_eq!(std::fs::metadata(target).unwrap().permissions().mode() & 0o777, 0o644);
}
