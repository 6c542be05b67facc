//! The registers of virtio-net: features, configuration space, and the life of the workers. Next: [`super::shared`], which
//! starts [`super::worker`].

use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_RX,
    VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};

use super::port::NetPort;
use super::shared::Active;
use super::{MAX_QUEUE_PAIRS, control};
use crate::{ActivateError, Activation, VirtioDevice};

/// Entries of a receive or transmit queue: with buffers of 1.5 KiB that Linux gives, 256 hold six of the largest frames.
const PAIR_QUEUE_SIZE: u16 = 256;

/// A driver has one command under way.
const CONTROL_QUEUE_SIZE: u16 = 16;

/// Receive and transmit in turns, then control (virtio 1.2, 5.1.2).
const QUEUE_SIZES: [u16; 2 * MAX_QUEUE_PAIRS + 1] = {
    let mut sizes = [PAIR_QUEUE_SIZE; 2 * MAX_QUEUE_PAIRS + 1];
    sizes[2 * MAX_QUEUE_PAIRS] = CONTROL_QUEUE_SIZE;
    sizes
};

/// Features of the device. What frames may be towards the guest is [`control::GUEST_OFFLOADS`]. No VIRTIO_NET_F_MTU: the
/// guest's PID 1 sets the MTU, and without it the driver allows any.
const FEATURES: &[u32] = &[
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
    VIRTIO_NET_F_MAC,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_STATUS,
    VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_CTRL_RX,
    VIRTIO_NET_F_MQ,
    VIRTIO_NET_F_CTRL_MAC_ADDR,
    VIRTIO_RING_F_INDIRECT_DESC,
    VIRTIO_RING_F_EVENT_IDX,
];

/// What a network device is made from.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// The address that the driver finds; it may set another.
    pub mac: [u8; 6],
    /// Where taps are plugged in; a port belongs to one device.
    pub port: NetPort,
    /// The driver finds it only when it has a tap: until then its device ID is 0, which drivers pass over in silence
    /// (virtio 1.2, 4.2.2).
    pub hidden: bool,
}

/// A network device.
pub struct Net {
    config: NetConfig,
}

impl Net {
    /// Makes a device.
    #[must_use]
    pub fn new(config: NetConfig) -> Self {
        Self { config }
    }

    /// struct virtio_net_config up to max_virtqueue_pairs (virtio 1.2, 5.1.4).
    fn config_space(&self) -> [u8; 10] {
        let mut space = [0; 10];
        space[..6].copy_from_slice(&self.config.port.0.mac().unwrap_or(self.config.mac));
        space[6..8].copy_from_slice(&(VIRTIO_NET_S_LINK_UP as u16).to_le_bytes());
        space[8..].copy_from_slice(&(MAX_QUEUE_PAIRS as u16).to_le_bytes());
        space
    }
}

impl VirtioDevice for Net {
    fn device_id(&self) -> u32 {
        if self.config.hidden && !self.config.port.0.is_plugged() { 0 } else { VIRTIO_ID_NET }
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        FEATURES.iter().fold(control::GUEST_OFFLOADS, |all, feature| all | 1 << feature)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let space = self.config_space();
        for (at, byte) in (offset..).zip(data) {
            *byte = usize::try_from(at).ok().and_then(|at| space.get(at)).copied().unwrap_or(0);
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { memory, features, queues, interrupt } = activation;
        // Without VIRTIO_NET_F_MQ the control queue follows the first pair (virtio 1.2, 5.1.2).
        let pairs = if features & 1 << VIRTIO_NET_F_MQ == 0 { 1 } else { MAX_QUEUE_PAIRS };
        let control = (features & 1 << VIRTIO_NET_F_CTRL_VQ != 0).then_some(2 * pairs);
        if let Some(missing) = [Some(0), Some(1), control]
            .into_iter()
            .flatten()
            .find(|number| !queues.get(*number).is_some_and(|active| active.queue.ready()))
        {
            return Err(ActivateError::QueueMissing(missing));
        }
        let active = Active::new(memory, interrupt, features, queues, control);
        let shared = Arc::clone(&self.config.port.0);
        shared.activate(active)
    }

    fn stop(&mut self) -> Vec<Queue> {
        self.config.port.0.deactivate().map(Active::stop).unwrap_or_default()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.stop();
    }
}
