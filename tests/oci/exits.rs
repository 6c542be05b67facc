//! Exit codes: the container's own, and those of a program that cannot be started.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crx_fixture::{Bundle, Need, need};

#[test]
fn the_exit_code_is_the_containers_and_its_other_processes_end_with_it() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let bundle =
        Bundle::busybox().script("sleep 10000 & (setsid sleep 10000 &); echo out; echo err >&2; exit 213");
    let outcome = bundle.run().expect(213);
    assert_eq!((outcome.out().as_str(), outcome.err().as_str()), ("out\n", "err\n"), "{}", outcome.all());
}

#[test]
fn a_program_that_is_missing_is_127() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let outcome = Bundle::busybox().args(&["no-such-program", "x"]).run().expect(127);
    assert_eq!(outcome.err().lines().count(), 1, "{}", outcome.all());
    assert!(outcome.err().contains("no-such-program"), "the program is not named by\n{}", outcome.all());
}

#[test]
fn a_program_that_cannot_be_executed_is_126() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let bundle = Bundle::busybox().args(&["/bin/not-executable"]);
    let file = bundle.rootfs().join("bin/not-executable");
    fs::write(&file, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let outcome = bundle.run().expect(126);
    assert_eq!(outcome.err().lines().count(), 1, "{}", outcome.all());
    assert!(outcome.err().contains("/bin/not-executable"), "the program is not named by\n{}", outcome.all());
}
