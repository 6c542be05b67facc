//! Fields of config.json that cannot be honoured: the line names the field.

use std::fs;
use std::os::unix::fs::symlink;

use crx_fixture::{Bundle, Need, need};
use serde_json::json;

use crate::field_refused;

#[test]
fn an_unknown_version_is_refused() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    let bundle = Bundle::busybox();
    for version in ["2.0.0", "0.9.0", "one", "", "1.0"] {
        field_refused(&bundle, "/ociVersion", json!(version), &["ociVersion"]);
    }
    field_refused(&bundle, "/ociVersion", json!(1), &["ociVersion"]);
}

#[test]
fn a_process_that_cannot_be_is_refused() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    let bundle = Bundle::busybox();
    field_refused(&bundle, "/process/args", json!([]), &["process.args"]);
    field_refused(&bundle, "/process/args", json!("sh"), &["process.args"]);
    field_refused(&bundle, "/process/args", json!(["sh", "nul\u{0}byte"]), &["process.args[1]"]);
    field_refused(&bundle, "/process/cwd", json!("relative"), &["process.cwd", "relative"]);
    field_refused(&bundle, "/process/env/-", json!("no equals sign"), &["process.env["]);
    field_refused(
        &bundle,
        "/process/user",
        json!({"username": "nobody-here"}),
        &["process.user", "nobody-here"],
    );
    field_refused(&bundle, "/process/user", json!({"uid": -1, "gid": 0}), &["process.user.uid"]);
    field_refused(
        &bundle,
        "/process/user",
        json!({"uid": 4_294_967_296_u64, "gid": 0}),
        &["process.user.uid"],
    );
    field_refused(&bundle, "/process/oomScoreAdj", json!(1001), &["process.oomScoreAdj", "1001"]);
    field_refused(
        &bundle,
        "/process/rlimits/-",
        json!({"type": "RLIMIT_NOTHING", "soft": 1, "hard": 1}),
        &["process.rlimits[1].type", "RLIMIT_NOTHING"],
    );
    field_refused(
        &bundle,
        "/process/rlimits/-",
        json!({"type": "RLIMIT_CORE", "soft": 2, "hard": 1}),
        &["process.rlimits[1].soft"],
    );
    for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
        let field = format!("process.capabilities.{set}");
        let pointer = format!("/process/capabilities/{set}");
        field_refused(&bundle, &pointer, json!(["CAP_OF_DARKNESS"]), &[&field, "CAP_OF_DARKNESS"]);
    }
}

#[test]
fn a_root_that_is_missing_or_no_directory_is_refused() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    let bundle = Bundle::busybox();
    fs::write(bundle.path().join("file"), "").unwrap();
    symlink("/not/there", bundle.path().join("link")).unwrap();
    for path in ["not-there", "file", "link", ""] {
        field_refused(&bundle, "/root/path", json!(path), &["root.path"]);
    }
    field_refused(&bundle, "/root", json!({}), &["root.path"]);
}

#[test]
fn a_mount_that_cannot_be_is_refused() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    let bundle = Bundle::busybox();
    let last = bundle.config["mounts"].as_array().unwrap().len();
    let field = |name: &str| format!("mounts[{last}].{name}");
    for destination in ["relative", "../up", "/../../up", "", "/"] {
        let mount = json!({"destination": destination, "type": "tmpfs", "source": "tmpfs"});
        field_refused(&bundle, "/mounts/-", mount, &[&field("destination")]);
    }
    let mount = json!({"type": "tmpfs", "source": "tmpfs"});
    field_refused(&bundle, "/mounts/-", mount, &[&field("destination")]);
    let mount = json!({"destination": "/x", "type": "tmpfs", "source": "tmpfs", "options": [3]});
    field_refused(&bundle, "/mounts/-", mount, &[&field("options[0]")]);
}

