//! What is reported is what is understood.

use crx_oci::features;
use serde_json::{Value, json};

use crate::support::{planned, refused};

/// The strings at a pointer of the report.
fn reported(pointer: &str) -> Vec<String> {
    let features = features(&json!({"x": "y"}), &["z"]);
    let list = features.pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {features}"));
    serde_json::from_value(list.clone()).unwrap()
}

#[test]
fn the_report_has_the_form_of_the_specification() {
    let features = features(&json!({"x": "y"}), &["z"]);
    assert_eq!(features["ociVersionMin"], "1.0.0");
    assert_eq!(features["ociVersionMax"], crx_oci::SPEC_VERSION);
    assert_eq!(
        (&features["annotations"]["x"], &features["potentiallyUnsafeConfigAnnotations"][0]),
        (&json!("y"), &json!("z"))
    );
    for section in ["seccomp", "apparmor", "selinux", "intelRdt", "mountExtensions/idmap"] {
        let enabled = features.pointer(&format!("/linux/{section}/enabled"));
        assert_eq!(enabled, Some(&json!(section == "seccomp")), "{section}");
    }
    assert_eq!(features["linux"]["cgroup"]["v2"], true);
}

#[test]
fn every_mount_option_is_understood() {
    let options = reported("/mountOptions");
    for option in ["ro", "rro", "rbind", "rslave", "tmpcopyup", "defaults", "nosymfollow", "rnoatime"] {
        assert!(options.contains(&option.to_owned()), "{option}");
    }
    for option in options {
        let mount =
            json!([{"destination": "/x", "type": "bind", "source": "/tmp", "options": ["bind", option]}]);
        // A bind mount has no options of a file system: they are warned of.
        assert_eq!(planned(&[("/mounts", mount)]).warnings, Vec::<String>::new(), "{option}");
    }
}

#[test]
fn every_name_is_understood() {
    for name in reported("/linux/namespaces") {
        let namespaces = json!([{"type": "mount"}, {"type": "uts"}, {"type": name, "path": "/proc/1/ns/x"}]);
        let line = refused(&[("/linux/namespaces", namespaces)]);
        assert!(!line.contains("unknown"), "{line}");
    }
    for name in reported("/linux/capabilities") {
        planned(&[("/process/capabilities", json!({"bounding": [name]}))]);
    }
    for name in reported("/hooks") {
        assert!(refused(&[(&format!("/hooks/{name}"), json!([{}]))]).contains("path: missing"), "{name}");
    }
}

#[test]
fn every_word_of_seccomp_is_understood() {
    let seccomp = |edit: Value| {
        let mut profile = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        profile.as_object_mut().unwrap().extend(edit.as_object().unwrap().clone());
        planned(&[("/linux/seccomp", profile)]).plan.seccomp.unwrap()
    };
    for action in reported("/linux/seccomp/actions") {
        seccomp(json!({"syscalls": [{"names": ["read"], "action": action}]}));
    }
    for op in reported("/linux/seccomp/operators") {
        let args = json!([{"index": 0, "value": 1, "op": op}]);
        seccomp(json!({"syscalls": [{"names": ["read"], "action": "SCMP_ACT_KILL", "args": args}]}));
    }
    seccomp(json!({"architectures": reported("/linux/seccomp/archs")}));
    seccomp(json!({"flags": reported("/linux/seccomp/knownFlags")}));
    for flag in reported("/linux/seccomp/supportedFlags") {
        assert_ne!(seccomp(json!({"flags": [flag]})).flags, 0, "{flag}");
    }
}
