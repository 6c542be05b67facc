//! What a configuration becomes: process, namespaces, mounts, devices and the rest of the plan.

use crx_proto::{BindSource, Device, DeviceKind, Mount, MountKind, NamespaceKind, Volume};
use serde_json::{Value, json};

use crate::support::{config_with, plan_in, planned, refused, write_bundle};

#[test]
fn the_default_configuration() {
    let plan = planned(&[]).plan;
    let kinds: Vec<_> = plan.namespaces.iter().map(|namespace| namespace.kind).collect();
    let expected = [
        NamespaceKind::Pid,
        NamespaceKind::Network,
        NamespaceKind::Ipc,
        NamespaceKind::Uts,
        NamespaceKind::Mount,
        NamespaceKind::Cgroup,
    ];
    assert_eq!(kinds, expected);
    assert_eq!((plan.hostname.as_deref(), plan.domainname, plan.rootfs_readonly), (Some("runc"), None, true));
    assert_eq!((plan.mounts.len(), plan.masked_paths.len(), plan.readonly_paths.len()), (7, 10, 5));
    let process = plan.process;
    assert_eq!((process.args, process.terminal), (vec!["sh".to_owned()], Some((0, 0))));
    assert_eq!(process.env.last().map(String::as_str), Some("HOME=/"));
    // CAP_KILL, CAP_NET_BIND_SERVICE and CAP_AUDIT_WRITE; none is inheritable, so none is ambient.
    let mask = 1 << 5 | 1 << 10 | 1 << 29;
    let sets = process.capabilities;
    assert_eq!((sets.bounding, sets.effective, sets.permitted), (mask, mask, mask));
    assert_eq!((sets.inheritable, sets.ambient), (0, 0));
    assert_eq!(
        (process.rlimits[0].resource, process.rlimits[0].soft, process.rlimits[0].hard),
        (7, 1024, 1024)
    );
    assert!(process.no_new_privileges);
}

#[test]
fn process_fields() {
    let plan = planned(&[
        ("/process/consoleSize", json!({"height": 24, "width": 80})),
        ("/process/user", json!({"uid": 1000, "gid": 100, "umask": 63, "additionalGids": [5, 6]})),
        ("/process/cwd", json!("/a//b/./../c/")),
        ("/process/oomScoreAdj", json!(-1000)),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 7})),
        ("/process/capabilities/inheritable", json!(["CAP_KILL"])),
        (
            "/linux/sysctl",
            json!({"net.core.somaxconn": "1", "fs.mqueue.msg_max": "2", "net/ipv4/conf/a.b/x": "3"}),
        ),
    ])
    .plan;
    let process = plan.process;
    assert_eq!(process.terminal, Some((24, 80)));
    assert_eq!((process.uid, process.gid, process.umask), (1000, 100, Some(0o77)));
    assert_eq!(process.additional_gids, [5, 6]);
    assert_eq!(process.cwd, "/a/c");
    assert_eq!((process.oom_score_adj, process.io_priority), (Some(-1000), Some(3 << 13 | 7)));
    assert_eq!(process.capabilities.ambient, 1 << 5);
    let names: Vec<_> = plan.sysctl.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["fs.mqueue.msg_max", "net.core.somaxconn", "net/ipv4/conf/a.b/x"]);
}

#[test]
fn users_of_the_image() {
    let directory = tempfile::tempdir().unwrap();
    let run = |edits: &[(&str, Value)]| {
        write_bundle(directory.path(), config_with(edits).to_string().as_bytes());
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:100:Bob:/home/bob:/bin/sh\n";
        std::fs::write(directory.path().join("rootfs/etc/passwd"), passwd).unwrap();
        plan_in(directory.path(), "test").map(|planned| planned.plan.process)
    };
    let home = |process: &crx_proto::Process| process.env.last().cloned().unwrap();
    let root = run(&[]).unwrap();
    assert_eq!((root.uid, home(&root)), (0, "HOME=/root".into()));
    let bob = run(&[("/process/user", json!({"uid": 0, "gid": 0, "username": "bob"}))]).unwrap();
    assert_eq!((bob.uid, bob.gid, home(&bob)), (1000, 100, "HOME=/home/bob".into()));
    let set = run(&[("/process/user/uid", json!(1000)), ("/process/env", json!(["HOME=/x"]))]).unwrap();
    assert_eq!((set.gid, set.env), (0, vec!["HOME=/x".to_owned()]));
    let unknown = run(&[("/process/user/uid", json!(77))]).unwrap();
    assert_eq!(home(&unknown), "HOME=/");
    let line = "config.json: process.user.username: \"bob\" is 1000:100 in the image's /etc/passwd, not 5:0";
    assert_eq!(run(&[("/process/user", json!({"uid": 5, "username": "bob"}))]).unwrap_err(), line);
}

fn mount(value: Value) -> Mount {
    planned(&[("/mounts/3", value)]).plan.mounts.swap_remove(3)
}

