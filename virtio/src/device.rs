//! What the transport and a device agree on.
//!
//! ```text
//! driver resets -> negotiates features -> sets queues up -> DRIVER_OK --activate--> workers own the queues
//!      ^                                                                                |
//!      +------------------------ stop(): workers stopped, queues given back ------------+
//! ```

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

use crate::GuestMem;

/// The register half of a device (virtio 1.2, 2).
pub trait VirtioDevice: Send {
    /// Device ID (virtio 1.2, 5).
    fn device_id(&self) -> u32;

    /// Largest size of each queue; their number is the device's number of queues.
    fn queue_sizes(&self) -> &[u16];

    /// Features of this device; the transport adds VIRTIO_F_VERSION_1.
    fn features(&self) -> u64;

    /// Reads the device's configuration space. Bytes beyond it read as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// The driver is ready: hand the queues to workers and start them.
    ///
    /// # Errors
    /// The device could not start; the transport then sets NEEDS_RESET.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Stops the workers, waits for them, and gives back their queues, in order and as they stand; none if it was not
    /// active or lost them. What the driver had told the device is forgotten. It can be activated again afterwards.
    fn stop(&mut self) -> Vec<Queue>;
}

/// What a device gets when its driver is ready.
pub struct Activation {
    /// The guest's memory.
    pub memory: GuestMem,
    /// The features that the driver accepted.
    pub features: u64,
    /// The queues, in order; one that the driver did not set up has `queue.ready() == false`.
    pub queues: Vec<ActiveQueue>,
    /// The way to interrupt the driver.
    pub interrupt: Interrupt,
}

/// A queue and its doorbell.
pub struct ActiveQueue {
    /// The split ring.
    pub queue: Queue,
    /// Readable when the driver made buffers available.
    pub kick: EventFd,
}

/// The InterruptStatus register (virtio 1.2, 4.2.2).
#[derive(Debug, Default)]
pub(crate) struct InterruptStatus {
    bits: AtomicU32,
    /// For how many [`DirectInterrupt`]s the line is written by somebody who does not know this register.
    direct: AtomicU32,
}

impl InterruptStatus {
    /// What the driver reads. While somebody else writes the line, every interrupt may be for used buffers: the driver looks
    /// into its rings once too often at worst. A bit for each of those interrupts would need a thread of ours in their way.
    pub(crate) fn read(&self) -> u32 {
        let direct = self.direct.load(Ordering::SeqCst) > 0;
        self.bits.load(Ordering::SeqCst) | if direct { VIRTIO_MMIO_INT_VRING } else { 0 }
    }

    /// Sets all its bits.
    pub(crate) fn set(&self, bits: u32) {
        self.bits.store(bits, Ordering::SeqCst);
    }

    /// The driver has seen these.
    pub(crate) fn acknowledge(&self, bits: u32) {
        self.bits.fetch_and(!bits, Ordering::SeqCst);
    }
}

/// The device's way to interrupt its driver; clones share the line.
#[derive(Clone)]
pub struct Interrupt {
    status: Arc<InterruptStatus>,
    /// Status register, for NEEDS_RESET.
    device_status: Arc<AtomicU32>,
    /// An irqfd.
    line: Arc<EventFd>,
}

impl Interrupt {
    /// Joins the registers that the transport shows and the irqfd of the device's line.
    #[must_use]
    pub(crate) fn new(
        status: Arc<InterruptStatus>,
        device_status: Arc<AtomicU32>,
        line: Arc<EventFd>,
    ) -> Self {
        Self { status, device_status, line }
    }

    /// Buffers were used.
    ///
    /// # Errors
    /// The irqfd could not be written.
    pub fn used_buffers(&self) -> io::Result<()> {
        self.raise(VIRTIO_MMIO_INT_VRING)
    }

    /// The configuration changed.
    ///
    /// # Errors
    /// The irqfd could not be written.
    pub fn config_changed(&self) -> io::Result<()> {
        self.raise(VIRTIO_MMIO_INT_CONFIG)
    }

    /// The driver broke a ring: the device stops until it is reset (virtio 1.2, 2.1.2).
    pub fn needs_reset(&self) {
        self.device_status.fetch_or(VIRTIO_CONFIG_S_NEEDS_RESET, Ordering::SeqCst);
        // A line that cannot be raised leaves the status readable, which is all that is promised.
        let _ = self.raise(VIRTIO_MMIO_INT_CONFIG);
    }

    /// The irqfd, for somebody who writes it as long as the [`DirectInterrupt`] is there.
    pub(crate) fn line(&self) -> &EventFd {
        &self.line
    }

    /// Lets somebody else than a worker write the line for used buffers: the host's kernel.
    pub(crate) fn direct(&self) -> DirectInterrupt {
        self.status.direct.fetch_add(1, Ordering::SeqCst);
        DirectInterrupt(self.clone())
    }

    fn raise(&self, bit: u32) -> io::Result<()> {
        self.status.bits.fetch_or(bit, Ordering::SeqCst);
        self.line.write(1)
    }
}

/// As long as this is there, the line may be written without a word to InterruptStatus.
pub(crate) struct DirectInterrupt(Interrupt);

impl Drop for DirectInterrupt {
    fn drop(&mut self) {
        // For an interrupt whose driver has not read the register yet. The line is a counter that is never full.
        let _ = self.0.used_buffers();
        self.0.status.direct.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Why a device could not be activated.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// A queue that the device needs was not set up by the driver.
    #[error("queue {0} was not set up")]
    QueueMissing(usize),
    /// A worker could not be started.
    #[error("cannot start a worker")]
    Worker(#[source] io::Error),
}
