//! The rules: what is refused, one function each, with the line that says so. `bundle.rs` uses the first ones
//! on the file as a whole, the sections use the others on their fields; rules that need a table (names of
//! capabilities, limits, ...) are next to it.

use std::path::{Component, Path};

use crx_proto::{Namespace, NamespaceKind};

use crate::error::{SpecError, quote};
use crate::json::Field;

/// Longest ID: it names a directory and a cgroup (NAME_MAX of linux/limits.h).
const ID_MAX_BYTES: usize = 255;
/// Longest host and domain name (__NEW_UTS_LEN of linux/utsname.h).
const UTS_NAME_MAX_BYTES: usize = 64;
/// The one major version of the specification that is known; a new one may change the meaning of anything.
const SPEC_MAJOR: u64 = 1;

/// The ID of a container: what runc allows, so that no path can be made of it.
///
/// # Errors
/// It is empty, too long, `.` or `..`, or has other characters than letters, digits and `_+-.`.
pub fn container_id(id: &str) -> Result<(), SpecError> {
    let problem = if id.is_empty() {
        "empty"
    } else if id.len() > ID_MAX_BYTES {
        "longer than 255 bytes"
    } else if id == "." || id == ".." {
        "names a directory"
    } else if !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte)) {
        "only letters, digits and \"_\", \"+\", \"-\", \".\" are allowed"
    } else {
        return Ok(());
    };
    Err(SpecError::Id { id: id.to_owned(), problem })
}

/// `ociVersion` is a semantic version of a known major version.
pub(crate) fn oci_version(root: &Field<'_>) -> Result<(), SpecError> {
    let field = root.require("ociVersion")?;
    let version = field.string()?;
    let (core, rest) = version.split_at(version.find(['-', '+']).unwrap_or(version.len()));
    let parts: Vec<&str> = core.split('.').collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if parts.len() != 3 || !parts.iter().all(is_number) || rest.len() == 1 {
        return Err(field.error(format!("{} is not a version like \"1.0.2\"", quote(version))));
    }
    if parts.first().and_then(|major| major.parse().ok()) != Some(SPEC_MAJOR) {
        return Err(field.error(format!("version {version} is not supported; 1.0 and later 1.x are")));
    }
    Ok(())
}

/// What is not supported and would change what the container is: refused, not left out.
pub(crate) fn unsupported(root: &Field<'_>) -> Result<(), SpecError> {
    if let Some(process) = root.get("process")? {
        refuse(&process, "scheduler", "scheduling policies are not supported yet")?;
    }
    let Some(linux) = root.get("linux")? else { return Ok(()) };
    refuse(&linux, "intelRdt", "cache and memory bandwidth allocation does not exist in a pod")?;
    refuse(&linux, "netDevices", "moving network devices into a container is not supported yet")?;
    refuse(&linux, "memoryPolicy", "NUMA memory policies are not supported yet")?;
    personality(&linux)
}

fn refuse(object: &Field<'_>, name: &str, problem: &str) -> Result<(), SpecError> {
    match object.get(name)? {
        Some(field) if field.is_filled() => Err(field.error(problem)),
        _ => Ok(()),
    }
}

/// `LINUX` is what every process has; anything else the guest kernel cannot give.
fn personality(linux: &Field<'_>) -> Result<(), SpecError> {
    let Some(personality) = linux.get("personality")? else { return Ok(()) };
    refuse(&personality, "flags", "personality flags are not supported")?;
    let domain = personality.require("domain")?;
    match domain.string()? {
        "LINUX" => Ok(()),
        other => Err(domain.error(format!("{} is not supported; LINUX is", quote(other)))),
    }
}

