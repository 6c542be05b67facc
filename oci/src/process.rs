//! `process`: the program and everything that is its own (user, environment, limits, capabilities).

use std::path::Path;

use crx_proto::{Process, Rlimit};

use crate::capabilities::capabilities;
use crate::error::{SpecError, quote};
use crate::json::Field;
use crate::passwd::{self, User};
use crate::validate;

/// Index is the number in asm-generic/resource.h.
const RLIMITS: [&str; 16] = [
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];
/// Range of oom_score_adj (linux/oom.h).
const OOM_SCORE_ADJ: std::ops::RangeInclusive<i64> = -1000..=1000;
/// Bits of a file mode creation mask.
const UMASK_MAX: u32 = 0o777;
/// Lowest priority of an I/O class (IOPRIO_NR_LEVELS - 1 of linux/ioprio.h).
const IO_PRIORITY_MAX: u32 = 7;
/// Where the class is in ioprio_set(2)'s value (IOPRIO_CLASS_SHIFT of linux/ioprio.h).
const IO_CLASS_SHIFT: u16 = 13;

/// The container's process.
pub(crate) fn process(root: &Field<'_>, rootfs: &Path) -> Result<Process, SpecError> {
    let process = root.require("process")?;
    let args = process.strings("args")?;
    if args.is_empty() {
        return Err(process.child_error("args", "empty: there is no program to run"));
    }
    let user = process.get("user")?;
    let mut env = environment(&process)?;
    let (uid, gid) = owner(user.as_ref(), rootfs, &mut env)?;
    let mut additional_gids = Vec::new();
    let mut umask = None;
    if let Some(user) = &user {
        additional_gids =
            user.list("additionalGids")?.iter().map(validate::user_or_group_id).collect::<Result<_, _>>()?;
        umask = user.opt_unsigned_to("umask", UMASK_MAX)?;
    }
    Ok(Process {
        terminal: terminal(&process)?,
        args: args.into_iter().map(str::to_owned).collect(),
        env,
        cwd: validate::container_path(&process.require("cwd")?)?,
        uid,
        gid,
        additional_gids,
        umask,
        capabilities: capabilities(&process)?,
        rlimits: rlimits(&process)?,
        no_new_privileges: process.flag("noNewPrivileges")?,
        oom_score_adj: oom_score_adj(&process)?,
        io_priority: io_priority(&process)?,
    })
}

/// What is in the section and has no meaning in a pod, as warnings.
pub(crate) fn ignored(root: &Field<'_>, warnings: &mut Vec<String>) -> Result<(), SpecError> {
    let Some(process) = root.get("process")? else { return Ok(()) };
    // Set by callers for what the host has; the guest kernel has neither.
    for name in ["apparmorProfile", "selinuxLabel"] {
        if process.opt_string(name)?.is_some_and(|value| !value.is_empty()) {
            warnings.push(format!("config.json: process.{name}: does not exist in a pod, ignored"));
        }
    }
    Ok(())
}

fn environment(process: &Field<'_>) -> Result<Vec<String>, SpecError> {
    let entry = |field: Field<'_>| {
        let value = field.string()?;
        match value.split_once('=') {
            None => Err(field.error(format!("{} has no \"=\"", quote(value)))),
            Some(("", _)) => Err(field.error(format!("{} has no name before the \"=\"", quote(value)))),
            Some(_) => Ok(value.to_owned()),
        }
    };
    process.list("env")?.into_iter().map(entry).collect()
}

