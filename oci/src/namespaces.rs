//! `linux.namespaces`: which kinds the container has, new or by path. Next: everything that needs one of them.

use crx_proto::{Namespace, NamespaceKind, TimeOffset, TimeOffsetClock};

use crate::error::{SpecError, quote};
use crate::json::Field;
use crate::validate;

/// Nanoseconds that are not a second.
const NANOSECONDS_MAX: u32 = 999_999_999;
/// The kinds by their names.
pub(crate) const KINDS: [(&str, NamespaceKind); 8] = [
    ("pid", NamespaceKind::Pid),
    ("network", NamespaceKind::Network),
    ("mount", NamespaceKind::Mount),
    ("ipc", NamespaceKind::Ipc),
    ("uts", NamespaceKind::Uts),
    ("user", NamespaceKind::User),
    ("cgroup", NamespaceKind::Cgroup),
    ("time", NamespaceKind::Time),
];

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
        if kind == NamespaceKind::User && path.is_some() {
            let problem = "a pod has no other user namespace to join; without a path a new one is made";
            return Err(field.child_error("path", problem));
        }
        namespaces.push(Namespace { kind, path });
    }
    Ok(namespaces)
}

/// `linux.timeOffsets`: the clocks of a new time namespace.
pub(crate) fn time_offsets(
    linux: &Field<'_>,
    namespaces: &[Namespace],
) -> Result<Vec<TimeOffset>, SpecError> {
    let is_new = |namespace: &Namespace| namespace.kind == NamespaceKind::Time && namespace.path.is_none();
    let offset = |(name, field): (&str, Field<'_>)| {
        let clock = match name {
            "monotonic" => TimeOffsetClock::Monotonic,
            "boottime" => TimeOffsetClock::Boottime,
            _ => return Err(field.error("only the clocks monotonic and boottime have offsets")),
        };
        if !namespaces.iter().any(is_new) {
            return Err(field.error("needs a new namespace of type \"time\" in linux.namespaces"));
        }
        let seconds = field.opt_signed("secs")?.unwrap_or(0);
        let nanoseconds = field.opt_unsigned_to("nanosecs", NANOSECONDS_MAX)?.unwrap_or(0);
        Ok(TimeOffset { clock, seconds, nanoseconds })
    };
    linux.entries("timeOffsets")?.into_iter().map(offset).collect()
}

fn kind(name: &str) -> Option<NamespaceKind> {
    KINDS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
}
