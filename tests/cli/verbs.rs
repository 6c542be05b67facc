//! The verbs on containers that do not exist, and with arguments that make no sense: one line, exit code 1.

use std::fs;
use std::path::Path;

use crx_fixture::runtime::crx;
use crx_fixture::{Command, Need, need};
use serde_json::{Value, json};

/// Verbs that need a container that is there, with their arguments after its ID.
const VERBS: [(&[&str], &[&str]); 12] = [
    (&["start"], &[]),
    (&["exec"], &["true"]),
    (&["state"], &[]),
    (&["ps"], &[]),
    (&["kill"], &["KILL"]),
    (&["pause"], &[]),
    (&["resume"], &[]),
    (&["delete"], &[]),
    (&["update", "--pids-limit", "5"], &[]),
    (&["events", "--stats"], &[]),
    (&["events"], &[]),
    (&["checkpoint", "--leave-running"], &[]),
];

/// A command with a state directory of its own.
fn on(root: &Path) -> Command {
    crx().arg("--root").arg(root)
}

#[test]
fn a_container_that_does_not_exist_is_named() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    for (verb, arguments) in VERBS {
        let outcome = on(root.path()).args(verb).arg("nobody").args(arguments).run();
        outcome.expect_refused(&["container \"nobody\" does not exist"]);
    }
    // Nor does this make anything.
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    assert_eq!(on(root.path()).args(["delete", "--force", "nobody"]).run().expect(0).err(), "");
    assert_eq!(on(root.path()).args(["list", "--quiet"]).run().expect(0).out(), "");
    assert_eq!(on(root.path()).args(["list", "--format", "json"]).run().expect(0).out(), "[]\n");
}

#[test]
fn an_id_that_is_none_is_refused_by_every_verb() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    for id in ["../etc", "", "new\nline"] {
        for (verb, arguments) in VERBS {
            on(root.path()).args(verb).arg(id).args(arguments).run().expect_refused(&["container ID"]);
        }
        on(root.path()).args(["restore", id]).run().expect_refused(&["container ID"]);
        on(root.path()).args(["delete", "--force", id]).run().expect_refused(&["container ID"]);
    }
}

#[test]
fn every_verb_refuses_flags_that_it_has_not() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    let others: [(&[&str], &[&str]); 8] = [
        (&["run"], &[]),
        (&["create"], &[]),
        (&["restore"], &[]),
        (&["list"], &[]),
        (&["spec"], &[]),
        (&["features"], &[]),
        (&["check"], &[]),
        (&["completions"], &[]),
    ];
    for (verb, _) in VERBS.into_iter().chain(others) {
        crx().args(verb).args(["--no-such-flag", "x"]).run().expect_refused(&["--no-such-flag"]);
    }
}

#[test]
fn a_signal_that_is_none_is_refused() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    for signal in ["SIGNOTHING", "0x9", "65", "9999999999", "TERM KILL", ""] {
        on(root.path()).args(["kill", "nobody", signal]).run().expect_refused(&["signal"]);
    }
    on(root.path()).args(["kill", "nobody", "-5"]).run().expect_refused(&["-5"]);
}

#[test]
fn values_that_make_no_sense_are_refused() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    for (arguments, word) in [
        (&["update", "--memory", "much", "x"][..], "--memory"),
        (&["update", "--cpu-quota", "1.5", "x"], "--cpu-quota"),
        (&["update", "--cpu-share", "-1", "x"], "-1"),
        (&["update", "--pids-limit", "99999999999999999999", "x"], "--pids-limit"),
        (&["events", "--interval", "0s", "x"], "--interval"),
        (&["events", "--interval", "soon", "x"], "--interval"),
        (&["ps", "--format", "xml", "x"], "--format"),
        (&["list", "--format", "xml"], "--format"),
        (&["exec", "--user", "root", "x", "true"], "--user"),
        (&["exec", "x"], "program"),
        (&["checkpoint", "--manage-cgroups-mode", "hard", "x"], "--manage-cgroups-mode"),
        (&["completions", "tcl"], "tcl"),
    ] {
        crx().args(arguments).run().expect_refused(&[word]);
    }
}

/// A container that has stopped: its state directory, which nobody holds locked.
fn stopped_container(root: &Path) {
    let directory = root.join("stopped");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("lock"), "").unwrap();
    let record = json!({
        "id": "stopped", "pid": 1, "made": true, "bundle": "/b", "rootfs": "/b/rootfs", "created": "2026-01-02T03:04:05Z",
        "annotations": {}, "pod": "stopped", "cgroups": [], "stays": true, "poststart": [], "poststop": [],
    });
    fs::write(directory.join("state.json"), record.to_string()).unwrap();
    fs::write(directory.join("config.json"), r#"{"ociVersion": "1.0.2"}"#).unwrap();
}

