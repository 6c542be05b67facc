//! One more process in a container: `process` as a file of its own, or the container's own with what the command line
//! changes. The container's config.json says everything else (users of its image, seccomp).

use std::path::Path;

use crx_proto::ExecPlan;
use serde_json::{Map, Value, json};

use crate::bundle::{self, Bundle};
use crate::error::SpecError;
use crate::json::Field;
use crate::{process, seccomp};

/// What the command line of `exec` changes of the container's own process.
#[derive(Clone, Debug, Default)]
pub struct ExecFlags {
    /// Program and arguments.
    pub args: Vec<String>,
    /// Working directory.
    pub cwd: Option<String>,
    /// `NAME=value` strings, added.
    pub env: Vec<String>,
    /// User and group ID.
    pub user: Option<(u32, Option<u32>)>,
    /// Supplementary groups, added.
    pub additional_gids: Vec<u32>,
    /// Capabilities, added to every set.
    pub capabilities: Vec<String>,
    /// no_new_privs, set.
    pub no_new_privileges: bool,
    /// It has a terminal.
    pub terminal: bool,
}

/// Plans a process in the container of `container`: `process_json`, or else what `flags` make of the container's own.
///
/// # Errors
/// The file or a field of it cannot be honoured.
pub fn exec_plan(
    container: &Bundle,
    process_json: Option<&Path>,
    flags: &ExecFlags,
    cgroup: &str,
) -> Result<ExecPlan, SpecError> {
    let section = match process_json {
        Some(path) => bundle::read_json(path)?,
        None => changed(container.config.get("process").cloned().unwrap_or(Value::Null), flags),
    };
    planned(container, section, cgroup)
}

/// Plans the process of a text, which is `process` as config.json has it, in the container of `container`.
///
/// # Errors
/// The text or a field of it cannot be honoured.
pub fn exec_plan_of(container: &Bundle, process_json: &[u8]) -> Result<ExecPlan, SpecError> {
    planned(container, bundle::parse(process_json)?, "")
}

fn planned(container: &Bundle, section: Value, cgroup: &str) -> Result<ExecPlan, SpecError> {
    let mut config = container.config.clone();
    if let Some(config) = config.as_object_mut() {
        config.insert("process".to_owned(), section);
    }
    let root = Field::root(&config);
    let linux = root.get("linux")?;
    Ok(ExecPlan {
        process: process::process(&root, &container.rootfs)?,
        seccomp: linux.as_ref().map(seccomp::seccomp).transpose()?.flatten(),
        cgroup: cgroup.to_owned(),
    })
}

/// The container's `process` with the changes of the command line.
fn changed(process: Value, flags: &ExecFlags) -> Value {
    let mut process = match process {
        Value::Object(process) => process,
        _ => Map::new(),
    };
    process.insert("args".to_owned(), json!(flags.args));
    process.insert("terminal".to_owned(), json!(flags.terminal));
    if let Some(cwd) = &flags.cwd {
        process.insert("cwd".to_owned(), json!(cwd));
    }
    if flags.no_new_privileges {
        process.insert("noNewPrivileges".to_owned(), json!(true));
    }
    append(&mut process, "env", flags.env.iter().map(|entry| json!(entry)));
    edit(&mut process, "user", |user| {
        if let Some((uid, gid)) = flags.user {
            user.insert("uid".to_owned(), json!(uid));
            user.remove("username");
            if let Some(gid) = gid {
                user.insert("gid".to_owned(), json!(gid));
            }
        }
        append(user, "additionalGids", flags.additional_gids.iter().map(|gid| json!(gid)));
    });
    if !flags.capabilities.is_empty() {
        edit(&mut process, "capabilities", |sets| {
            for set in ["bounding", "effective", "inheritable", "permitted", "ambient"] {
                append(sets, set, flags.capabilities.iter().map(|name| json!(name)));
            }
        });
    }
    Value::Object(process)
}

/// Edits the object of this name, made if it is not there.
fn edit(of: &mut Map<String, Value>, name: &str, edit: impl FnOnce(&mut Map<String, Value>)) {
    let mut object = match of.remove(name) {
        Some(Value::Object(object)) => object,
        _ => Map::new(),
    };
    edit(&mut object);
    of.insert(name.to_owned(), Value::Object(object));
}

/// Appends to the array of this name, made if it is not there.
fn append(of: &mut Map<String, Value>, name: &str, values: impl Iterator<Item = Value>) {
    match of.entry(name).or_insert_with(|| json!([])) {
        Value::Array(array) => array.extend(values),
        other => *other = values.collect(),
    }
}