/// User and group. HOME, if it is not set, becomes the user's home directory, as runc does.
fn owner(user: Option<&Field<'_>>, rootfs: &Path, env: &mut Vec<String>) -> Result<(u32, u32), SpecError> {
    let id = |name: &str| {
        let field = user.map(|user| user.get(name)).transpose()?.flatten();
        field.map_or(Ok(0), |field| validate::user_or_group_id(&field))
    };
    let (uid, gid) = (id("uid")?, id("gid")?);
    let name_field = user.map(|user| user.get("username")).transpose()?.flatten();
    let name_field = name_field.filter(Field::is_filled);
    let has_home = env.iter().any(|entry| entry.strip_prefix("HOME=").is_some_and(|home| !home.is_empty()));
    if name_field.is_none() && has_home {
        return Ok((uid, gid));
    }
    let users = passwd::users(rootfs);
    let found = match &name_field {
        None => users.unwrap_or_default().into_iter().find(|user| user.uid == uid),
        Some(field) => {
            let name = field.string()?;
            let users = users.map_err(|source| SpecError::FieldIo {
                field: field.path().to_owned(),
                value: name.to_owned(),
                source,
            })?;
            Some(named(field, name, users, (uid, gid))?)
        }
    };
    if !has_home {
        let home = found.as_ref().map(|user| user.home.as_str()).filter(|home| home.starts_with('/'));
        env.retain(|entry| !entry.starts_with("HOME="));
        env.push(format!("HOME={}", home.unwrap_or("/")));
    }
    Ok(match found {
        Some(user) if name_field.is_some() => (user.uid, user.gid),
        _ => (uid, gid),
    })
}

fn named(field: &Field<'_>, name: &str, users: Vec<User>, ids: (u32, u32)) -> Result<User, SpecError> {
    let Some(user) = users.into_iter().find(|user| user.name == name) else {
        return Err(field.error(format!("there is no user {} in the image's /etc/passwd", quote(name))));
    };
    // 0 is what callers write who leave the number to the name.
    if ids != (0, 0) && ids != (user.uid, user.gid) {
        let (uid, gid) = ids;
        let problem = format!("{} is {}:{} in the image's /etc/passwd", quote(name), user.uid, user.gid);
        return Err(field.error(format!("{problem}, not {uid}:{gid}")));
    }
    Ok(user)
}

fn terminal(process: &Field<'_>) -> Result<Option<(u16, u16)>, SpecError> {
    if !process.flag("terminal")? {
        return Ok(None);
    }
    let Some(size) = process.get("consoleSize")? else { return Ok(Some((0, 0))) };
    let side = |name| Ok(size.opt_unsigned_to(name, u16::MAX.into())?.unwrap_or(0) as u16);
    Ok(Some((side("height")?, side("width")?)))
}

fn rlimits(process: &Field<'_>) -> Result<Vec<Rlimit>, SpecError> {
    let mut rlimits: Vec<Rlimit> = Vec::new();
    for field in process.list("rlimits")? {
        let kind = field.require("type")?;
        let name = kind.string()?;
        let Some(resource) = RLIMITS.iter().position(|known| *known == name) else {
            return Err(kind.error(format!("unknown resource limit {}", quote(name))));
        };
        let resource = resource as u32;
        if rlimits.iter().any(|other| other.resource == resource) {
            return Err(kind.error(format!("{name} is listed twice")));
        }
        let soft = field.opt_unsigned("soft")?.unwrap_or(0);
        let hard = field.opt_unsigned("hard")?.unwrap_or(0);
        if soft > hard {
            return Err(field.child_error("soft", format!("{soft} is above the hard limit {hard}")));
        }
        rlimits.push(Rlimit { resource, soft, hard });
    }
    Ok(rlimits)
}

fn oom_score_adj(process: &Field<'_>) -> Result<Option<i32>, SpecError> {
    let Some(field) = process.get("oomScoreAdj")? else { return Ok(None) };
    let value = field.signed()?;
    if !OOM_SCORE_ADJ.contains(&value) {
        return Err(field.error(format!("{value} is not in -1000 to 1000")));
    }
    Ok(Some(value as i32))
}

fn io_priority(process: &Field<'_>) -> Result<Option<u16>, SpecError> {
    let Some(field) = process.get("ioPriority")? else { return Ok(None) };
    let class_field = field.require("class")?;
    let class: u16 = match class_field.string()? {
        "IOPRIO_CLASS_RT" => 1,
        "IOPRIO_CLASS_BE" => 2,
        "IOPRIO_CLASS_IDLE" => 3,
        other => return Err(class_field.error(format!("unknown I/O priority class {}", quote(other)))),
    };
    let priority = field.opt_unsigned_to("priority", IO_PRIORITY_MAX)?.unwrap_or(0) as u16;
    Ok(Some(class << IO_CLASS_SHIFT | priority))
}
