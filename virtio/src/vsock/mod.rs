//! virtio-vsock (virtio 1.2, 5.10) in user space: stream sockets between the guest and Unix sockets of this process.
//!
//! Before: the transport activated the device. Here: `device` (registers) hands the queues to the thread of
//! `worker`, which cuts chains (`ring`) into packets (`packet`) for the connections (`muxer`, `connection`,
//! `credit`) and fills the guest's receive buffers from their sockets (`outbound`). A connection that the guest opens
//! comes out of [`VsockConfig::guest_connections`]; one that the host opens comes in through [`VsockConfig::host_listener`]
//! (`listener`).
//!
//! A connection that is full blocks nobody else: sockets are never waited for, and what a socket does not take is kept up
//! to the credit that the guest was given.

mod connection;
mod credit;
mod device;
mod listener;
mod muxer;
mod outbound;
mod packet;
mod ring;
mod sys;
#[cfg(test)]
mod tests;
mod worker;

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::Sender;

pub use device::Vsock;

/// The host's address (virtio 1.2, 5.10.4: CID 2).
pub const HOST_CID: u64 = 2;

/// The smallest address for a guest; 0 to 2 are taken (virtio 1.2, 5.10.4).
pub const MIN_GUEST_CID: u64 = 3;

/// The upper half of a CID is zero, and all ones means "any" (virtio 1.2, 5.10.4; VMADDR_CID_ANY).
pub const MAX_GUEST_CID: u64 = u32::MAX as u64 - 1;

/// What a vsock device is made from.
#[derive(Debug)]
pub struct VsockConfig {
    /// The guest's address.
    pub guest_cid: u64,
    /// Where processes of the host ask for a connection into the guest: a client writes `CONNECT <port>\n` and reads
    /// `OK <host port>\n` once the guest accepted; if it does not, the socket is closed.
    pub host_listener: Option<UnixListener>,
    /// Gets the host's end of every connection that the guest opens. The receiver has to keep up: each is a descriptor.
    /// Once it is dropped the guest's connections are reset.
    pub guest_connections: Sender<GuestConnection>,
}

/// A connection that the guest opened to the host.
#[derive(Debug)]
pub struct GuestConnection {
    /// The port that the guest asked for.
    pub port: u32,
    /// The host's end; blocking, and shut down for one direction when the guest does so.
    pub stream: UnixStream,
}

/// Why a vsock device cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// The address is not one for guests.
    #[error("guest CID {0} is not in {MIN_GUEST_CID}..={MAX_GUEST_CID}")]
    GuestCid(u64),
    /// The listener refused a setting.
    #[error("cannot make the listener of the guest's sockets non-blocking")]
    Listener(#[source] io::Error),
}
