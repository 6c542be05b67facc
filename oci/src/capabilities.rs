//! Names of capabilities to bit masks, for `process.rs`.

use crx_proto::Capabilities;

use crate::error::{SpecError, quote};
use crate::json::Field;

/// Index is the number in linux/capability.h (Linux 6.12; the last one is CAP_LAST_CAP).
pub(crate) const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The five sets of `process.capabilities`; a process without them has none, as with runc.
pub(crate) fn capabilities(process: &Field<'_>) -> Result<Capabilities, SpecError> {
    let Some(field) = process.get("capabilities")? else { return Ok(Capabilities::default()) };
    let permitted = set(&field, "permitted")?;
    let inheritable = set(&field, "inheritable")?;
    let effective = set(&field, "effective")?;
    let beyond = effective & !permitted;
    if let Some(name) = NAMES.get(beyond.trailing_zeros() as usize) {
        return Err(field.child_error("effective", format!("{name} is not in the permitted set")));
    }
    // Linux raises an ambient capability only if it is permitted and inheritable; runc passes over the others,
    // and its own default configuration has some.
    let ambient = set(&field, "ambient")? & permitted & inheritable;
    Ok(Capabilities { bounding: set(&field, "bounding")?, effective, inheritable, permitted, ambient })
}

fn set(capabilities: &Field<'_>, name: &str) -> Result<u64, SpecError> {
    let mut mask = 0;
    for field in capabilities.list(name)? {
        let value = field.string()?;
        let Some(number) = NAMES.iter().position(|name| *name == value) else {
            return Err(field.error(format!("unknown capability {}", quote(value))));
        };
        mask |= 1 << number;
    }
    Ok(mask)
}
