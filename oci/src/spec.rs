//! The configuration that `crx spec` writes: byte for byte what `runc spec` of runc 1.1 writes, so that
//! scripts that edit it keep working.

use serde::Serialize as _;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Value, json};

/// Version of the runtime specification that this crate was written to.
pub const SPEC_VERSION: &str = "1.2.0";

/// A config.json that runs `sh` on a terminal in `rootfs`.
#[must_use]
pub fn default_spec() -> &'static str {
    include_str!("default_config.json")
}

/// The same for a user without root's rights, as `runc spec --rootless` writes it: a user namespace in which this user
/// and group are root, the pod's network, and what such a namespace cannot mount or limit left out.
#[must_use]
pub fn rootless_spec(uid: u32, gid: u32) -> String {
    // The text is part of the program, and has each of these fields: the tests look at them.
    let mut config: Value = serde_json::from_str(default_spec()).unwrap_or_default();
    let mapping = |host_id: u32| json!([{ "containerID": 0, "hostID": host_id, "size": 1 }]);
    if let Some(linux) = config.get_mut("linux").and_then(Value::as_object_mut) {
        linux.remove("resources");
        linux.insert("uidMappings".to_owned(), mapping(uid));
        linux.insert("gidMappings".to_owned(), mapping(gid));
    }
    if let Some(namespaces) = config.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut) {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({ "type": "user" }));
    }
    for mount in config.get_mut("mounts").and_then(Value::as_array_mut).into_iter().flatten() {
        if mount["destination"] == "/sys" {
            let options = ["rbind", "nosuid", "noexec", "nodev", "ro"];
            *mount = json!({ "destination": "/sys", "type": "none", "source": "/sys", "options": options });
        }
        if let Some(options) = mount.get_mut("options").and_then(Value::as_array_mut) {
            // Groups that are not mapped.
            options.retain(|option| !option.as_str().is_some_and(|option| option.starts_with("gid=")));
        }
    }
    let mut text = Vec::new();
    // A vector takes everything.
    let _ = config.serialize(&mut Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"\t")));
    String::from_utf8_lossy(&text).into_owned()
}
