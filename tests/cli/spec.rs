//! `crx spec`: what runc writes, where it is asked to, and never over something.

use std::fs;

use crx_fixture::runtime::crx;
use crx_fixture::{Command, Need, need};
use serde_json::Value;

fn spec_of(command: Command, options: &[&str]) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let outcome = command.arg("spec").args(options).arg("--bundle").arg(directory.path()).run().expect(0);
    assert!(outcome.stdout.is_empty() && outcome.stderr.is_empty(), "{}", outcome.all());
    serde_json::from_slice(&fs::read(directory.path().join("config.json")).unwrap()).unwrap()
}

#[test]
fn spec_writes_what_runc_writes() {
    if !need::met(&[Need::Crx, Need::Program("runc")]) {
        return;
    }
    same(&[]);
    same(&["--rootless"]);
}

fn same(options: &[&str]) {
    let mut ours = spec_of(crx(), options);
    let mut theirs = spec_of(Command::new("runc"), options);
    // Each gives its own name and its own version of the specification.
    for config in [&mut ours, &mut theirs] {
        assert!(config["ociVersion"].as_str().unwrap().starts_with("1."), "{config}");
        assert!(!config["hostname"].as_str().unwrap().is_empty());
        config["ociVersion"] = Value::Null;
        config["hostname"] = Value::Null;
    }
    // runc adds a cgroup namespace where the host has version 2; a pod always has.
    let namespaces = theirs["linux"]["namespaces"].as_array_mut().unwrap();
    if !namespaces.iter().any(|namespace| namespace["type"] == "cgroup") {
        namespaces.push(serde_json::json!({"type": "cgroup"}));
    }
    for config in [&mut ours, &mut theirs] {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.sort_by_key(|namespace| namespace["type"].as_str().unwrap().to_owned());
    }
    assert_eq!(ours, theirs, "crx spec is on the left: {options:?}");
}

#[test]
fn spec_overwrites_nothing() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.json");
    fs::write(&file, "mine").unwrap();
    crx().arg("spec").arg("--bundle").arg(directory.path()).run().expect_refused(&["config.json", "exists"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    crx().args(["spec", "--bundle", "/not/there"]).run().expect_refused(&["/not/there/config.json"]);
}
