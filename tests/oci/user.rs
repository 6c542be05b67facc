//! User namespaces: what root and another user of the container are inside, on the host's files, and to the kernel.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use crx_fixture::pty::Terminal;
use crx_fixture::{Bundle, Facts, Need, Runtime, need};
use serde_json::{Value, json};

/// User and group 0 of the container, on the host.
const ROOT: (u32, u32) = (100_000, 200_000);

/// A bundle with a user namespace whose root owns the image's root directory, not what is in it.
fn bundle(uids: &Value) -> Bundle {
    let bundle = Bundle::busybox()
        .set("/linux/namespaces/-", json!({"type": "user"}))
        .set("/linux/uidMappings", uids.clone())
        .set("/linux/gidMappings", json!([{"containerID": 0, "hostID": ROOT.1, "size": 65536}]));
    // On the way to the image the container's root is nobody.
    fs::set_permissions(bundle.path(), Permissions::from_mode(0o755)).unwrap();
    chown(bundle.rootfs(), Some(ROOT.0), Some(ROOT.1)).unwrap();
    bundle
}

fn words(text: &str) -> String {
    text.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join("|")
}

#[test]
fn root_of_a_user_namespace_is_nobody_outside() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let bundle = bundle(&json!([{"containerID": 0, "hostID": ROOT.0, "size": 65536}]))
        .capabilities(&[
            "CAP_SYS_ADMIN",
            "CAP_CHOWN",
            "CAP_MKNOD",
            "CAP_DAC_OVERRIDE",
            "CAP_NET_ADMIN",
            "CAP_SYS_TIME",
        ])
        .set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
    let script = crx_fixture::facts::script(&[
        ("maps", "cat /proc/self/uid_map /proc/self/gid_map"),
        ("ids", "id -u; id -g; cat /proc/self/setgroups"),
        ("owners", "stat -c %u:%g / /bin/busybox /proc/$$"),
        ("write", "echo x > /written && mkdir /made && stat -c %u:%g /written"),
        ("chown", "touch /given && chown 5:7 /given && stat -c %u:%g /given"),
        ("foreign", "echo x > /etc/foreign"),
        ("unmapped", "chown 70000 /given"),
        ("capabilities", "grep -E 'Cap(Eff|Bnd)' /proc/self/status"),
        ("mount", "mount -t tmpfs none /made && grep -c ' /made tmpfs ' /proc/self/mounts"),
        ("hostname", "hostname inside && hostname"),
        ("clock", "date -s 2001-01-01"),
        ("mknod", "mknod /node c 1 3"),
        ("nodes", "stat -c '%n %F %t:%T %a' /dev/null /dev/zero /dev/tty"),
        ("zero", "head -c 5 /dev/zero | wc -c; echo x > /dev/null"),
        ("stdout", "echo again > /dev/stdout"),
        (
            "network",
            "cat /sys/class/net/lo/flags /proc/sys/net/ipv4/ip_forward; ip link set lo down && cat /sys/class/net/lo/flags",
        ),
        ("mountinfo", "cat /proc/self/mountinfo"),
    ]) + "exit 0\n";
    let bundle = bundle.script(&script);
    let facts = Facts::read(&bundle.run().expect(0));

    assert_eq!(words(facts.text("maps")), "0 100000 65536|0 200000 65536");
    facts.expect("ids", "0\n0\nallow");
    // What the mapping does not name is nobody's.
    facts.expect("owners", "0:0\n65534:65534\n0:0");
    facts.expect("write", "0:0");
    facts.expect("chown", "5:7");
    facts.expect_failure("foreign", "Permission denied");
    facts.expect_failure("unmapped", "Invalid argument");
    assert_eq!(words(facts.text("capabilities")), "CapEff: 000000000a201003|CapBnd: 000000000a201003");
    facts.expect("mount", "1");
    facts.expect("hostname", "inside");
    facts.expect_part("clock", "Operation not permitted");
    facts.expect_failure("mknod", "Operation not permitted");
    let nodes = [
        "null character special file 1:3 666",
        "zero character special file 1:5 666",
        "tty character special file 5:0 666",
    ];
    facts.expect("nodes", &nodes.map(|node| format!("/dev/{node}")).join("\n"));
    facts.expect("zero", "5");
    facts.expect("stdout", "again");
    facts.expect("network", "0x9\n1\n0x8");
    assert_eq!(facts.mount("/proc").fstype, "proc");
    for (name, owner) in [("written", ROOT), ("made", ROOT), ("given", (ROOT.0 + 5, ROOT.1 + 7))] {
        let found = fs::metadata(bundle.rootfs().join(name)).unwrap();
        assert_eq!((found.uid(), found.gid()), owner, "{name} on the host");
    }
}

