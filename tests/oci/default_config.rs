//! The configuration that `spec` writes, unchanged but for the terminal.

use crx_fixture::{Bundle, Facts, Need, need};
use serde_json::json;

#[test]
fn the_default_configuration_makes_the_container_it_describes() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let bundle = Bundle::busybox().set("/root/readonly", json!(true));
    let hostname = bundle.config["hostname"].as_str().unwrap().to_owned();
    let facts = Facts::ask(
        bundle,
        &[
            ("pid", "echo $$"),
            ("processes", "echo /proc/[0-9]*"),
            ("mountinfo", "cat /proc/self/mountinfo"),
            ("status", "cat /proc/self/status"),
            ("hostname", "cat /proc/sys/kernel/hostname"),
            ("write", "echo x > /file"),
            ("write to bin", "echo x > /bin/new"),
            ("sysctl", "echo 1 > /proc/sys/kernel/hostname"),
            ("sysfs", "mkdir /sys/fs/cgroup/x || echo 1 > /sys/kernel/mm/ksm/run"),
            ("kcore", "cat /proc/kcore 2>/dev/null | wc -c"),
            ("timer_list", "cat /proc/timer_list 2>/dev/null | wc -c"),
            ("network", "ls /sys/class/net"),
            ("loopback", "cat /sys/class/net/lo/flags"),
            ("cgroup", "cat /proc/self/cgroup"),
            ("shm", "echo x > /dev/shm/x && cat /dev/shm/x"),
            ("null", "echo x > /dev/null && cat /dev/null | wc -c"),
            ("links", "for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done"),
            (
                "nodes",
                "stat -c '%n %F %t:%T %a' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty",
            ),
            ("full", "echo x > /dev/full"),
            ("zero", "head -c 5 /dev/zero | wc -c"),
            ("random", "head -c 16 /dev/urandom | wc -c"),
            ("descriptors", "ls /proc/self/fd"),
        ],
    );
    facts.expect("pid", "1");
    let others = facts.text("processes").split(' ').filter(|path| *path != "/proc/1").count();
    assert!(others <= 1, "foreign processes: {}", facts.text("processes"));
    facts.expect("hostname", &hostname);
    facts.expect_failure("write", "Read-only file system");
    facts.expect_failure("write to bin", "Read-only file system");
    facts.expect_failure("sysctl", "Read-only file system");
    facts.expect_failure("sysfs", "Read-only file system");
    facts.expect("kcore", "0");
    facts.expect("timer_list", "0");
    facts.expect("network", "lo");
    facts.expect("loopback", "0x9");
    facts.expect_part("cgroup", ":/");
    facts.expect("shm", "x");
    facts.expect("null", "0");
    facts.expect("links", "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx");
    facts.expect(
        "nodes",
        "/dev/null character special file 1:3 666\n/dev/zero character special file 1:5 666\n\
         /dev/full character special file 1:7 666\n/dev/random character special file 1:8 666\n\
         /dev/urandom character special file 1:9 666\n/dev/tty character special file 5:0 666",
    );
    facts.expect_failure("full", "No space left on device");
    facts.expect("zero", "5");
    facts.expect("random", "16");
    // 3 is the directory that ls reads.
    facts.expect("descriptors", "0\n1\n2\n3");
    expect_mounts(&facts);
    expect_privileges(&facts);
}

fn expect_mounts(facts: &Facts) {
    facts.mount("/").expect(&["ro"]);
    for (point, kind, options) in [
        ("/proc", "proc", &["rw"][..]),
        ("/dev", "tmpfs", &["rw", "nosuid"]),
        ("/dev/pts", "devpts", &["nosuid", "noexec"]),
        ("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev"]),
        ("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        ("/sys", "sysfs", &["ro", "nosuid", "noexec", "nodev"]),
    ] {
        let mount = facts.mount(point);
        assert_eq!(mount.fstype, kind, "type of {point}");
        mount.expect(options);
    }
    facts.mount("/dev").expect_super(&["mode=755", "size=65536k"]);
    facts.mount("/dev/shm").expect_super(&["size=65536k"]);
    facts.mount("/dev/pts").expect_super(&["gid=5", "mode=620", "ptmxmode=666"]);
    facts.mount("/proc/sys").expect(&["ro"]);
}

/// Root with three capabilities: what the bounding set leaves is permitted and effective.
fn expect_privileges(facts: &Facts) {
    let status = facts.text("status");
    for (name, value) in [
        ("CapPrm:", "0000000020000420"),
        ("CapEff:", "0000000020000420"),
        ("CapBnd:", "0000000020000420"),
        ("NoNewPrivs:", "1"),
        ("Umask:", "0022"),
    ] {
        let found = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        assert_eq!(found, value, "{name} in\n{status}");
    }
}
