//! File semantics: links, renames, holes, mappings, locks, attributes, permissions, as `semantics.pl` tries
//! them in one process, and what the host sees of it afterwards.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

use crx_fixture::{Bundle, Need, need};
use rustix::fs::{XattrFlags, setxattr};

#[test]
fn files_behave_as_on_the_host() {
    if !need::met(&[Need::Container, Need::Debian]) {
        return;
    }
    let bundle = Bundle::debian().capabilities(&[
        "CAP_SYS_ADMIN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_CHOWN",
        "CAP_SETUID",
        "CAP_SETGID",
        "CAP_MKNOD",
        "CAP_KILL",
    ]);
    let rootfs = bundle.rootfs();
    // Outside of the share, and a link of the image that names it.
    let outside = bundle.path().join("outside");
    fs::write(&outside, "secret\n").unwrap();
    symlink(&outside, rootfs.join("to-the-host")).unwrap();
    symlink("../../../../../../../../etc/hostname", rootfs.join("etc/up")).unwrap();
    fs::write(rootfs.join("etc/hostname"), "of the image\n").unwrap();
    // Whether the host's file system has user attributes at all.
    fs::write(rootfs.join("probe"), "").unwrap();
    let user_attributes = setxattr(rootfs.join("probe"), "user.probe", b"x", XattrFlags::empty()).is_ok();
    let attribute = if user_attributes { "user.crx" } else { "trusted.crx" };
    fs::write(rootfs.join("semantics.pl"), include_str!("semantics.pl")).unwrap();
    let outside = outside.to_str().unwrap().to_owned();
    let bundle = bundle.args(&["perl", "/semantics.pl", attribute, &outside]);
    let outcome = bundle.run();
    let text = outcome.out();
    let failed: Vec<&str> = text.lines().filter(|line| !line.starts_with("ok ")).collect();
    assert!(failed.is_empty() && outcome.status.success(), "{}\n{}", failed.join("\n"), outcome.all());
    // Every check of the script reported itself.
    let checks = include_str!("semantics.pl").lines().filter(|line| line.starts_with("check(")).count();
    assert_eq!(text.lines().count(), checks, "{}", outcome.all());

    let left = |name: &str| fs::symlink_metadata(rootfs.join("s").join(name)).unwrap();
    assert_eq!(
        (left("hard1").ino(), left("hard1").nlink()),
        (left("hard2").ino(), 2),
        "hard links on the host"
    );
    assert_eq!((left("owned").uid(), left("owned").gid()), (1000, 1001), "the owner on the host");
    assert_eq!(left("owned").permissions().mode() & 0o7777, 0o640, "permissions on the host");
    assert!(left("sparse").blocks() * 512 < 1 << 20, "the hole takes {} blocks", left("sparse").blocks());
    assert_eq!(left("sparse").len(), (5 << 30) + 1, "length of a sparse file on the host");
    assert_eq!(
        fs::read(rootfs.join("s/mapped")).unwrap()[4096..4106],
        *b"0123456789",
        "written through a mapping"
    );
    assert_eq!((left("times").mtime(), left("times").mtime_nsec()), (1_000_000_000, 123_456_789));
    assert!(left("fifo").file_type().is_fifo(), "a fifo");
}
