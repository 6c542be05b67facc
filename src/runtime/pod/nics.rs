//! The pod's network devices: the taps of its interfaces are plugged into them as they come.

use std::os::fd::OwnedFd;

use anyhow::{Context, bail};
use crx_proto::{Interface, Network};
use crx_virtio::net::{Carriers, Limits, NetPort, Vhost};

use crate::runtime::channel::{Joint, PodNetwork};
use crate::runtime::log;

/// Window of the first network device: that of the devices before it (`super::devices`).
const FIRST_NIC_WINDOW: u8 = 3;

/// Where taps are plugged in, in the order of the devices' windows.
pub(super) struct Nics {
    slots: Vec<Slot>,
    /// What may pass through each.
    limits: Limits,
    queue_pairs: u8,
    /// What keeps the rest of the network there.
    held: Vec<OwnedFd>,
}

/// A device.
struct Slot {
    port: NetPort,
    /// The interface that it is, and its index in the host's namespace.
    interface: Option<(u32, Interface)>,
}

impl Nics {
    pub(super) fn new(ports: Vec<NetPort>, queue_pairs: u8, limits: Limits) -> Self {
        let slots = ports.into_iter().map(|port| Slot { port, interface: None }).collect();
        Self { slots, limits, queue_pairs, held: Vec::new() }
    }

    /// What the pod has.
    pub(super) fn network(&self) -> PodNetwork {
        PodNetwork {
            queue_pairs: self.queue_pairs,
            most: self.slots.len(),
            interfaces: self.slots.iter().filter_map(|slot| slot.interface.clone()).collect(),
        }
    }

    /// Plugs the taps of new interfaces in, and holds the descriptors after them. The interfaces get their windows in `network`.
    /// Returns the windows of the new ones.
    ///
    /// # Errors
    /// The pod has no device for an interface, or not the one that it should have, or what should be a tap is none; then it
    /// has what it had before.
    pub(super) fn plug(
        &mut self,
        network: &mut Network,
        joints: &[Joint],
        descriptors: Vec<OwnedFd>,
    ) -> anyhow::Result<Vec<u8>> {
        let (mut descriptors, mut windows) = (descriptors.into_iter(), Vec::new());
        for (interface, joint) in network.interfaces.iter_mut().zip(joints) {
            let mut next = |count: u8| descriptors.by_ref().take(count.into()).collect();
            let (queues, vhosts) = (next(joint.taps), next(joint.vhosts));
            match self.plug_one(interface, *joint, queues, vhosts) {
                Ok(()) if joint.taps > 0 => windows.push(interface.window),
                Ok(()) => {}
                Err(error) => {
                    self.unplug(&windows);
                    return Err(error.context(format!("interface {}", interface.name)));
                }
            }
        }
        self.held.extend(descriptors);
        Ok(windows)
    }

    fn plug_one(
        &mut self,
        interface: &mut Interface,
        joint: Joint,
        queues: Vec<OwnedFd>,
        vhosts: Vec<OwnedFd>,
    ) -> anyhow::Result<()> {
        let most = self.slots.len();
        let is_there = |slot: &Slot| slot.interface.as_ref().is_some_and(|(index, _)| *index == joint.index);
        let number = if joint.taps == 0 {
            self.slots.iter().position(is_there).context("another pod has it")?
        } else {
            let free = self.slots.iter().position(|slot| slot.interface.is_none());
            free.with_context(|| format!("the pod has {most} already, and no device for more"))?
        };
        let Some(slot) = self.slots.get_mut(number) else { bail!("no such device") };
        interface.window = FIRST_NIC_WINDOW + number as u8;
        if joint.taps > 0 {
            let carriers = carriers(self.limits, vhosts, &interface.name);
            slot.port.plug(queues, carriers).context("cannot plug its tap in")?;
            slot.interface = Some((joint.index, interface.clone()));
        }
        Ok(())
    }

    /// Takes the taps of these windows out again.
    pub(super) fn unplug(&mut self, windows: &[u8]) {
        for window in windows {
            let number = usize::from(window.saturating_sub(FIRST_NIC_WINDOW));
            if let Some(slot) = self.slots.get_mut(number) {
                slot.port.unplug();
                slot.interface = None;
            }
        }
    }
}

/// Who moves the frames of an interface: the host's kernel if it can, which knows no limits.
fn carriers(limits: Limits, vhosts: Vec<OwnedFd>, name: &str) -> Carriers {
    if vhosts.is_empty() || limits != Limits::default() {
        return Carriers::Workers(limits);
    }
    match vhosts.into_iter().map(Vhost::new).collect() {
        Ok(vhosts) => Carriers::Vhost(vhosts),
        Err(error) => {
            log::debug(&format!(
                "interface {name}: vhost-net cannot be used, the pod moves its frames by itself: {error}"
            ));
            Carriers::Workers(limits)
        }
    }
}
