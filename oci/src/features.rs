//! What `crx features` reports, as `features.md` of the runtime specification has it: made from the tables with which
//! config.json is read, so that it says what is really understood.

use serde_json::{Value, json};

use crate::{SPEC_VERSION, capabilities, hooks, mounts, namespaces, seccomp};

/// Oldest version of the runtime specification that is understood.
const SPEC_VERSION_MIN: &str = "1.0.0";

/// The features of this crate. `annotations` are the caller's own about itself, `unsafe_annotations` those of config.json
/// that change what it does.
#[must_use]
pub fn features(annotations: &Value, unsafe_annotations: &[&str]) -> Value {
    let disabled = json!({ "enabled": false });
    json!({
        "ociVersionMin": SPEC_VERSION_MIN,
        "ociVersionMax": SPEC_VERSION,
        "hooks": hooks::MOMENTS.map(|(name, _)| name),
        "mountOptions": sorted(mounts::option_names()),
        "linux": {
            "namespaces": sorted(namespaces::KINDS.iter().map(|(name, _)| (*name).to_owned())),
            "capabilities": capabilities::NAMES.as_slice(),
            "cgroup": {
                "v1": true,
                "v2": true,
                "systemd": false,
                "systemdUser": false,
                "rdma": false,
            },
            "seccomp": {
                "enabled": true,
                "actions": sorted(seccomp::ACTIONS.iter().map(|(name, _)| (*name).to_owned())),
                "operators": sorted(seccomp::operator_names().map(str::to_owned)),
                "archs": sorted(seccomp::ARCHITECTURES.iter().map(|name| (*name).to_owned())),
                "knownFlags": seccomp::FLAGS.map(|(name, _)| name),
                "supportedFlags": supported_flags(),
            },
            "apparmor": disabled,
            "selinux": disabled,
            "intelRdt": disabled,
            "mountExtensions": { "idmap": disabled },
        },
        "annotations": annotations,
        "potentiallyUnsafeConfigAnnotations": unsafe_annotations,
    })
}

/// A flag without a bit is passed over.
fn supported_flags() -> Vec<&'static str> {
    seccomp::FLAGS.iter().filter(|(_, bit)| *bit != 0).map(|(name, _)| *name).collect()
}

fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}