#[test]
fn an_unknown_namespace_or_seccomp_word_is_refused() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    let bundle = Bundle::busybox();
    let last = bundle.config["linux"]["namespaces"].as_array().unwrap().len();
    let field = format!("linux.namespaces[{last}].type");
    field_refused(&bundle, "/linux/namespaces/-", json!({"type": "spirit"}), &[&field, "spirit"]);
    field_refused(&bundle, "/linux/namespaces/-", json!({"type": "pid"}), &["linux.namespaces["]);
    let seccomp = |action: &str, rule: &str, op: &str, arch: &str| {
        let arguments = json!([{"index": 0, "value": 1, "op": op}]);
        let rule = json!({"names": ["mkdir"], "action": rule, "args": arguments});
        json!({"defaultAction": action, "architectures": [arch], "syscalls": [rule]})
    };
    let (allow, equal, arch) = ("SCMP_ACT_ALLOW", "SCMP_CMP_EQ", "SCMP_ARCH_X86_64");
    for (profile, words) in [
        (seccomp("SCMP_ACT_PRAY", allow, equal, arch), ["linux.seccomp.defaultAction", "SCMP_ACT_PRAY"]),
        (seccomp(allow, "SCMP_ACT_PRAY", equal, arch), ["linux.seccomp.syscalls[0].action", "SCMP_ACT_PRAY"]),
        (
            seccomp(allow, allow, "SCMP_CMP_ISH", arch),
            ["linux.seccomp.syscalls[0].args[0].op", "SCMP_CMP_ISH"],
        ),
        (seccomp(allow, allow, equal, "SCMP_ARCH_Z80"), ["linux.seccomp.architectures[0]", "SCMP_ARCH_Z80"]),
    ] {
        field_refused(&bundle, "/linux/seccomp", profile, &words);
    }
    let profile = json!({"defaultAction": allow, "syscalls": [{"names": ["mkdir"], "action": allow, "args": [{"index": 6, "value": 1, "op": equal}]}]});
    field_refused(&bundle, "/linux/seccomp", profile, &["linux.seccomp.syscalls[0].args[0].index"]);
}

#[test]
fn resources_that_cannot_be_are_refused() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    let bundle = Bundle::busybox();
    let resources = "/linux/resources";
    for (value, words) in [
        (json!({"memory": {"limit": 1}}), "linux.resources.memory.limit"),
        (json!({"memory": {"limit": 65_536}}), "linux.resources.memory.limit"),
        (json!({"memory": {"limit": "1G"}}), "linux.resources.memory.limit"),
        (json!({"memory": {"limit": 67_108_864, "swap": 1024}}), "linux.resources.memory.swap"),
        (json!({"cpu": {"period": 1}}), "linux.resources.cpu.period"),
        (json!({"cpu": {"cpus": "a-b"}}), "linux.resources.cpu.cpus"),
        (
            json!({"devices": [{"allow": true, "type": "x", "access": "rwm"}]}),
            "linux.resources.devices[0].type",
        ),
        (
            json!({"devices": [{"allow": true, "type": "c", "access": "rwq"}]}),
            "linux.resources.devices[0].access",
        ),
        (json!({"unified": {"../escape": "1"}}), "linux.resources.unified"),
    ] {
        field_refused(&bundle, resources, value, &[words]);
    }
    let device = json!([{"path": "/dev/x", "type": "z", "major": 1, "minor": 1}]);
    field_refused(&bundle, "/linux/devices", device, &["linux.devices[0].type"]);
    field_refused(&bundle, "/linux/sysctl", json!({"kernel/../../x": "1"}), &["linux.sysctl"]);
    field_refused(&bundle, "/hostname", json!("x".repeat(65)), &["hostname"]);
    field_refused(&bundle, "/linux/maskedPaths/-", json!("relative"), &["linux.maskedPaths["]);
}

#[test]
fn what_is_not_supported_is_refused_and_not_left_out() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    let bundle = Bundle::busybox();
    let hook = json!({"poststart": [{"path": "bin/true"}]});
    field_refused(&bundle, "/hooks", hook, &["hooks.poststart[0].path", "absolute"]);
    let idmap = json!(["rbind", "idmap"]);
    let bind = bundle.mount("/data", "bind", "rootfs", &[]);
    let options = format!("/mounts/{}/options", bind.config["mounts"].as_array().unwrap().len() - 1);
    field_refused(&bind, &options, idmap, &["].options[1]", "ID-mapped mounts"]);
}

#[test]
fn a_user_namespace_that_cannot_be_is_refused() {
    if !need::met(&[Need::Crx]) {
        return;
    }
    let bundle = Bundle::busybox();
    let range = |container, host| json!({"containerID": container, "hostID": host, "size": 10});
    let ranges = json!([range(0, 100_000)]);
    let words = ["linux.gidMappings", "linux.namespaces", "user"];
    field_refused(&bundle, "/linux/gidMappings", ranges.clone(), &words);
    field_refused(&bundle, "/linux/namespaces/-", json!({"type": "user"}), &["linux.uidMappings", "missing"]);
    let bundle = bundle.set("/linux/namespaces/-", json!({"type": "user"})).set("/linux/gidMappings", ranges);
    let uids = "/linux/uidMappings";
    field_refused(&bundle, uids, json!([range(0, 0), range(9, 50)]), &["linux.uidMappings[1]", "overlaps"]);
    let many: Vec<_> = (0..341).map(|n| range(n * 10, n * 10)).collect();
    field_refused(&bundle, uids, json!(many), &["linux.uidMappings", "340"]);
}
