//! The network and the names of a network and a UTS namespace: the pod's own, or those of a container that has
//! its own. [`apply()`] is for the interfaces of the VM, which are all in the pod's own.

mod apply;
mod names;
mod netlink;
mod nics;
mod requests;

use crx_proto::{Plan, StartError};

pub(crate) use self::apply::apply;
pub(crate) use self::nics::Nics;

use crate::failure::failed;
use crate::sys;

/// Sets the loopback interface up.
pub(crate) fn set_loopback_up() -> Result<(), StartError> {
    sys::loopback_up().map_err(|error| failed("linux.namespaces", "set the interface lo up", error))
}

/// Sets the plan's host name and domain name.
pub(crate) fn set_names(plan: &Plan) -> Result<(), StartError> {
    if let Some(name) = &plan.hostname {
        rustix::system::sethostname(name.as_bytes())
            .map_err(|error| failed("hostname", format_args!("set \"{name}\""), error))?;
    }
    if let Some(name) = &plan.domainname {
        rustix::system::setdomainname(name.as_bytes())
            .map_err(|error| failed("domainname", format_args!("set \"{name}\""), error))?;
    }
    Ok(())
}
