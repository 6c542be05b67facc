//! virtio-net (virtio 1.2, 5.1) between the guest and taps of the host.
//!
//! Before: the transport activated the device (`device`). A thread for each queue pair in use (`worker`) moves frames
//! between the guest's buffers and a tap, without a copy in between: `rx` towards the guest, `tx` from it, both over a
//! `ring`; or they have the host's kernel do so (`vhost`). The first one also answers the driver's commands (`control`). What the workers, the registers and the host
//! share is in `shared`; the host's way to it is [`NetPort`], with which taps are plugged in and out at any time.
//!
//! The device has no state of its own that a snapshot would need: which pairs are in use is seen in their rings, offloads
//! are those that were negotiated until the driver says otherwise, and the receive filter is everything, because a tap
//! brings only what is for this guest.

mod control;
mod device;
mod limit;
mod mail;
mod port;
mod ring;
mod rx;
mod shared;
mod sys;
mod tap;
#[cfg(test)]
mod tests;
mod tx;
mod vhost;
mod worker;

pub use device::{Net, NetConfig};
pub use limit::{Limits, Rate};
pub use port::{Carriers, Counters, NetPort, PlugError};
pub use vhost::Vhost;

/// Most queue pairs of a device: flows of more processors share them. Each pair is 24 KiB of rings in the guest.
pub const MAX_QUEUE_PAIRS: usize = 4;

/// struct virtio_net_hdr_v1: in front of each frame (virtio 1.2, 5.1.6).
const HEADER_BYTES: usize = 12;

/// Where `num_buffers` is in it.
const NUM_BUFFERS_AT: usize = 10;

/// The largest frame with its header (virtio 1.2, 5.1.6.3.1: a segment of 65550 bytes and the header).
const MAX_FRAME_BYTES: usize = 65562;

/// Most descriptors of a chain: Linux has MAX_SKB_FRAGS (17) and two for a frame, other drivers pages of 2 KiB.
const MAX_SEGMENTS: usize = 64;
