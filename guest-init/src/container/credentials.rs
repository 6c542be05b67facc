//! Who the process is: capabilities, user and groups, and the seccomp filter, which has its place between them.

use crx_proto::{Capabilities, Process, Seccomp, StartError};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_no_new_privs,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::failure::failed;
use crate::sys;

/// Sets everything but what must come after the last change of directory.
///
/// Without no_new_privs only CAP_SYS_ADMIN may install a filter, so it comes first and what follows passes through
/// it, as with runc; with no_new_privs it comes last of all, in [`install_last`].
pub(crate) fn assume(process: &Process, seccomp: Option<&Seccomp>) -> Result<(), StartError> {
    if process.no_new_privileges {
        set_no_new_privs(true).map_err(|error| failed("process.noNewPrivileges", "set", error))?;
    } else if let Some(seccomp) = seccomp {
        install(seccomp)?;
    }
    drop_bounding(process.capabilities.bounding)
        .map_err(|error| failed("process.capabilities.bounding", "drop", error))?;
    set_user(process)?;
    set_sets(&process.capabilities)
}

/// Installs the filter of a process with no_new_privs.
pub(crate) fn install_last(process: &Process, seccomp: Option<&Seccomp>) -> Result<(), StartError> {
    match seccomp {
        Some(seccomp) if process.no_new_privileges => install(seccomp),
        _ => Ok(()),
    }
}

fn install(seccomp: &Seccomp) -> Result<(), StartError> {
    sys::install_seccomp(seccomp.flags, &seccomp.program)
        .map_err(|error| failed("linux.seccomp", "install the filter", error))
}

/// Drops what is not in `keep` from the bounding set. The kernel says where its capabilities end.
fn drop_bounding(keep: u64) -> Result<(), Errno> {
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if capability.bits() & keep != 0 {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // Numbers past the last capability; the kernel's answer for one that it has is never this.
            Err(Errno::INVAL) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Becomes the user. PID 1 and what it clones is root without supplementary groups, so that much needs no call.
fn set_user(process: &Process) -> Result<(), StartError> {
    if !process.additional_gids.is_empty() {
        let groups: Vec<Gid> = process.additional_gids.iter().map(|gid| Gid::from_raw(*gid)).collect();
        set_thread_groups(&groups).map_err(|error| failed("process.user.additionalGids", "set", error))?;
    }
    if process.gid != 0 {
        let gid = Gid::from_raw(process.gid);
        set_thread_res_gid(gid, gid, gid).map_err(|error| failed("process.user.gid", "set", error))?;
    }
    if process.uid != 0 {
        let uid = Uid::from_raw(process.uid);
        // Until the sets are set, below; executing a program clears the flag.
        set_keep_capabilities(true)
            .and_then(|()| set_thread_res_uid(uid, uid, uid))
            .map_err(|error| failed("process.user.uid", "set", error))?;
    }
    Ok(())
}

fn set_sets(capabilities: &Capabilities) -> Result<(), StartError> {
    let set = CapabilitySet::from_bits_retain;
    let sets = CapabilitySets {
        effective: set(capabilities.effective),
        permitted: set(capabilities.permitted),
        inheritable: set(capabilities.inheritable),
    };
    set_capabilities(None, sets).map_err(|error| failed("process.capabilities", "set", error))?;
    for bit in (0..u64::BITS).filter(|bit| capabilities.ambient >> bit & 1 != 0) {
        match configure_capability_in_ambient_set(set(1 << bit), true) {
            // As runc: what the kernel does not let be ambient is left out.
            Ok(()) | Err(Errno::PERM) => {}
            Err(error) => return Err(failed("process.capabilities.ambient", "raise", error)),
        }
    }
    Ok(())
}