#[test]
fn a_container_that_has_stopped_is_shown_and_asked_nothing() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    stopped_container(root.path());
    let state: Value =
        serde_json::from_str(&on(root.path()).args(["state", "stopped"]).run().expect(0).out()).unwrap();
    assert_eq!((&state["status"], &state["pid"]), (&json!("stopped"), &json!(0)));
    for (verb, arguments) in VERBS {
        if verb != ["delete"] && verb[0] != "state" {
            let outcome = on(root.path()).args(verb).arg("stopped").args(arguments).run();
            outcome.expect_refused(&[]);
            assert!(!outcome.err().contains("does not exist"), "{}", outcome.all());
        }
    }
    on(root.path()).args(["events", "stopped"]).run().expect_refused(&["stopped", "not running"]);
    on(root.path()).args(["update", "stopped"]).run().expect_refused(&["not running"]);
    assert_eq!(on(root.path()).args(["delete", "stopped"]).run().expect(0).err(), "");
    assert!(!root.path().join("stopped").exists());
}

#[test]
fn resources_that_make_no_sense_are_refused() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    stopped_container(root.path());
    let file = root.path().join("resources.json");
    let update =
        |resources: &Path| on(root.path()).args(["update", "--resources"]).arg(resources).arg("stopped");
    for (text, word) in [
        ("", "line 1"),
        ("not json", "line 1"),
        ("[1]", "not a JSON object"),
        (r#"{"memory": {"limit": "64m"}}"#, "memory.limit"),
        (r#"{"memory": {"limit": 5}}"#, "memory.limit"),
        (r#"{"cpu": {"cpus": "all"}}"#, "cpu.cpus"),
        (r#"{"cpu": {"period": 5}}"#, "cpu.period"),
        (r#"{"blockIO": {"weight": 5}}"#, "blockIO.weight"),
        (r#"{"unified": {"a/b": "1"}}"#, "unified"),
    ] {
        fs::write(&file, text).unwrap();
        update(&file).run().expect_refused(&["resources: ", word]);
        update(Path::new("-")).input(text).run().expect_refused(&["resources: ", word]);
    }
    fs::write(&file, " ".repeat((4 << 20) + 1)).unwrap();
    update(&file).run().expect_refused(&["resources.json", "larger"]);
    update(root.path()).run().expect_refused(&["--resources", "directory"]);
    update(Path::new("/not/there")).run().expect_refused(&["--resources", "/not/there"]);
    // Nothing wrong with these but that the container has stopped.
    fs::write(&file, r#"{"pids": {"limit": 5}}"#).unwrap();
    update(&file).run().expect_refused(&["not running"]);
    let config = fs::read_to_string(root.path().join("stopped/config.json")).unwrap();
    assert!(!config.contains("pids"), "{config}");
}

#[test]
fn every_verb_explains_itself() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    let help = crx().arg("--help").run().expect(0).out();
    let verbs: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .collect();
    for verb in ["create", "exec", "update", "events", "features", "checkpoint", "restore", "completions"] {
        assert!(verbs.contains(&verb), "no {verb} in\n{help}");
    }
    for verb in verbs {
        let outcome = crx().args([verb, "--help"]).run().expect(0);
        assert!(outcome.out().contains(&format!("Usage: crx {verb}")), "{}", outcome.all());
        assert!(outcome.stderr.is_empty(), "{}", outcome.all());
    }
}

#[test]
fn features_are_json_of_the_specification() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    let features: Value = serde_json::from_str(&crx().arg("features").run().expect(0).out()).unwrap();
    assert_eq!(features["ociVersionMin"], "1.0.0");
    let has = |pointer: &str, name: &str| {
        let list = features.pointer(pointer).and_then(Value::as_array);
        assert!(list.is_some_and(|list| list.contains(&json!(name))), "no {name} in {pointer} of {features}");
    };
    has("/linux/namespaces", "user");
    has("/linux/capabilities", "CAP_SYS_ADMIN");
    has("/linux/seccomp/archs", "SCMP_ARCH_X86_64");
    has("/mountOptions", "rbind");
    has("/hooks", "createRuntime");
    has("/potentiallyUnsafeConfigAnnotations", "io.kubernetes.cri.sandbox-id");
}

#[test]
fn what_comes_later_is_said() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    stopped_container(root.path());
    let images = ["--image-path", "/i", "--work-path", "/w", "--tcp-established", "--file-locks"];
    on(root.path()).arg("checkpoint").args(images).arg("stopped").run().expect_refused(&["stopped", "yet"]);
    let restore = on(root.path()).arg("restore").args(images).args(["--bundle", "/b", "--detach", "other"]);
    restore.run().expect_refused(&["other", "yet"]);
}