#[test]
fn a_user_in_a_user_namespace_has_what_its_section_says() {
    if !need::met(&[Need::Container, Need::CgroupV2]) {
        return;
    }
    let range = |container, host, size| json!({"containerID": container, "hostID": host, "size": size});
    let bundle = bundle(&json!([range(0, ROOT.0, 1), range(1000, 5000, 1)]))
        .set("/process/user", json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 2000], "umask": 0o027}))
        .set("/process/oomScoreAdj", json!(-100))
        .set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 256, "hard": 1_000_000}]))
        .capabilities(&["CAP_KILL"])
        .set(
            "/linux/resources",
            json!({"devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]}),
        )
        .set("/linux/devices", json!([{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]))
        .edit(|config| {
            let mounts = config["mounts"].as_array_mut().unwrap();
            let cgroup = mounts.iter_mut().find(|mount| mount["destination"] == "/sys/fs/cgroup").unwrap();
            cgroup["options"] = json!(["rw", "nosuid", "noexec", "nodev"]);
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "cgroup");
            namespaces.push(json!({"type": "cgroup"}));
        });
    fs::set_permissions(bundle.rootfs().join("tmp"), Permissions::from_mode(0o1777)).unwrap();
    let script = crx_fixture::facts::script(&[
        ("maps", "cat /proc/self/uid_map"),
        ("ids", "id -u; id -g; id -G"),
        ("capabilities", "grep -E 'Cap(Prm|Eff|Bnd|Amb)' /proc/self/status"),
        ("oom", "cat /proc/self/oom_score_adj"),
        ("limits", "ulimit -n; ulimit -Hn"),
        ("file", "touch /tmp/mine && stat -c '%u:%g %a' /tmp/mine"),
        ("stdout", "echo again > /dev/stdout"),
        (
            "cgroup",
            "stat -c %u /sys/fs/cgroup && mkdir /sys/fs/cgroup/below && echo $$ > /sys/fs/cgroup/below/cgroup.procs",
        ),
        ("devices", "true < /dev/null; true < /dev/kmsg && echo x > /dev/kmsg"),
    ]) + "exit 0\n";
    let bundle = bundle.script(&script);
    let facts = Facts::read(&bundle.run().expect(0));

    assert_eq!(words(facts.text("maps")), "0 100000 1|1000 5000 1");
    facts.expect("ids", "1000\n1001\n1001 5 2000");
    let sets = ["Prm", "Eff", "Bnd", "Amb"].map(|set| format!("Cap{set}: 0000000000000020"));
    assert_eq!(words(facts.text("capabilities")), sets.join("|"));
    facts.expect("oom", "-100");
    facts.expect("limits", "256\n1000000");
    facts.expect("file", "1000:1001 640");
    facts.expect("stdout", "again");
    if Runtime::under_test() == Runtime::Crx {
        // runc does so with systemd alone.
        facts.expect("cgroup", "1000");
        facts.expect_success("cgroup");
    }
    facts.expect_failure("devices", "Operation not permitted");
    let file = fs::metadata(bundle.rootfs().join("tmp/mine")).unwrap();
    assert_eq!((file.uid(), file.gid()), (5000, ROOT.1 + 1001));
}

#[test]
fn a_terminal_in_a_user_namespace_is_its_users() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let bundle = bundle(&json!([{"containerID": 0, "hostID": ROOT.0, "size": 65536}]))
        .set("/process/terminal", json!(true))
        .set("/process/user/uid", json!(1000))
        .script("stat -c %u $(tty); test -c /dev/console && echo x > /dev/tty && stty size; exit 7");
    let mut terminal = Terminal::start(bundle.command(), 31, 101);
    terminal.expect("1000\r\nx\r\n31 101\r\n");
    let status = terminal.wait();
    assert_eq!(status.code(), Some(7), "{status}\n{}", terminal.screen());
}
