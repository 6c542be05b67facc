//! `linux.namespaces`: which kinds the container has, new or by path. Next: everything that needs one of them.

use crx_proto::{Namespace, NamespaceKind};

use crate::error::{SpecError, quote};
use crate::json::Field;
use crate::validate;

/// The namespaces in their order, each kind at most once.
pub(crate) fn namespaces(linux: &Field<'_>) -> Result<Vec<Namespace>, SpecError> {
    let mut namespaces: Vec<Namespace> = Vec::new();
    for field in linux.list("namespaces")? {
        let kind_field = field.require("type")?;
        let name = kind_field.string()?;
        let Some(kind) = kind(name) else {
            return Err(kind_field.error(format!("unknown namespace {}", quote(name))));
        };
        if validate::has(&namespaces, kind) {
            return Err(kind_field.error(format!("{} is listed twice", quote(name))));
        }
        let path = match field.get("path")? {
            Some(path) if path.is_filled() => Some(validate::container_path(&path)?),
            _ => None,
        };
        if kind == NamespaceKind::User && path.is_none() {
            return Err(kind_field.error("new user namespaces are not supported yet"));
        }
        namespaces.push(Namespace { kind, path });
    }
    Ok(namespaces)
}

fn kind(name: &str) -> Option<NamespaceKind> {
    Some(match name {
        "pid" => NamespaceKind::Pid,
        "network" => NamespaceKind::Network,
        "mount" => NamespaceKind::Mount,
        "ipc" => NamespaceKind::Ipc,
        "uts" => NamespaceKind::Uts,
        "user" => NamespaceKind::User,
        "cgroup" => NamespaceKind::Cgroup,
        "time" => NamespaceKind::Time,
        _ => return None,
    })
}
