//! The host's handle of a device: taps are plugged in and out while the guest runs or does not.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::limit::{Gate, Limits};
use super::shared::{Backend, Gates, Shared};
use super::tap::Tap;
use super::vhost::Vhost;
use super::{HEADER_BYTES, MAX_QUEUE_PAIRS};

/// Where taps are plugged into a device; clones are the same port. Until a tap is plugged in, what the guest sends is
/// dropped.
#[derive(Clone, Debug, Default)]
pub struct NetPort(pub(super) Arc<Shared>);

/// Who moves frames between the guest and its taps.
#[derive(Debug)]
pub enum Carriers {
    /// The device's workers, within limits.
    Workers(Limits),
    /// The host's kernel, which knows none: one for each tap. Where it gives up the workers go on.
    Vhost(Vec<Vhost>),
}

/// Why taps cannot be plugged in.
#[derive(Debug, thiserror::Error)]
pub enum PlugError {
    /// None, or more than queue pairs.
    #[error("{0} queues of a tap for a network device: must be 1 to {MAX_QUEUE_PAIRS}")]
    Count(usize),
    /// Not one for each tap.
    #[error("{0} descriptors of /dev/vhost-net for {1} queues of a tap: must be as many")]
    Vhosts(usize, usize),
    /// There are taps already.
    #[error("the network device has a tap already: unplug it first")]
    Occupied,
    /// Another kind of descriptor, or without an interface.
    #[error(
        "the descriptor for a network device is no tap with an interface: open /dev/net/tun and use TUNSETIFF"
    )]
    NoTap(#[source] io::Error),
    /// The tap's packets are framed in another way.
    #[error("a tap with flags {0:#x} for a network device: make it with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR")]
    Flags(i32),
    /// The kernel refused.
    #[error("cannot set up the tap of a network device (header of {HEADER_BYTES} bytes, offloads, queues)")]
    Setting(#[source] io::Error),
}

impl NetPort {
    /// A port without taps.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Plugs a tap in: a descriptor for each of its queues, made with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR, and with
    /// IFF_MULTI_QUEUE if there are several. Frames move from then on, as far as the guest's driver has started.
    ///
    /// # Errors
    /// The descriptors are no such tap, there is one already, or the kernel refused a setting.
    pub fn plug(&self, queues: Vec<OwnedFd>, carriers: Carriers) -> Result<(), PlugError> {
        self.plug_taps(queues.into_iter().map(Tap::new).collect::<Result<_, _>>()?, carriers)
    }

    pub(super) fn plug_taps(&self, taps: Vec<Tap>, carriers: Carriers) -> Result<(), PlugError> {
        if !(1..=MAX_QUEUE_PAIRS).contains(&taps.len()) {
            return Err(PlugError::Count(taps.len()));
        }
        let (limits, vhosts) = match carriers {
            Carriers::Workers(limits) => (limits, Vec::new()),
            Carriers::Vhost(vhosts) if vhosts.len() == taps.len() => (Limits::default(), vhosts),
            Carriers::Vhost(vhosts) => return Err(PlugError::Vhosts(vhosts.len(), taps.len())),
        };
        let now = Instant::now();
        let gates = Gates {
            rx: Gate::new(limits.rx_bytes, limits.rx_frames, now),
            tx: Gate::new(limits.tx_bytes, limits.tx_frames, now),
        };
        self.0.plug(Backend::new(taps, vhosts, gates))
    }

    /// Takes the tap out, if there is one. When this returns workers may still be at their last round of frames; they
    /// close their descriptors after it.
    pub fn unplug(&self) {
        self.0.unplug();
    }

    /// What has been moved so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.0.tally.read()
    }
}

/// Frames that its workers have moved since the device was made, over all its queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that the guest got.
    pub rx_frames: u64,
    /// Frames that its buffers could not hold.
    pub rx_dropped: u64,
    /// Frames that the guest sent.
    pub tx_frames: u64,
    /// Frames of the guest that the tap refused, that were none, or that were sent without a tap.
    pub tx_dropped: u64,
}

/// [`Counters`] while they are counted.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) rx_frames: AtomicU64,
    pub(super) rx_dropped: AtomicU64,
    pub(super) tx_frames: AtomicU64,
    pub(super) tx_dropped: AtomicU64,
}

impl Tally {
    fn read(&self) -> Counters {
        Counters {
            rx_frames: self.rx_frames.load(Ordering::Relaxed),
            rx_dropped: self.rx_dropped.load(Ordering::Relaxed),
            tx_frames: self.tx_frames.load(Ordering::Relaxed),
            tx_dropped: self.tx_dropped.load(Ordering::Relaxed),
        }
    }
}
