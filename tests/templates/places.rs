//! Stores on other file systems, and on one that is full.

use std::path::Path;
use std::process::Command as Host;

use crx_fixture::{Bundle, Need, need};
use tempfile::TempDir;

use crate::store::{Store, was_restored};

/// Something mounted on a directory, until it is dropped.
struct Mounted<'s>(&'s Path);

impl<'s> Mounted<'s> {
    fn new(at: &'s Path, words: &[&str]) -> Self {
        run(Host::new("mount").args(words).arg(at));
        Self(at)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Host::new("umount").arg("--lazy").arg(self.0).status();
    }
}

fn run(command: &mut Host) {
    let status = command.stdout(std::process::Stdio::null()).status().unwrap();
    assert!(status.success(), "{command:?}");
}

fn works(store: &Store) {
    let bundle = Bundle::busybox().script("echo here");
    for _ in 0..2 {
        let outcome = store.run(&bundle, &["--timing"]).expect(0);
        assert!(was_restored(&outcome) && !outcome.err().contains("warning"), "{}", outcome.all());
    }
    let _ = store.template(&["verify"]).expect(0);
}

#[test]
fn a_store_on_tmpfs_works() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let store = Store::empty();
    let _mounted = Mounted::new(store.path(), &["-t", "tmpfs", "-o", "mode=700", "store"]);
    works(&store);
}

#[test]
fn a_store_on_ext4_works() {
    if !need::met(&[Need::Pod, Need::Program("mkfs.ext4")]) {
        return;
    }
    let scratch = TempDir::new().unwrap();
    let image = scratch.path().join("image");
    std::fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
    run(Host::new("mkfs.ext4").arg("-q").arg(&image));
    let store = Store::empty();
    let _mounted = Mounted::new(store.path(), &["-o", "loop", image.to_str().unwrap()]);
    run(Host::new("chmod").arg("700").arg(store.path()));
    works(&store);
}

#[test]
fn a_store_on_an_overlay_works() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let scratch = TempDir::new().unwrap();
    let _layers = Mounted::new(scratch.path(), &["-t", "tmpfs", "-o", "mode=700", "layers"]);
    for directory in ["lower", "upper", "work"] {
        std::fs::create_dir(scratch.path().join(directory)).unwrap();
    }
    let options = format!("lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work", scratch.path().display());
    let store = Store::empty();
    let _mounted = Mounted::new(store.path(), &["-t", "overlay", "-o", &options, "store"]);
    run(Host::new("chmod").arg("700").arg(store.path()));
    works(&store);
}

#[test]
fn a_full_disk_costs_the_template_and_not_the_launch() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let store = Store::empty();
    let _mounted = Mounted::new(store.path(), &["-t", "tmpfs", "-o", "mode=700,size=4m", "store"]);
    let outcome = store.run(&Bundle::busybox().script("echo here"), &["--timing"]).expect(0);
    assert_eq!(outcome.out(), "here\n");
    assert!(!was_restored(&outcome), "{}", outcome.all());
    assert!(outcome.err().contains("the pod booted without a template"), "{}", outcome.all());
    assert!(outcome.err().contains("No space left on device"), "{}", outcome.all());
    assert!(store.names().is_empty(), "{:?}", store.names());
    let refused = store.template(&["build"]).expect(1);
    assert_eq!(refused.err().lines().count(), 1, "{}", refused.all());
}
