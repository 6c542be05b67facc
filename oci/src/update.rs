//! `crx update`: resources that a container shall have from now on. They are written like `linux.resources`; what is
//! left out, and a number that is 0, stays as it is.

use crx_proto::Cgroup;
use serde_json::{Map, Value, json};

use crate::bundle::{self, Bundle};
use crate::error::SpecError;
use crate::json::Field;
use crate::resources;

/// Sections that can change while a container runs; as with runc, device rules cannot.
const SECTIONS: [&str; 6] = ["memory", "cpu", "pids", "blockIO", "hugepageLimits", "unified"];
/// Numbers whose 0 is a value.
const ZERO_COUNTS: [&str; 3] = ["idle", "burst", "swappiness"];

/// A change of resources.
#[derive(Debug)]
pub struct Update {
    /// What changes.
    pub limits: Cgroup,
    /// What is passed over, one line each.
    pub warnings: Vec<String>,
    /// The container's configuration with the change in it, to be kept.
    pub config_json: Vec<u8>,
}

/// Plans a change of the resources of `container`, whose configuration has what is set so far.
///
/// # Errors
/// The text is not JSON, or a field of it cannot be honoured.
pub fn update(container: &Bundle, resources: &[u8]) -> Result<Update, SpecError> {
    let mut change = bundle::parse(resources).map_err(SpecError::of_resources)?;
    if let Some(sections) = change.as_object_mut() {
        sections.retain(|name, _| SECTIONS.contains(&name.as_str()));
        sections.values_mut().for_each(drop_unchanged);
    }
    let mut config = container.config.clone();
    let kept = config.pointer("/linux/resources").cloned().unwrap_or(Value::Null);
    let merged = merge(kept.clone(), change.clone());
    // What cgroup v2 has in one file is set together.
    complete(&mut change, &kept, "cpu", &["quota", "period", "burst"], &["quota", "period"]);
    complete(&mut change, &kept, "memory", &["swap"], &["limit"]);
    let mut warnings = Vec::new();
    let limits = resources::limits(&Field::root(&change), &mut warnings).map_err(SpecError::of_resources)?;
    config = merge(config, json!({ "linux": { "resources": merged } }));
    Ok(Update { limits, warnings, config_json: config.to_string().into_bytes() })
}

/// Takes the numbers off a section that say "as it is".
fn drop_unchanged(section: &mut Value) {
    if let Some(section) = section.as_object_mut() {
        section.retain(|name, value| value.as_i64() != Some(0) || ZERO_COUNTS.contains(&name.as_str()));
    }
}

/// If a section changes one of `fields`, it takes `others` that it leaves out from what is set so far.
fn complete(change: &mut Value, kept: &Value, section: &str, fields: &[&str], others: &[&str]) {
    let Some(changed) = change.get_mut(section).and_then(Value::as_object_mut) else { return };
    let Some(kept) = kept.get(section).and_then(Value::as_object) else { return };
    let is_set =
        |object: &Map<String, Value>, name: &str| object.get(name).is_some_and(|value| !value.is_null());
    if !fields.iter().any(|name| is_set(changed, name)) {
        return;
    }
    for name in others.iter().filter(|name| is_set(kept, name)) {
        if !is_set(changed, name) {
            changed.insert((*name).to_owned(), kept.get(*name).cloned().unwrap_or(Value::Null));
        }
    }
}

/// `base` with the fields of `change`, objects field by field. A `null` is left out.
fn merge(base: Value, change: Value) -> Value {
    match (base, change) {
        (Value::Object(mut base), Value::Object(change)) => {
            for (name, value) in change {
                let old = base.remove(&name).unwrap_or(Value::Null);
                base.insert(name, merge(old, value));
            }
            Value::Object(base)
        }
        (base, Value::Null) => base,
        (_, change) => change,
    }
}
