//! Bind mounts: files and directories of the host, changes in both directions, links that lead elsewhere.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command as Host;

use crx_fixture::{Bundle, Facts, Need, facts, images, need};
use rustix::mount::{UnmountFlags, unmount};
use serde_json::json;

/// A directory of the host with a file system mounted in it, for recursive binds.
struct Tree<'a>(&'a Path);

impl<'a> Tree<'a> {
    fn new(path: &'a Path) -> Self {
        fs::create_dir_all(path.join("nested")).unwrap();
        images::run(Host::new("mount").args(["-t", "tmpfs", "nested"]).arg(path.join("nested")));
        fs::write(path.join("nested/file"), "nested\n").unwrap();
        fs::write(path.join("file"), "top\n").unwrap();
        Self(path)
    }
}

impl Drop for Tree<'_> {
    fn drop(&mut self) {
        let _ = unmount(self.0.join("nested"), UnmountFlags::DETACH);
    }
}

fn bundle() -> Bundle {
    let bundle = Bundle::busybox();
    let host = bundle.path().join("host");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    fs::create_dir_all(host.join("dir")).unwrap();
    fs::create_dir_all(bundle.path().join("outside")).unwrap();
    for (file, content) in
        [("dir/in", "from host\n"), ("dir/changing", "old\n"), ("file", "a file\n"), ("dns", "ns\n")]
    {
        fs::write(host.join(file), content).unwrap();
    }
    fs::copy(bundle.rootfs().join("bin/busybox"), host.join("dir/echo")).unwrap();
    fs::set_permissions(host.join("dir/echo"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("dir", host.join("link")).unwrap();
    fs::write(bundle.rootfs().join("etc/resolv.conf"), "image\n").unwrap();
    symlink("/../../../../../../tmp", bundle.rootfs().join("up")).unwrap();
    symlink(text(&bundle.path().join("outside")), bundle.rootfs().join("absolute")).unwrap();
    symlink("/etc/../b/linked", bundle.rootfs().join("inside")).unwrap();
    let (dir, tree) = (text(&host.join("dir")), text(&host.join("tree")));
    let file = text(&host.join("file"));
    bundle
        .capabilities(&["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"])
        .mount("/b/dir", "bind", &dir, &["bind"])
        .mount("/b/ro", "bind", &dir, &["rbind", "ro"])
        .mount("/b/noexec", "none", &dir, &["bind", "noexec", "nosuid", "nodev"])
        .mount("/b/file", "bind", &file, &["bind"])
        .mount("/b/ro-file", "bind", &file, &["bind", "ro"])
        .mount("/etc/resolv.conf", "bind", &text(&host.join("dns")), &["bind"])
        .mount("/b/relative", "bind", "host/dir", &["bind"])
        .mount("/b/of-link", "bind", &text(&host.join("link")), &["bind"])
        .mount("/b/bind", "bind", &tree, &["bind"])
        .mount("/b/rbind", "bind", &tree, &["rbind", "rslave"])
        .mount("/up/bound", "bind", &dir, &["bind"])
        .mount("/absolute/bound", "bind", &dir, &["bind"])
        .mount("/inside/bound", "bind", &file, &["bind"])
}

#[test]
fn binds_show_the_host_s_files_and_change_them() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let bundle = bundle();
    let questions = facts::script(&[
        ("mountinfo", "cat /proc/self/mountinfo"),
        ("directory", "cat /b/dir/in"),
        (
            "written",
            "echo from container > /b/dir/out; mkdir /b/dir/new; chmod 700 /b/dir/new; rm /b/dir/gone",
        ),
        ("read-only", "cat /b/ro/in; echo x > /b/ro/x"),
        ("exec", "/b/dir/echo works"),
        ("noexec", "/b/noexec/echo works"),
        ("file", "cat /b/file; echo changed > /b/file"),
        ("read-only file", "cat /b/ro-file; echo x > /b/ro-file"),
        ("over a file", "cat /etc/resolv.conf"),
        ("relative source", "cat /b/relative/in"),
        ("linked source", "cat /b/of-link/in"),
        ("bind", "cat /b/bind/file; ls /b/bind/nested"),
        ("rbind", "cat /b/rbind/file /b/rbind/nested/file; echo x > /b/rbind/nested/x"),
        ("up", "cat /tmp/bound/in"),
        ("absolute", "cat /absolute/bound/in"),
        ("inside", "cat /b/linked/bound"),
        ("remount", "mount -o remount,bind,rw /b/ro 2>/dev/null; echo x > /b/ro-file"),
        ("before", "cat /b/dir/changing"),
    ]);
    let later = facts::script(&[(
        "change of the host",
        "i=0; until grep -q new /b/dir/changing && [ -e /b/dir/go ]; do i=$((i+1)); [ $i -lt 100 ] || break; sleep 0.2; done; \
         cat /b/dir/changing /b/dir/go; ls /b/dir/disappearing",
    )]);
    fs::write(bundle.path().join("host/dir/gone"), "").unwrap();
    fs::write(bundle.path().join("host/dir/disappearing"), "").unwrap();
    let bundle = bundle.script(&format!("{questions}\necho ready\n{later}\nexit 0\n"));
    // After the bundle, so that it is unmounted before the bundle's directory is removed.
    let tree = bundle.path().join("host/tree");
    let _tree = Tree::new(&tree);
    let mut running = bundle.command().start();
    running.wait_for("\nready\n");
    let dir = bundle.path().join("host/dir");
    fs::write(dir.join("changing"), "new content\n").unwrap();
    fs::remove_file(dir.join("disappearing")).unwrap();
    fs::write(dir.join("go"), "go\n").unwrap();
    let facts = Facts::read(&running.wait().expect(0));

    facts.expect("directory", "from host");
    facts.expect_success("written");
    facts.expect_failure("read-only", "Read-only file system");
    facts.expect_part("read-only", "from host");
    facts.expect("exec", "works");
    facts.expect_failure("noexec", "Permission denied");
    facts.expect("file", "a file");
    facts.expect_failure("read-only file", "Read-only file system");
    facts.expect("over a file", "ns");
    facts.expect("relative source", "from host");
    facts.expect("linked source", "from host");
    facts.expect("bind", "top");
    facts.expect("rbind", "top\nnested");
    facts.expect("up", "from host");
    facts.expect("absolute", "from host");
    facts.expect("inside", "changed");
    facts.expect_failure("remount", "Read-only file system");
    facts.expect("before", "old");
    facts.expect_part("change of the host", "new content\ngo");
    facts.expect_part("change of the host", "No such file");
    facts.mount("/b/ro").expect(&["ro"]);
    facts.mount("/b/noexec").expect(&["rw", "noexec", "nosuid", "nodev"]);
    expect_on_the_host(&bundle);
}

fn expect_on_the_host(bundle: &Bundle) {
    let host = bundle.path().join("host");
    assert_eq!(fs::read_to_string(host.join("dir/out")).unwrap(), "from container\n");
    assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "changed\n");
    assert_eq!(
        fs::read_to_string(host.join("tree/nested/x")).unwrap(),
        "x\n",
        "nested mounts are the host's"
    );
    let new = fs::metadata(host.join("dir/new")).unwrap();
    assert!(new.is_dir() && new.permissions().mode() & 0o777 == 0o700, "{new:?}");
    assert!(!host.join("dir/gone").exists(), "removed inside, still there outside");
    assert!(!host.join("dir/x").exists(), "written through a read-only bind");
    assert_eq!(fs::read_to_string(bundle.rootfs().join("etc/resolv.conf")).unwrap(), "image\n");
    // Links of the image are followed inside of it, whatever they say.
    let outside = bundle.path().join("outside");
    assert_eq!(
        fs::read_dir(&outside).unwrap().count(),
        0,
        "something was made outside of the root file system"
    );
    assert!(!Path::new("/tmp/bound").exists(), "made in the host's /tmp");
    assert!(bundle.rootfs().join("tmp/bound").is_dir(), "not made where the link leads inside the root");
}

#[test]
fn a_bind_source_that_is_missing_is_refused() {
    if !need::met(&[Need::Pod]) {
        return;
    }
    let bundle = Bundle::busybox().mount("/b", "bind", "/not/there", &["bind"]);
    bundle.run().expect_refused(&["config.json", "mounts[", "/not/there"]);
    let bundle =
        Bundle::busybox().set("/mounts", json!([{"destination": "/b", "type": "bind", "options": ["bind"]}]));
    bundle.run().expect_refused(&["config.json", "mounts[0]", "source"]);
}
