//! `mounts`, masked and read-only paths, sysctl: from /proc/self/mountinfo and by what then works.

use crx_fixture::{Bundle, Facts, Need, Runtime, need};
use serde_json::json;

const OWNER: &str = "uid=1000,gid=1001";

fn bundle() -> Bundle {
    let bundle = Bundle::busybox()
        .capabilities(&[
            "CAP_SYS_ADMIN",
            "CAP_MKNOD",
            "CAP_DAC_OVERRIDE",
            "CAP_CHOWN",
            "CAP_SETUID",
            "CAP_SETGID",
        ])
        .mount(
            "/t/tmp",
            "tmpfs",
            "one",
            &["nosuid", "noexec", "nodev", "size=1m", "mode=1750", "uid=1000", "gid=1001"],
        )
        .mount("/t/ro", "tmpfs", "two", &["ro", "noatime"])
        .mount(
            "/t/strict",
            "tmpfs",
            "three",
            &["strictatime", "nodiratime", "sync", "dirsync", "nr_inodes=10"],
        )
        .mount("/t/proc", "proc", "proc", &["ro", "nosuid", "nodev", "noexec"])
        .mount("/t/sys", "sysfs", "sysfs", &["ro", "nosuid"])
        .mount("/t/pts", "devpts", "devpts", &["newinstance", "ptmxmode=0600", "mode=0600", "gid=7"])
        .mount("/t/mq", "mqueue", "mqueue", &["nosuid"])
        .mount("/t/copy", "tmpfs", "tmpfs", &["tmpcopyup"])
        .mount("/t/tmp/inner", "tmpfs", "inner", &["rw"])
        .set("/linux/maskedPaths/-", json!("/secret/file"))
        .set("/linux/maskedPaths/-", json!("/secret/directory"))
        .set("/linux/maskedPaths/-", json!("/secret/not-there"))
        .set("/linux/readonlyPaths/-", json!("/fixed"))
        .set("/linux/readonlyPaths/-", json!("/not-there"))
        .set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1", "kernel.msgmax": "4242"}));
    for directory in ["secret/directory", "fixed/below", "t/copy/directory"] {
        std::fs::create_dir_all(bundle.rootfs().join(directory)).unwrap();
    }
    for file in ["secret/file", "secret/directory/file", "fixed/file", "t/copy/file", "t/copy/directory/file"]
    {
        std::fs::write(bundle.rootfs().join(file), "content\n").unwrap();
    }
    bundle
}

#[test]
fn mounts_have_the_types_and_options_that_are_written_down() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let facts = Facts::ask(
        bundle(),
        &[
            ("mountinfo", "cat /proc/self/mountinfo"),
            ("owner", "stat -c '%u:%g %a' /t/tmp"),
            ("noexec", "for d in /t/strict /t/tmp; do echo echo runs > $d/x; chmod 755 $d/x; $d/x; done"),
            ("size", "dd if=/dev/zero of=/t/tmp/big bs=64k count=32; rm -f /t/tmp/big"),
            ("nodev", "mknod /t/tmp/null c 1 3 && true < /t/tmp/null"),
            ("write to ro", "echo x > /t/ro/x"),
            ("inodes", "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do true > /t/strict/$i || break; done"),
            ("process in ro proc", "cat /t/proc/1/comm"),
            ("queue", "true > /t/mq/queue && cat /t/mq/queue"),
            ("copied", "cat /t/copy/file /t/copy/directory/file && echo more > /t/copy/file"),
            ("nested", "echo x > /t/tmp/inner/x && cat /t/tmp/inner/x"),
            ("masked file", "cat /secret/file"),
            ("masked directory", "ls /secret/directory; echo x > /secret/directory/x"),
            ("read-only path", "cat /fixed/file; echo x > /fixed/below/x"),
            ("beside it", "echo x > /secret/other"),
            ("forward", "cat /proc/sys/net/ipv4/ip_forward"),
            ("msgmax", "cat /proc/sys/kernel/msgmax"),
            ("unmount", "mkdir /t/own && mount -t tmpfs own /t/own && umount /t/own"),
        ],
    );
    expect_kinds(&facts);
    facts.expect("owner", "1000:1001 1750");
    facts.expect_failure("noexec", "Permission denied");
    facts.expect_part("noexec", "runs");
    facts.expect_part("size", "No space left on device");
    facts.expect_failure("nodev", "Permission denied");
    facts.expect_failure("write to ro", "Read-only file system");
    facts.expect_part("inodes", "No space left on device");
    facts.expect("process in ro proc", "sh");
    facts.expect_success("queue");
    facts.expect("copied", "content\ncontent");
    facts.expect("nested", "x");
    facts.expect("masked file", "");
    facts.expect_failure("masked directory", "Read-only file system");
    facts.expect_failure("read-only path", "Read-only file system");
    facts.expect_part("read-only path", "content");
    facts.expect_success("beside it");
    facts.expect("forward", "1");
    facts.expect("msgmax", "4242");
    facts.expect_success("unmount");
}

fn expect_kinds(facts: &Facts) {
    let tmp = facts.mount("/t/tmp");
    tmp.expect(&["rw", "nosuid", "nodev", "noexec"]);
    tmp.expect_super(&["size=1024k", "mode=1750"]);
    OWNER.split(',').for_each(|option| tmp.expect_super(&[option]));
    assert_eq!((tmp.fstype.as_str(), tmp.source.as_str()), ("tmpfs", "one"));
    facts.mount("/t/ro").expect(&["ro", "noatime", "!nosuid"]);
    facts.mount("/t/strict").expect(&["rw", "!relatime", "!noatime", "nodiratime"]);
    facts.mount("/t/strict").expect_super(&["sync", "dirsync", "nr_inodes=10"]);
    for (point, kind) in [("/t/proc", "proc"), ("/t/sys", "sysfs"), ("/t/mq", "mqueue"), ("/t/pts", "devpts")]
    {
        assert_eq!(facts.mount(point).fstype, kind, "type of {point}");
    }
    facts.mount("/t/proc").expect(&["ro", "nosuid", "nodev", "noexec"]);
    facts.mount("/t/sys").expect(&["ro", "nosuid", "!nodev"]);
    facts.mount("/t/pts").expect_super(&["gid=7", "mode=600", "ptmxmode=600"]);
    if Runtime::under_test() == Runtime::Crx {
        assert!(facts.mount("/").propagation.is_empty(), "the root is not private: {:?}", facts.mount("/"));
    }
}
