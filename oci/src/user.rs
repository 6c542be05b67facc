//! `linux.uidMappings` and `linux.gidMappings`: what the IDs of the container's user namespace are in the pod, and
//! that the IDs the rest of config.json names are among them. A pod is a machine of its own: the specification's host
//! is the pod, and its IDs are those of the files that the host shares with it.

use crx_proto::{Device, IdMapping, Namespace, NamespaceKind, Process, UserMappings};

use crate::error::SpecError;
use crate::json::Field;
use crate::validate::{self, needs_namespace};

/// Most ranges (UID_GID_MAP_MAX_EXTENTS of linux/user_namespace.h).
const RANGES_MAX: usize = 340;
/// Most bytes of all lines: the kernel takes them in one write of less than a page (kernel/user_namespace.c, map_write).
const LINES_MAX_BYTES: usize = 4095;

/// The mappings, if there is a user namespace.
pub(crate) fn mappings(
    linux: &Field<'_>,
    namespaces: &[Namespace],
) -> Result<Option<UserMappings>, SpecError> {
    let [uids, gids] = ["uidMappings", "gidMappings"];
    if !validate::has(namespaces, NamespaceKind::User) {
        for name in [uids, gids] {
            if let Some(field) = linux.get(name)?.filter(Field::is_filled) {
                return Err(field.error(needs_namespace("user")));
            }
        }
        return Ok(None);
    }
    if !validate::has(namespaces, NamespaceKind::Mount) {
        // Without it nobody in the user namespace may mount anything, not even the container's root.
        return Err(linux.child_error("namespaces", "a user namespace needs one of type \"mount\" beside it"));
    }
    Ok(Some(UserMappings { uids: ranges(linux, uids)?, gids: ranges(linux, gids)? }))
}

/// The ranges of one field.
fn ranges(linux: &Field<'_>, name: &str) -> Result<Vec<IdMapping>, SpecError> {
    let fields = linux.list(name)?;
    if fields.is_empty() {
        return Err(linux.child_error(name, "missing: a user namespace needs it"));
    }
    if fields.len() > RANGES_MAX {
        let problem = format!("{} ranges, more than the kernel's {RANGES_MAX}", fields.len());
        return Err(linux.child_error(name, problem));
    }
    let mut ranges = Vec::new();
    for field in &fields {
        let range = range(field)?;
        if let Some(other) = ranges.iter().position(|other| overlap(other, &range)) {
            return Err(field.error(format!("overlaps {name}[{other}]")));
        }
        ranges.push(range);
    }
    if IdMapping::find(&ranges, 0).is_none() {
        return Err(linux.child_error(name, "ID 0 of the container is not mapped"));
    }
    let bytes = IdMapping::lines(&ranges).len();
    if bytes > LINES_MAX_BYTES {
        let problem = format!("{bytes} bytes as the kernel's lines, more than its {LINES_MAX_BYTES}");
        return Err(linux.child_error(name, problem));
    }
    Ok(ranges)
}

fn range(field: &Field<'_>) -> Result<IdMapping, SpecError> {
    let (container, pod) = (field.require("containerID")?, field.require("hostID")?);
    let size_field = field.require("size")?;
    let size = size_field.unsigned_to(u32::MAX)?;
    if size == 0 {
        return Err(size_field.error("0: the range is empty"));
    }
    let first = |id: &Field<'_>| {
        let first = validate::user_or_group_id(id)?;
        if first.checked_add(size).is_none() {
            return Err(id.error(format!("{first} and {size} more IDs end above 4294967295")));
        }
        Ok(first)
    };
    Ok(IdMapping { container: first(&container)?, pod: first(&pod)?, size })
}

fn overlap(one: &IdMapping, other: &IdMapping) -> bool {
    let meet = |a: u32, b: u32| a < b + other.size && b < a + one.size;
    meet(one.container, other.container) || meet(one.pod, other.pod)
}

/// Every ID of the process and of device nodes means something in the user namespace.
pub(crate) fn check_ids(
    mappings: Option<&UserMappings>,
    process: &Process,
    devices: &[Device],
) -> Result<(), SpecError> {
    let Some(UserMappings { uids, gids }) = mappings else { return Ok(()) };
    let check = |mappings: &[IdMapping], id, field: String, name| match IdMapping::find(mappings, id) {
        Some(_) => Ok(()),
        None => Err(SpecError::Field { field, problem: format!("{id} is not mapped by linux.{name}") }),
    };
    check(uids, process.uid, "process.user.uid".to_owned(), "uidMappings")?;
    check(gids, process.gid, "process.user.gid".to_owned(), "gidMappings")?;
    for (index, gid) in process.additional_gids.iter().enumerate() {
        check(gids, *gid, format!("process.user.additionalGids[{index}]"), "gidMappings")?;
    }
    for device in devices {
        let field = |name| format!("linux.devices ({}).{name}", device.path);
        check(uids, device.uid, field("uid"), "uidMappings")?;
        check(gids, device.gid, field("gid"), "gidMappings")?;
    }
    Ok(())
}
