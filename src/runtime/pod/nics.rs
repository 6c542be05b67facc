//! The pod's network devices: the taps of its interfaces are plugged into them when a container brings some.

use std::os::fd::OwnedFd;

use anyhow::Context;
use crx_proto::Network;
use crx_virtio::net::{Limits, NetPort};

/// Window of the first network device: that of the devices before it (`super::devices`).
pub(crate) const FIRST_NIC_WINDOW: u8 = 3;

/// Where taps are plugged in, in the order of the devices' windows.
pub(super) struct Nics {
    ports: Vec<NetPort>,
    /// What may pass through each.
    limits: Limits,
    /// What keeps the rest of the network there.
    held: Vec<OwnedFd>,
}

impl Nics {
    pub(super) fn new(ports: Vec<NetPort>, limits: Limits) -> Self {
        Self { ports, limits, held: Vec::new() }
    }

    /// Plugs the taps of new interfaces in, `counts` of them for each, and holds the descriptors after them.
    ///
    /// # Errors
    /// The pod has no device for an interface, or what should be a tap is none.
    pub(super) fn plug(
        &mut self,
        network: &Network,
        counts: &[u8],
        descriptors: Vec<OwnedFd>,
    ) -> anyhow::Result<()> {
        let mut descriptors = descriptors.into_iter();
        for (interface, count) in network.interfaces.iter().zip(counts) {
            let failed = || format!("interface {}: cannot plug its tap in", interface.name);
            let number = interface.window.checked_sub(FIRST_NIC_WINDOW).map(usize::from);
            let port = number.and_then(|number| self.ports.get(number)).with_context(failed)?;
            let queues = descriptors.by_ref().take(usize::from(*count)).collect();
            port.plug(queues, self.limits).with_context(failed)?;
        }
        self.held.extend(descriptors);
        Ok(())
    }
}
