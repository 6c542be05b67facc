//! Device nodes (`linux.devices` and the ones every container has) and the rules of the device controller
//! (`linux.resources.devices`), for `plan.rs` and `resources.rs`.

use crx_proto::{Device, DeviceKind, DeviceRule};

use crate::error::{SpecError, quote};
use crate::json::Field;
use crate::validate;

/// Every container has these: path, major, minor (runtime specification, "Default Devices").
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];
/// Mode of a node that does not say.
const DEFAULT_MODE: u32 = 0o666;
/// Permission bits of a mode; callers also write the type of the file there.
const PERMISSIONS: u32 = 0o7777;
/// Largest numbers of the kernel's dev_t (MINORBITS of linux/kdev_t.h).
const MAJOR_MAX: u32 = 0xfff;
const MINOR_MAX: u32 = 0xf_ffff;
/// Access bits of the device controller (BPF_DEVCG_ACC_* of linux/bpf.h).
const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;

/// The nodes to make: the default ones, then the configured ones, which win over a default of the same path.
pub(crate) fn devices(linux: Option<&Field<'_>>) -> Result<Vec<Device>, SpecError> {
    let mut configured: Vec<Device> = Vec::new();
    for field in linux.map(|linux| linux.list("devices")).transpose()?.unwrap_or_default() {
        let device = device(&field)?;
        // As with runc, the first of two is made and the second finds it there.
        if !configured.iter().any(|other| other.path == device.path) {
            configured.push(device);
        }
    }
    let is_configured = |path: &str| configured.iter().any(|device| device.path == path);
    let defaults =
        DEFAULT.iter().filter(|(path, ..)| !is_configured(path)).map(|&(path, major, minor)| Device {
            path: path.to_owned(),
            kind: DeviceKind::Char,
            major,
            minor,
            mode: DEFAULT_MODE,
            uid: 0,
            gid: 0,
        });
    let mut devices: Vec<Device> = defaults.collect();
    devices.extend(configured);
    Ok(devices)
}

fn device(field: &Field<'_>) -> Result<Device, SpecError> {
    let path_field = field.require("path")?;
    let path = validate::container_path(&path_field)?;
    if path == "/" {
        return Err(path_field.error("is the root directory"));
    }
    let kind_field = field.require("type")?;
    let kind = match kind_field.string()? {
        "c" | "u" => DeviceKind::Char,
        "b" => DeviceKind::Block,
        "p" => DeviceKind::Fifo,
        other => return Err(kind_field.error(format!("unknown device type {}", quote(other)))),
    };
    let number = |name, max| {
        if kind == DeviceKind::Fifo {
            return Ok(0);
        }
        field.require(name)?.unsigned_to(max)
    };
    let id = |name| field.get(name)?.map_or(Ok(0), |field| validate::user_or_group_id(&field));
    let mode = field.opt_unsigned_to("fileMode", u32::MAX)?;
    Ok(Device {
        path,
        kind,
        major: number("major", MAJOR_MAX)?,
        minor: number("minor", MINOR_MAX)?,
        mode: mode.map_or(DEFAULT_MODE, |mode| mode & PERMISSIONS),
        uid: id("uid")?,
        gid: id("gid")?,
    })
}

/// The rules of the device controller: the configured ones, then those for the default nodes, as with runc. If
/// nothing is denied there are none, and no program has to be attached.
pub(crate) fn rules(resources: &Field<'_>, devices: &[Device]) -> Result<Vec<DeviceRule>, SpecError> {
    let mut rules = Vec::new();
    for field in resources.list("devices")? {
        rules.push(rule(&field)?);
    }
    if rules.iter().all(|rule| rule.allow) {
        return Ok(Vec::new());
    }
    let allow =
        |kind, major, minor, access| DeviceRule { allow: true, kind: Some(kind), major, minor, access };
    let all = MKNOD | READ | WRITE;
    rules.push(allow(DeviceKind::Char, None, None, MKNOD));
    rules.push(allow(DeviceKind::Block, None, None, MKNOD));
    for (path, major, minor) in DEFAULT {
        let is_default =
            |device: &Device| (device.path.as_str(), device.major, device.minor) == (path, major, minor);
        if devices.iter().any(is_default) {
            rules.push(allow(DeviceKind::Char, Some(major), Some(minor), all));
        }
    }
    // /dev/pts/N (UNIX98_PTY_SLAVE_MAJOR) and /dev/ptmx (linux/major.h, TTYAUX_MAJOR).
    rules.push(allow(DeviceKind::Char, Some(136), None, all));
    rules.push(allow(DeviceKind::Char, Some(5), Some(2), all));
    Ok(rules)
}

fn rule(field: &Field<'_>) -> Result<DeviceRule, SpecError> {
    let kind = match field.opt_string("type")?.unwrap_or_default() {
        "" | "a" => None,
        "c" | "u" => Some(DeviceKind::Char),
        "b" => Some(DeviceKind::Block),
        other => {
            return Err(field.child_error("type", format!("unknown device type {}", quote(other))));
        }
    };
    let number = |name, max| match field.get(name)? {
        Some(field) if field.signed().is_ok_and(|number| number == -1) => Ok(None),
        Some(field) => field.unsigned_to(max).map(Some),
        None => Ok(None),
    };
    let access_field = field.require("access")?;
    let text = access_field.string()?;
    if text.is_empty() {
        return Err(access_field.error("empty"));
    }
    let mut access = 0;
    for letter in text.chars() {
        access |= match letter {
            'm' => MKNOD,
            'r' => READ,
            'w' => WRITE,
            _ => {
                return Err(access_field.error(format!("{} has other letters than r, w and m", quote(text))));
            }
        };
    }
    Ok(DeviceRule {
        allow: field.flag("allow")?,
        kind,
        major: number("major", MAJOR_MAX)?,
        minor: number("minor", MINOR_MAX)?,
        access,
    })
}
