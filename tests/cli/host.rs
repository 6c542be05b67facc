//! Hosts that cannot run pods: no /dev/kvm, no permission on it, a full disk.

use std::os::unix::fs::PermissionsExt;
use std::process::Command as Host;

use crx_fixture::runtime::crx;
use crx_fixture::{Bundle, Need, images, need};
use rustix::mount::{UnmountFlags, unmount};

use crate::refused;

/// The device nodes that every program expects, and nothing else in /dev.
const EMPTY_DEV: &str = "mount -t tmpfs -o mode=755 none /dev && mknod -m 666 /dev/null c 1 3 && \
                         mknod -m 666 /dev/urandom c 1 9 && exec \"$@\"";

#[test]
fn a_host_without_kvm_is_refused() {
    if !need::met(&[Need::Pod, Need::Program("unshare")]) {
        return;
    }
    let bundle = Bundle::busybox().args(&["true"]);
    let hidden = bundle.command().wrapped(&["unshare", "--mount", "sh", "-c", EMPTY_DEV, "sh"]);
    refused(hidden, &["/dev/kvm", "no /dev/kvm"]);
    // Something that is there, but is no KVM.
    let fake = EMPTY_DEV.replace("exec", "mknod -m 666 /dev/kvm c 1 3 && exec");
    refused(bundle.command().wrapped(&["unshare", "--mount", "sh", "-c", &fake, "sh"]), &["KVM"]);
}

#[test]
fn no_permission_on_kvm_is_refused() {
    if !need::met(&[Need::Pod, Need::Program("setpriv"), Need::Program("unshare")]) {
        return;
    }
    let bundle = Bundle::busybox().args(&["true"]);
    std::fs::set_permissions(bundle.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let root = bundle.path().join("state");
    std::fs::create_dir(&root).unwrap();
    std::os::unix::fs::chown(&root, Some(65534), Some(65534)).unwrap();
    bundle.write();
    // A copy of the device that only root may open, and a user who is not root.
    let closed = "mount -t tmpfs -o mode=755 none /dev && mknod -m 666 /dev/null c 1 3 && \
                  mknod -m 666 /dev/urandom c 1 9 && mknod -m 600 /dev/kvm c 10 232 && exec \"$@\"";
    let command =
        crx().arg("--root").arg(&root).arg("run").arg("--bundle").arg(bundle.path()).arg(bundle.id());
    let unprivileged = command.wrapped(&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    refused(
        unprivileged.wrapped(&["unshare", "--mount", "sh", "-c", closed, "sh"]),
        &["no permission on /dev/kvm"],
    );
}

/// A file system too small for anything, mounted for one test.
struct Full(std::path::PathBuf);

impl Drop for Full {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_is_refused() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let bundle = Bundle::busybox().args(&["true"]);
    // 3 inodes: its root, the lock of the directory, the container's directory. 4: one file in that.
    for options in ["nr_inodes=2,size=64k", "nr_inodes=3,size=64k", "nr_inodes=4,size=64k", "size=4k"] {
        let root = bundle.path().join("full");
        std::fs::create_dir_all(&root).unwrap();
        images::run(Host::new("mount").args(["-t", "tmpfs", "-o", options, "full"]).arg(&root));
        let full = Full(root.clone());
        if options.starts_with("size") {
            // Pages, not inodes, are what is missing.
            let _ = std::fs::write(root.join("filler"), vec![1; 64 << 10]);
        }
        bundle.write();
        let command =
            crx().arg("--root").arg(&root).arg("run").arg("--bundle").arg(bundle.path()).arg(bundle.id());
        let outcome = refused(command, &["full", "No space left on device"]);
        let names: Vec<_> =
            std::fs::read_dir(&root).unwrap().flatten().map(|entry| entry.file_name()).collect();
        let left = names.iter().filter(|name| *name != ".lock" && *name != "filler").count();
        assert_eq!(left, 0, "left in the state directory with {options}: {names:?}\n{}", outcome.all());
        drop(full);
    }
}