#[test]
fn file_systems() {
    let options = [
        "ro",
        "nosuid",
        "defaults",
        "size=64k",
        "mode=1777",
        "rprivate",
        "tmpcopyup",
        "atime",
        "huge=always",
    ];
    let tmpfs =
        mount(json!({"destination": "/run//x/", "type": "tmpfs", "source": "tmp", "options": options}));
    let expected = Mount {
        index: 3,
        destination: "/run/x".into(),
        kind: MountKind::FileSystem {
            fstype: "tmpfs".into(),
            source: "tmp".into(),
            data: "size=64k,mode=1777,huge=always".into(),
        },
        flags: libc_flags(&[1, 2]),
        clear_flags: 1024,
        propagation: 1 << 18 | 16384,
        recursive_flags: 0,
        recursive_clear_flags: 0,
        copy_up: true,
    };
    assert_eq!(tmpfs, expected);
    let cgroup = mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup2", "options": ["ro"]}));
    assert_eq!((cgroup.kind, cgroup.flags), (MountKind::Cgroup, 1));
    let other =
        mount(json!({"destination": "/x", "type": "overlay", "options": ["lowerdir=/a", "upperdir=/b"]}));
    let kind = MountKind::FileSystem {
        fstype: "overlay".into(),
        source: "overlay".into(),
        data: "lowerdir=/a,upperdir=/b".into(),
    };
    assert_eq!(other.kind, kind);
}

fn libc_flags(bits: &[u64]) -> u64 {
    bits.iter().sum()
}

#[test]
fn every_mount_option() {
    // Name, MS_* of linux/mount.h, cleared.
    let table = [
        ("ro", 1, false),
        ("rw", 1, true),
        ("nosuid", 2, false),
        ("suid", 2, true),
        ("nodev", 4, false),
        ("dev", 4, true),
        ("noexec", 8, false),
        ("exec", 8, true),
        ("sync", 16, false),
        ("async", 16, true),
        ("remount", 32, false),
        ("mand", 64, false),
        ("nomand", 64, true),
        ("dirsync", 128, false),
        ("nosymfollow", 256, false),
        ("symfollow", 256, true),
        ("noatime", 1 << 10, false),
        ("atime", 1 << 10, true),
        ("nodiratime", 1 << 11, false),
        ("diratime", 1 << 11, true),
        ("silent", 1 << 15, false),
        ("loud", 1 << 15, true),
        ("relatime", 1 << 21, false),
        ("norelatime", 1 << 21, true),
        ("iversion", 1 << 23, false),
        ("noiversion", 1 << 23, true),
        ("strictatime", 1 << 24, false),
        ("nostrictatime", 1 << 24, true),
        ("lazytime", 1 << 25, false),
        ("nolazytime", 1 << 25, true),
    ];
    let tmpfs = |options: &[&str]| mount(json!({"destination": "/x", "type": "tmpfs", "options": options}));
    for (name, flag, clear) in table {
        let mount = tmpfs(&[name]);
        let expected = if clear { (0, flag) } else { (flag, 0) };
        assert_eq!((mount.flags, mount.clear_flags), expected, "{name}");
        let is_attribute = [1, 2, 4, 8, 256, 1 << 10, 1 << 11, 1 << 21, 1 << 24].contains(&flag);
        let recursive = format!("r{name}");
        let mount = tmpfs(&[&recursive]);
        if is_attribute {
            assert_eq!((mount.recursive_flags, mount.recursive_clear_flags), expected, "{recursive}");
        } else {
            let is_data = matches!(&mount.kind, MountKind::FileSystem { data, .. } if *data == recursive);
            assert!(is_data, "{recursive}: {mount:?}");
        }
    }
    let last = tmpfs(&["ro", "rw", "nosuid", "rro", "rrw"]);
    assert_eq!(
        (last.flags, last.clear_flags, last.recursive_flags, last.recursive_clear_flags),
        (2, 1, 0, 1)
    );
    for (name, flag) in
        [("unbindable", 1 << 17), ("private", 1 << 18), ("slave", 1 << 19), ("shared", 1 << 20)]
    {
        assert_eq!(tmpfs(&[name]).propagation, flag, "{name}");
        assert_eq!(tmpfs(&[&format!("r{name}")]).propagation, flag | 16384, "r{name}");
        let plan = planned(&[("/linux/rootfsPropagation", json!(name))]).plan;
        assert_eq!(plan.rootfs_propagation, flag);
    }
    assert_eq!(planned(&[]).plan.rootfs_propagation, 0);
}

