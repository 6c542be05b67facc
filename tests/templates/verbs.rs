//! `crx template`, and when a launch makes one.

use crx_fixture::leftovers::{self, Leftovers};
use crx_fixture::{Bundle, Need, need, runtime};

use crate::store::{Store, was_restored};

#[test]
fn the_first_launch_makes_a_template_and_the_next_one_uses_it() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let store = Store::empty();
    let bundle = Bundle::busybox().script("echo here");
    let first = store.run(&bundle, &["--timing"]).expect(0);
    assert_eq!(first.out(), "here\n");
    assert!(was_restored(&first), "{}", first.all());
    let template = store.only();
    let second = store.run(&bundle, &["--timing"]).expect(0);
    assert!(was_restored(&second), "{}", second.all());
    assert_eq!(store.only(), template);
    let listed = &store.list()[0];
    assert_eq!((&listed["status"], &listed["memory_mib"]), (&"current".into(), &256.into()), "{listed}");
    drop((bundle, store));
    before.expect_none_new("launches from a template");
}

#[test]
fn no_template_boots_and_makes_none() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let store = Store::empty();
    let outcome = store.run(&Bundle::busybox().script("true"), &["--timing", "--no-template"]).expect(0);
    assert!(!was_restored(&outcome), "{}", outcome.all());
    assert!(store.names().is_empty(), "{:?}", store.names());
}

#[test]
fn a_template_is_built_shown_verified_and_removed_by_hand() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let store = Store::empty();
    let name = store.template(&["build"]).expect(0).out().trim().to_owned();
    assert_eq!(store.template(&["build"]).expect(0).out().trim(), name, "it is there already");
    let shown = store.template(&["show"]).expect(0).out();
    for word in [&*name, "kernel", "initramfs", "processor", "256 MiB"] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    assert_eq!(store.template(&["verify"]).expect(0).out(), format!("{name}: good\n"));
    let table = store.template(&["list"]).expect(0).out();
    assert!(table.starts_with("NAME") && table.contains("current"), "{table}");
    let refused = store.template(&["rm", "nothing"]).expect(1);
    assert!(refused.err().contains("there is no template \"nothing\""), "{}", refused.all());
    assert!(store.template(&["show", "nothing"]).expect(1).err().contains("there is no template"));
    let _ = store.template(&["rm", &name]).expect(0);
    assert!(store.names().is_empty(), "{:?}", store.names());
    assert_eq!(store.template(&["rm"]).status.code(), Some(1));
}

#[test]
fn other_guest_files_are_another_template_and_the_old_one_is_stale() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let store = Store::empty().with_own_guest();
    let _ = store.template(&["build"]).expect(0);
    // The same bytes, but nobody can know that without reading them.
    let initramfs = store.guest().join("initramfs");
    std::fs::copy(&initramfs, store.guest().join("new")).unwrap();
    std::fs::rename(store.guest().join("new"), &initramfs).unwrap();
    assert_eq!(store.list()[0]["status"], "stale");
    let outcome = store.run(&Bundle::busybox().script("true"), &["--timing"]).expect(0);
    assert!(was_restored(&outcome), "{}", outcome.all());
    let mut statuses: Vec<_> =
        store.list().iter().map(|template| template["status"].as_str().unwrap().to_owned()).collect();
    statuses.sort();
    assert_eq!(statuses, ["current", "stale"]);
    // A limit that has room for one only: the one that was not used for the longest time goes.
    let limited = store.of(runtime::crx().args(["--templates-limit", "1", "template", "build"])).run();
    assert_eq!(limited.expect(0).out().trim().len(), 12);
    std::fs::copy(&initramfs, store.guest().join("new")).unwrap();
    std::fs::rename(store.guest().join("new"), &initramfs).unwrap();
    let _ = store.of(runtime::crx().args(["--templates-limit", "1", "template", "build"])).run().expect(0);
    assert_eq!(store.list().len(), 1, "{:?}", store.list());
    assert_eq!(store.list()[0]["status"], "current");
}
