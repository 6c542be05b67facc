//! Every rule that refuses a configuration, with the exact line.

use serde_json::{Value, json};

use crate::support::{config_with, plan_of, refused};

#[track_caller]
fn check(pointer: &str, value: Value, line: &str) {
    assert_eq!(refused(&[(pointer, value)]), format!("config.json: {line}"));
}

#[test]
fn version() {
    check("/ociVersion", Value::Null, "ociVersion: missing");
    check("/ociVersion", json!(1), "ociVersion: expected a string, found 1");
    check("/ociVersion", json!("2.0.0"), "ociVersion: version 2.0.0 is not supported; 1.0 and later 1.x are");
    check("/ociVersion", json!("0.9.0"), "ociVersion: version 0.9.0 is not supported; 1.0 and later 1.x are");
    for bad in ["", "1", "1.0", "one", "1.0.x", "1.0.0-", "1..0", "1.0.0.0"] {
        check("/ociVersion", json!(bad), &format!("ociVersion: {bad:?} is not a version like \"1.0.2\""));
    }
}

#[test]
fn process() {
    check("/process", Value::Null, "process: missing");
    check("/process", json!([]), "process: expected an object, found an array");
    check("/process/args", Value::Null, "process.args: empty: there is no program to run");
    check("/process/args", json!([]), "process.args: empty: there is no program to run");
    check("/process/args", json!("sh"), "process.args: expected an array, found \"sh\"");
    check("/process/args", json!(["sh", 3]), "process.args[1]: expected a string, found 3");
    check("/process/cwd", Value::Null, "process.cwd: missing");
    check("/process/cwd", json!(""), "process.cwd: empty");
    check("/process/cwd", json!("tmp"), "process.cwd: \"tmp\" is not an absolute path");
    check("/process/env", json!(["A=1", "B"]), "process.env[1]: \"B\" has no \"=\"");
    check("/process/env", json!(["=1"]), "process.env[0]: \"=1\" has no name before the \"=\"");
    check("/process/terminal", json!(1), "process.terminal: expected true or false, found 1");
    let range = "process.consoleSize.height: expected an integer from 0 to 65535, found 65536";
    check("/process/consoleSize", json!({"height": 65536}), range);
    check("/process/oomScoreAdj", json!(1001), "process.oomScoreAdj: 1001 is not in -1000 to 1000");
    let class = "process.ioPriority.class: unknown I/O priority class \"X\"";
    check("/process/ioPriority", json!({"class": "X"}), class);
    let priority = "process.ioPriority.priority: expected an integer from 0 to 7, found 8";
    check("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 8}), priority);
    let scheduler = "process.scheduler: scheduling policies are not supported yet";
    check("/process/scheduler", json!({"policy": "SCHED_FIFO"}), scheduler);
}

#[test]
fn users() {
    let missing = "process.user.username: there is no user \"nobody\" in the image's /etc/passwd";
    check("/process/user/username", json!("nobody"), missing);
    let uid = "process.user.uid: expected an integer from 0 to 4294967294, found";
    check("/process/user/uid", json!(4_294_967_295_u32), &format!("{uid} 4294967295"));
    check("/process/user/uid", json!(-1), &format!("{uid} -1"));
    check("/process/user/uid", json!(1.5), &format!("{uid} 1.5"));
    let umask = "process.user.umask: expected an integer from 0 to 511, found 512";
    check("/process/user/umask", json!(512), umask);
    let group = "process.user.additionalGids[0]: expected an integer from 0 to 4294967294, found \"a\"";
    check("/process/user/additionalGids", json!(["a"]), group);
}

#[test]
fn capabilities_and_limits() {
    let unknown = "process.capabilities.bounding[1]: unknown capability \"CAP_FLY\"";
    check("/process/capabilities/bounding", json!(["CAP_KILL", "CAP_FLY"]), unknown);
    let lower = "process.capabilities.ambient[0]: unknown capability \"cap_kill\"";
    check("/process/capabilities/ambient", json!(["cap_kill"]), lower);
    let beyond = "process.capabilities.effective: CAP_SYS_ADMIN is not in the permitted set";
    check("/process/capabilities/effective", json!(["CAP_SYS_ADMIN"]), beyond);
    let unknown = "process.rlimits[0].type: unknown resource limit \"RLIMIT_FUN\"";
    check("/process/rlimits", json!([{"type": "RLIMIT_FUN", "soft": 1, "hard": 1}]), unknown);
    let core = json!({"type": "RLIMIT_CORE", "soft": 0, "hard": 0});
    let twice = "process.rlimits[1].type: RLIMIT_CORE is listed twice";
    check("/process/rlimits", json!([core, core]), twice);
    let above = "process.rlimits[0].soft: 2 is above the hard limit 1";
    check("/process/rlimits", json!([{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]), above);
    let negative = "process.rlimits[0].soft: expected an integer from 0 to 18446744073709551615, found -1";
    check("/process/rlimits", json!([{"type": "RLIMIT_CORE", "soft": -1, "hard": 1}]), negative);
}

#[test]
fn root_and_mounts() {
    check("/root", Value::Null, "root: missing");
    check("/root/path", Value::Null, "root.path: missing");
    check("/root/path", json!(""), "root.path: empty");
    check("/root/path", json!("no"), "root.path: \"no\": No such file or directory (os error 2)");
    check("/root/path", json!("config.json"), "root.path: \"config.json\" is not a directory");
    check("/mounts/2/destination", Value::Null, "mounts[2].destination: missing");
    check("/mounts/2/destination", json!(""), "mounts[2].destination: empty");
    check("/mounts/2/destination", json!("data"), "mounts[2].destination: \"data\" is not an absolute path");
    let escape = "mounts[2].destination: \"/a/../../b\" leads out of the root file system";
    check("/mounts/2/destination", json!("/a/../../b"), escape);
    check("/mounts/2/destination", json!("/./"), "mounts[2].destination: would cover the root file system");
    let no_type = "mounts[0].type: missing: a mount needs a type, or the option \"bind\" or \"rbind\"";
    check("/mounts/0/type", Value::Null, no_type);
    let bind = |source: Value| json!({"destination": "/x", "source": source, "options": ["rbind"]});
    check("/mounts/1", bind(Value::Null), "mounts[1].source: missing");
    check("/mounts/1", bind(json!("")), "mounts[1].source: empty");
    let gone = "mounts[1].source: \"/no/such\": No such file or directory (os error 2)";
    check("/mounts/1", bind(json!("/no/such")), gone);
    let mapped = "mounts[0].uidMappings: ID-mapped mounts are not supported yet";
    check("/mounts/0/uidMappings", json!([{"containerID": 0}]), mapped);
    let option = "mounts[0].options[1]: ID-mapped mounts are not supported yet";
    check("/mounts/0/options", json!(["ro", "ridmap"]), option);
    check("/linux/rootfsPropagation", json!("most"), "linux.rootfsPropagation: unknown propagation \"most\"");
    check("/linux/maskedPaths/0", json!("proc"), "linux.maskedPaths[0]: \"proc\" is not an absolute path");
    let leads = "linux.readonlyPaths[0]: \"/..\" leads out of the root file system";
    check("/linux/readonlyPaths/0", json!("/.."), leads);
}

#[test]
fn namespaces() {
    let unknown = "linux.namespaces[1].type: unknown namespace \"net\"";
    check("/linux/namespaces/1/type", json!("net"), unknown);
    check("/linux/namespaces/1/type", json!("pid"), "linux.namespaces[1].type: \"pid\" is listed twice");
    let relative = "linux.namespaces[0].path: \"ns\" is not an absolute path";
    check("/linux/namespaces/0/path", json!("ns"), relative);
    let only = |kinds: &[&str]| {
        let list = kinds.iter().map(|kind| json!({"type": kind})).collect::<Vec<_>>();
        ("/linux/namespaces", json!(list))
    };
    let line = refused(&[only(&["mount"])]);
    assert_eq!(line, "config.json: hostname: needs a namespace of type \"uts\" in linux.namespaces");
    let line = refused(&[only(&["mount"]), ("/hostname", json!("")), ("/domainname", json!("d"))]);
    assert_eq!(line, "config.json: domainname: needs a namespace of type \"uts\" in linux.namespaces");
    let line = refused(&[only(&["uts"])]);
    assert_eq!(
        line,
        "config.json: linux.maskedPaths: needs a namespace of type \"mount\" in linux.namespaces"
    );
    check("/hostname", json!("h".repeat(65)), "hostname: longer than 64 bytes");
}

#[test]
fn sysctls() {
    let refused_name = |name: &str, kinds: &[&str], problem: &str| {
        let list = kinds.iter().map(|kind| json!({"type": kind})).collect::<Vec<_>>();
        let edits = [("/linux/namespaces", json!(list)), ("/linux/sysctl", json!({name: "1"}))];
        assert_eq!(refused(&edits), format!("config.json: linux.sysctl[{name:?}]: {problem}"));
    };
    let all = ["mount", "uts"];
    refused_name("net.core.somaxconn", &all, "needs a namespace of type \"network\" in linux.namespaces");
    refused_name("kernel.shmmax", &all, "needs a namespace of type \"ipc\" in linux.namespaces");
    refused_name("kernel.hostname", &all, "set by the field hostname");
    refused_name("vm.swappiness", &all, "does not belong to a namespace of the container");
    refused_name("net/../vm/swappiness", &all, "not a name below /proc/sys");
    refused_name("net..x", &all, "not a name below /proc/sys");
    let type_line = "linux.sysctl[\"kernel.shmmax\"]: expected a string, found 1";
    check("/linux/sysctl", json!({"kernel.shmmax": 1}), type_line);
}

#[test]
fn hooks() {
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        let line = |problem: &str| format!("hooks.{kind}[0].{problem}");
        check("/hooks", json!({kind: [{}]}), &line("path: missing"));
        check(
            "/hooks",
            json!({kind: [{"path": "bin/true"}]}),
            &line("path: \"bin/true\" is not an absolute path"),
        );
        let timeout = json!([{"path": "/bin/true", "timeout": 0}]);
        check("/hooks", json!({kind: timeout}), &line("timeout: 0 is not greater than zero"));
    }
}

#[test]
fn what_is_not_supported() {
    let rdt = "linux.intelRdt: cache and memory bandwidth allocation does not exist in a pod";
    check("/linux/intelRdt", json!({"closID": "a"}), rdt);
    let personality = "linux.personality.domain: \"LINUX32\" is not supported; LINUX is";
    check("/linux/personality", json!({"domain": "LINUX32"}), personality);
    let devices = "linux.netDevices: moving network devices into a container is not supported yet";
    check("/linux/netDevices", json!({"eth0": {}}), devices);
}

#[test]
fn devices() {
    let device = |edit: (&str, Value)| {
        let mut device = json!({"path": "/dev/x", "type": "c", "major": 1, "minor": 2});
        *device.as_object_mut().unwrap().entry(edit.0).or_insert(Value::Null) = edit.1;
        json!([device])
    };
    let at = "/linux/devices";
    check(at, device(("path", Value::Null)), "linux.devices[0].path: missing");
    check(at, device(("path", json!("x"))), "linux.devices[0].path: \"x\" is not an absolute path");
    check(at, device(("path", json!("/"))), "linux.devices[0].path: is the root directory");
    check(at, device(("type", json!("z"))), "linux.devices[0].type: unknown device type \"z\"");
    let major = "linux.devices[0].major: expected an integer from 0 to 4095, found";
    check(at, device(("major", json!(-1))), &format!("{major} -1"));
    check(at, device(("major", json!(4096))), &format!("{major} 4096"));
    check(at, device(("minor", Value::Null)), "linux.devices[0].minor: missing");
    let at = "/linux/resources/devices";
    check(at, json!([{"allow": false}]), "linux.resources.devices[0].access: missing");
    check(at, json!([{"access": ""}]), "linux.resources.devices[0].access: empty");
    let access = "linux.resources.devices[0].access: \"rx\" has other letters than r, w and m";
    check(at, json!([{"access": "rx"}]), access);
    let kind = "linux.resources.devices[0].type: unknown device type \"p\"";
    check(at, json!([{"access": "r", "type": "p"}]), kind);
    let major = "linux.resources.devices[0].major: expected an integer from 0 to 4095, found -2";
    check(at, json!([{"access": "r", "major": -2}]), major);
}

#[test]
fn nul_bytes() {
    check("/process/args", json!(["a\0b"]), "process.args[0]: has a NUL byte");
    check("/annotations", json!({"a\0": "b"}), "annotations.a\\0: has a NUL byte");
}

#[test]
fn long_values_are_cut_in_the_line() {
    let line = refused(&[("/process/cwd", json!("x".repeat(5000)))]);
    assert!(line.len() < 200, "{line}");
}

#[test]
fn no_linux_section_is_a_container_without_limits() {
    let mut config = config_with(&[("/hostname", Value::Null)]);
    config.as_object_mut().unwrap().remove("linux");
    let planned = plan_of(&config).unwrap();
    assert_eq!(planned.plan.namespaces, []);
    assert_eq!(planned.plan.seccomp, None);
}