#[test]
fn bind_mounts_of_the_host() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    let file = path.join("file");
    std::fs::write(&file, "").unwrap();
    std::os::unix::fs::symlink(&file, path.join("link")).unwrap();
    let bind = |source: &str, kind: &str, options: Value| json!({"destination": "/x", "source": source, "type": kind, "options": options});
    let config = config_with(&[(
        "/mounts",
        json!([
            bind(path.to_str().unwrap(), "none", json!(["rbind", "ro", "rw", "U"])),
            bind("rootfs/../link", "", json!(["bind", "nosuid"])),
            bind("/dev/null", "bind", json!([])),
            bind("rootfs", "rbind", json!([])),
        ]),
    )]);
    write_bundle(&path, config.to_string().as_bytes());
    let planned = plan_in(&path, "test").unwrap();
    assert_eq!(planned.volumes, [path.clone(), file, path.join("rootfs")]);
    let is_directory: Vec<_> =
        planned.plan.volumes.iter().map(|&Volume { is_directory }| is_directory).collect();
    assert_eq!(is_directory, [true, false, true]);
    let kinds: Vec<_> = planned.plan.mounts.iter().map(|mount| mount.kind.clone()).collect();
    let volume = |number, recursive| MountKind::Bind { source: BindSource::Volume(number), recursive };
    let null = MountKind::Bind { source: BindSource::Guest("/dev/null".into()), recursive: false };
    assert_eq!(kinds, [volume(0, true), volume(1, false), null, volume(2, true)]);
    assert_eq!((planned.plan.mounts[0].flags, planned.plan.mounts[0].clear_flags), (0, 1));
    assert_eq!(
        planned.warnings,
        ["config.json: mounts[0].options: \"U\" means nothing for a bind mount, ignored"]
    );
}

#[test]
fn bind_mounts_of_the_guest() {
    let source = |source: &str| match mount(
        json!({"destination": "/x", "source": source, "options": ["bind"]}),
    )
    .kind
    {
        MountKind::Bind { source: BindSource::Guest(path), .. } => path,
        other => panic!("{other:?}"),
    };
    for path in [
        "/dev",
        "/dev/null",
        "/dev/net/tun",
        "/dev/not-on-this-host",
        "/proc",
        "/proc/sys/net",
        "/sys/fs/bpf",
    ] {
        assert_eq!(source(path), path);
    }
    assert_eq!(source("/tmp/../proc//self/./status"), "/proc/self/status");
    let gone = refused(&[(
        "/mounts/3",
        json!({"destination": "/x", "source": "/dev/shm/gone", "options": ["bind"]}),
    )]);
    assert_eq!(
        gone,
        "config.json: mounts[3].source: \"/dev/shm/gone\": No such file or directory (os error 2)"
    );
    for outside in ["/device", "/procfs", "/dev/../etc/gone"] {
        let line =
            refused(&[("/mounts/3", json!({"destination": "/x", "source": outside, "options": ["bind"]}))]);
        assert!(line.starts_with("config.json: mounts[3].source: "), "{line}");
    }
}

#[test]
fn devices() {
    let paths = |edits: &[(&str, Value)]| {
        planned(edits).plan.devices.into_iter().map(|device| device.path).collect::<Vec<_>>()
    };
    let defaults = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];
    assert_eq!(paths(&[]), defaults);
    let configured = json!([
        {"path": "/dev/zero", "type": "c", "major": 1, "minor": 3, "fileMode": 0o100_600, "uid": 7},
        {"path": "/dev/zero", "type": "b", "major": 1, "minor": 3},
        {"path": "/dev/pipe", "type": "p", "gid": 8}
    ]);
    let planned = planned(&[("/linux/devices", configured)]);
    let devices = &planned.plan.devices;
    let paths: Vec<_> = devices.iter().map(|device| device.path.as_str()).collect();
    let expected =
        ["/dev/null", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/zero", "/dev/pipe"];
    assert_eq!(paths, expected);
    let device = |path: &str, kind, (major, minor), mode, (uid, gid)| Device {
        path: path.to_owned(),
        kind,
        major,
        minor,
        mode,
        uid,
        gid,
    };
    assert_eq!(devices[5], device("/dev/zero", DeviceKind::Char, (1, 3), 0o600, (7, 0)));
    assert_eq!(devices[6], device("/dev/pipe", DeviceKind::Fifo, (0, 0), 0o666, (0, 8)));
    // The default rule of /dev/zero goes with its node.
    let rules = &planned.plan.cgroup.devices;
    assert!(!rules.iter().any(|rule| (rule.major, rule.minor) == (Some(1), Some(5))));
}

#[test]
fn what_a_pod_has_not_is_a_warning() {
    let planned = planned(&[
        ("/process/apparmorProfile", json!("docker-default")),
        ("/linux/namespaces/1/path", json!("/proc/1/ns/net")),
        ("/linux/cgroupsPath", json!("/a/b")),
        ("/annotations", json!({"a": "b"})),
        ("/unknown", json!({"field": 1})),
        ("/linux/personality", json!({"domain": "LINUX"})),
        ("/hooks", json!({"prestart": []})),
    ]);
    assert_eq!(planned.warnings, ["config.json: process.apparmorProfile: does not exist in a pod, ignored"]);
    assert_eq!(planned.plan.namespaces[1].path.as_deref(), Some("/proc/1/ns/net"));
    assert_eq!(planned.cgroups_path.as_deref(), Some("/a/b"));
    assert_eq!(planned.annotations.get("a").map(String::as_str), Some("b"));
}
