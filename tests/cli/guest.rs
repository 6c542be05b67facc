//! Guest files that are not what they should be, and guests that come to a bad end.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crx_fixture::leftovers::{self, Leftovers};
use crx_fixture::runtime::{crx, dist};
use crx_fixture::{Bundle, Command, Need, Outcome, cpio, need};

use crate::refused;

/// A guest directory of the bundle with the real files, of which the test replaces one.
fn guest_directory(bundle: &Bundle) -> PathBuf {
    let directory = bundle.path().join("guest");
    fs::create_dir(&directory).unwrap();
    for name in ["vmlinux", "initramfs"] {
        let real = dist().join("guest").join(name).canonicalize().unwrap();
        symlink(real, directory.join(name)).unwrap();
    }
    directory
}

fn replace(directory: &Path, name: &str, content: &[u8]) {
    fs::remove_file(directory.join(name)).unwrap();
    fs::write(directory.join(name), content).unwrap();
}

fn run_with(bundle: &Bundle, guest: &Path) -> Command {
    bundle.write();
    crx().arg("--guest-dir").arg(guest).arg("run").arg("--bundle").arg(bundle.path()).arg(bundle.id())
}

#[test]
fn a_kernel_image_that_is_missing_or_wrong_is_refused() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let bundle = Bundle::busybox().args(&["true"]);
    let guest = guest_directory(&bundle);
    let kernel = fs::read(guest.join("vmlinux")).unwrap();
    let path = guest.join("vmlinux");
    let path = path.to_str().unwrap();
    replace(&guest, "vmlinux", b"");
    refused(run_with(&bundle, &guest), &[path]);
    replace(
        &guest,
        "vmlinux",
        b"#!/bin/sh\nthis is no kernel, but it is long enough to be looked at as one\n",
    );
    refused(run_with(&bundle, &guest), &[path]);
    // Static and at a fixed address, as a kernel is: it would fit.
    let program = fs::read(bundle.rootfs().join("bin/busybox")).unwrap();
    replace(&guest, "vmlinux", &program);
    refused(run_with(&bundle, &guest), &[path, "is a program, not a kernel"]);
    for length in [3, 64, 200, kernel.len() / 2, kernel.len() / 10 * 9] {
        replace(&guest, "vmlinux", &kernel[..length]);
        refused(run_with(&bundle, &guest), &[path]);
    }
    fs::remove_file(path).unwrap();
    refused(run_with(&bundle, &guest), &[path, "No such file"]);
    refused(run_with(&bundle, Path::new("/not/there")), &["/not/there"]);
}

#[test]
fn an_initramfs_that_is_missing_is_refused() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let bundle = Bundle::busybox().args(&["true"]);
    let guest = guest_directory(&bundle);
    fs::remove_file(guest.join("initramfs")).unwrap();
    refused(run_with(&bundle, &guest), &["initramfs", "No such file"]);
}

/// A guest that panics: exit code 1, one line that says so, and the last lines of its console.
fn expect_panic(outcome: &Outcome, console: &str) {
    assert_eq!(outcome.code(), 1, "exit code of\n{}", outcome.all());
    let text = outcome.err();
    let ours: Vec<&str> = text.lines().filter(|line| line.starts_with("crx: ")).collect();
    assert!(ours.len() == 1 && ours[0].contains("panic"), "no single line that says so:\n{}", outcome.all());
    let shown = text.lines().any(|line| !line.starts_with("crx: ") && line.contains(console));
    assert!(shown, "'{console}' is not among the console's lines of\n{}", outcome.all());
}

fn panics(command: Command, console: &str) {
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let outcome = command.run();
    expect_panic(&outcome, console);
    before.expect_none_new("a guest's panic");
}

#[test]
fn an_initramfs_that_is_no_archive_shows_the_kernels_panic() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let bundle = Bundle::busybox().args(&["true"]);
    let guest = guest_directory(&bundle);
    replace(&guest, "initramfs", &b"this is no archive at all\n".repeat(1000));
    panics(run_with(&bundle, &guest), "Kernel panic - not syncing");
}

#[test]
fn a_first_process_that_crashes_shows_the_kernels_panic() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let bundle = Bundle::busybox().args(&["true"]);
    let guest = guest_directory(&bundle);
    let busybox = fs::read(bundle.rootfs().join("bin/busybox")).unwrap();
    // busybox called `init` with /etc/inittab missing would work: it is called `false`, through a script.
    let script = b"#!/false\n";
    let archive = cpio::archive(&[
        cpio::Entry { path: "false", mode: 0o100_755, content: &busybox },
        cpio::Entry { path: "init", mode: 0o100_755, content: script },
    ]);
    replace(&guest, "initramfs", &archive);
    panics(run_with(&bundle, &guest), "Attempted to kill init");
}

#[test]
fn a_kernel_panic_is_reported_with_its_last_lines() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    // A lack of memory is a panic if the container, which may, asks for that.
    let bundle = Bundle::busybox()
        .capabilities(&["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_SYS_RESOURCE"])
        .edit(|config| {
            config["linux"]["readonlyPaths"] = serde_json::json!([]);
            config["linux"]["resources"]["memory"] = serde_json::json!({"limit": 16 << 20, "swap": 16 << 20});
        })
        .script("echo 2 > /proc/sys/vm/panic_on_oom || exit 9; echo eating; exec tail /dev/zero");
    panics(bundle.command(), "panic_on_oom");
}

#[test]
fn a_guest_without_memory_ends_the_container_and_says_why() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let _alone = leftovers::alone();
    let before = Leftovers::now();
    let bundle = Bundle::busybox().args(&["tail", "/dev/zero"]);
    let outcome = bundle.command_with(&["--memory", "64"]).run().expect(128 + 9);
    assert!(outcome.err().contains("memory"), "nothing says that memory was the reason:\n{}", outcome.all());
    before.expect_none_new("a guest without memory");
}

#[test]
fn memory_and_processors_that_cannot_be_are_refused() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    let bundle = Bundle::busybox().args(&["true"]);
    refused(bundle.command_with(&["--memory", "1"]), &["--memory", "1"]);
    refused(bundle.command_with(&["--memory", "4294967295"]), &["--memory"]);
    for vcpus in ["0", "65", "many"] {
        let outcome = bundle.command_with(&["--vcpus", vcpus]).run().expect(1);
        assert!(outcome.err().contains("--vcpus"), "{}", outcome.all());
    }
}
