//! The pod's network as far as PID 1 sets it up: the loopback interface and the pod's names.

use crx_proto::{Plan, StartError};

use crate::failure::failed;
use crate::sys;

/// Sets the loopback interface up and gives the pod its host name and domain name.
pub(crate) fn prepare(plan: &Plan) -> Result<(), StartError> {
    sys::loopback_up().map_err(|error| failed("linux.namespaces", "set the interface lo up", error))?;
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
