//! A window in a snapshot: what the driver and the device agreed on, and how far they have come in their queues. No
//! device keeps more than that: virtio-vsock has no connections at that moment, virtio-fs no inodes but the root.

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueState};

/// A window (virtio 1.2, 4.2.2). What selects a register is not in it: drivers select before each use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowState {
    /// Which device it is.
    pub device_id: u32,
    /// The features that the driver accepted.
    pub features: u64,
    /// Status.
    pub status: u32,
    /// InterruptStatus: interrupts that the driver has not acknowledged.
    pub interrupt_status: u32,
    /// The queues, in order.
    pub queues: Vec<RingState>,
}

/// A split ring (virtio 1.2, 2.7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingState {
    /// The most descriptors that the device allows.
    pub max_size: u16,
    /// Descriptors.
    pub size: u16,
    /// The driver has set it up.
    pub ready: bool,
    /// It uses event indices.
    pub event_idx: bool,
    /// Index of the next available entry that the device takes.
    pub next_available: u16,
    /// Index of the next used entry that the device fills.
    pub next_used: u16,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Of the available ring.
    pub available: u64,
    /// Of the used ring.
    pub used: u64,
}

impl From<&Queue> for RingState {
    fn from(queue: &Queue) -> Self {
        let state = queue.state();
        Self {
            max_size: state.max_size,
            size: state.size,
            ready: state.ready,
            event_idx: state.event_idx_enabled,
            next_available: state.next_avail,
            next_used: state.next_used,
            descriptors: state.desc_table,
            available: state.avail_ring,
            used: state.used_ring,
        }
    }
}

impl TryFrom<&RingState> for Queue {
    type Error = virtio_queue::Error;

    fn try_from(ring: &RingState) -> Result<Self, Self::Error> {
        Self::try_from(QueueState {
            max_size: ring.max_size,
            next_avail: ring.next_available,
            next_used: ring.next_used,
            event_idx_enabled: ring.event_idx,
            size: ring.size,
            ready: ring.ready,
            desc_table: ring.descriptors,
            avail_ring: ring.available,
            used_ring: ring.used,
        })
    }
}

/// A window that cannot be saved or restored.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The device stopped because of a broken ring.
    #[error("the device needs a reset")]
    NeedsReset,
    /// A worker took its queues with it.
    #[error("the device lost its queues")]
    QueuesLost,
    /// Another device, or one that offers less now.
    #[error("it was saved of another device")]
    OtherDevice,
    /// A queue that cannot be.
    #[error("queue {0} is none")]
    Queue(usize),
    /// The device could not start.
    #[error("the device does not start")]
    Activate,
}
