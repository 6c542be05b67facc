//! The network and the names of a network and a UTS namespace: the pod's own, or those of a container that has
//! its own.

use crx_proto::{Plan, StartError};

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