/// An absolute path in the container, cleaned of `.`, `..` and double slashes; it must not lead out of the root.
pub(crate) fn container_path(field: &Field<'_>) -> Result<String, SpecError> {
    let value = field.string()?;
    if value.is_empty() {
        return Err(field.error("empty"));
    }
    if !value.starts_with('/') {
        return Err(field.error(format!("{} is not an absolute path", quote(value))));
    }
    let mut names: Vec<&str> = Vec::new();
    for component in Path::new(value).components() {
        match component {
            Component::Normal(name) => names.extend(name.to_str()),
            Component::ParentDir => {
                if names.pop().is_none() {
                    return Err(field.error(format!("{} leads out of the root file system", quote(value))));
                }
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(format!("/{}", names.join("/")))
}

/// The paths of `linux.maskedPaths` or `linux.readonlyPaths`, which need a mount namespace of the container.
pub(crate) fn covered_paths(
    linux: &Field<'_>,
    name: &str,
    namespaces: &[Namespace],
) -> Result<Vec<String>, SpecError> {
    let paths = linux.list(name)?;
    if !paths.is_empty() && !has(namespaces, NamespaceKind::Mount) {
        return Err(linux.child_error(name, needs_namespace("mount")));
    }
    paths.iter().map(container_path).collect()
}

/// `hostname` or `domainname`: needs a UTS namespace of the container and fits into the kernel's field.
pub(crate) fn uts_name(
    root: &Field<'_>,
    name: &str,
    namespaces: &[Namespace],
) -> Result<Option<String>, SpecError> {
    let Some(field) = root.get(name)? else { return Ok(None) };
    let value = field.string()?;
    if value.is_empty() {
        return Ok(None);
    }
    if !has(namespaces, NamespaceKind::Uts) {
        return Err(field.error(needs_namespace("uts")));
    }
    if value.len() > UTS_NAME_MAX_BYTES {
        return Err(field.error(format!("longer than {UTS_NAME_MAX_BYTES} bytes")));
    }
    Ok(Some(value.to_owned()))
}

/// `linux.sysctl`: only what belongs to a namespace that the container has, as with runc.
pub(crate) fn sysctl(
    linux: &Field<'_>,
    namespaces: &[Namespace],
) -> Result<Vec<(String, String)>, SpecError> {
    let entry = |(name, field): (&str, Field<'_>)| {
        let value = field.string()?;
        if let Some(problem) = sysctl_problem(name, namespaces) {
            return Err(field.error(problem));
        }
        Ok((name.to_owned(), value.to_owned()))
    };
    linux.entries("sysctl")?.into_iter().map(entry).collect()
}

fn sysctl_problem(name: &str, namespaces: &[Namespace]) -> Option<String> {
    // sysctl.d(5): the first separator decides; with slashes, a dot is part of a name (net/ipv4/conf/eth0.1/...).
    let slashes = name.find(['.', '/']).is_some_and(|first| name.as_bytes().get(first) == Some(&b'/'));
    let parts: Vec<&str> = name.split(if slashes { '/' } else { '.' }).collect();
    if parts.len() < 2 || parts.iter().any(|part| part.is_empty() || *part == "." || *part == "..") {
        return Some("not a name below /proc/sys".to_owned());
    }
    let needed = match parts.as_slice() {
        [
            "kernel",
            "msgmax" | "msgmnb" | "msgmni" | "sem" | "shmall" | "shmmax" | "shmmni" | "shm_rmid_forced",
        ]
        | ["fs", "mqueue", ..] => (NamespaceKind::Ipc, "ipc"),
        ["net", ..] => (NamespaceKind::Network, "network"),
        ["kernel", "domainname"] => (NamespaceKind::Uts, "uts"),
        ["kernel", "hostname"] => return Some("set by the field hostname".to_owned()),
        _ => return Some("does not belong to a namespace of the container".to_owned()),
    };
    (!has(namespaces, needed.0)).then(|| needs_namespace(needed.1))
}

/// The container has a namespace of this kind, new or by path.
pub(crate) fn has(namespaces: &[Namespace], kind: NamespaceKind) -> bool {
    namespaces.iter().any(|namespace| namespace.kind == kind)
}

/// What is missing for a field that belongs to a namespace.
pub(crate) fn needs_namespace(kind: &str) -> String {
    format!("needs a namespace of type {} in linux.namespaces", quote(kind))
}

/// A number as a user or group ID: 4294967295 means "leave as it is" to the kernel.
pub(crate) fn user_or_group_id(field: &Field<'_>) -> Result<u32, SpecError> {
    field.unsigned_to(u32::MAX - 1)
}
