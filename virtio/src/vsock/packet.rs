//! The packet header (virtio 1.2, 5.10.6): bytes that the guest wrote -> a checked [`Incoming`], and packets for the
//! guest -> bytes. Nothing here does I/O.
//!
//! Before: [`super::ring`] cut the header out of a descriptor chain. Next: [`super::muxer`] acts on the packet.

use super::HOST_CID;

/// Size of `struct virtio_vsock_hdr` (virtio 1.2, 5.10.6).
pub(super) const HEADER_BYTES: usize = 44;

/// Largest payload taken from one packet: what Linux sends at most (VIRTIO_VSOCK_MAX_PKT_BUF_SIZE,
/// include/linux/virtio_vsock.h).
pub(super) const MAX_PAYLOAD_BYTES: usize = 64 << 10;

/// The only socket type offered (virtio 1.2, 5.10.6: VIRTIO_VSOCK_TYPE_STREAM).
const TYPE_STREAM: u16 = 1;

/// "The peer will receive no more" (virtio 1.2, 5.10.6.5, bit 0).
pub(super) const SHUT_RECEIVE: u32 = 1;
/// "The peer will send no more" (virtio 1.2, 5.10.6.5, bit 1).
pub(super) const SHUT_SEND: u32 = 2;
/// Both directions.
pub(super) const SHUT_BOTH: u32 = SHUT_RECEIVE | SHUT_SEND;

/// A connection's two ports; the CIDs are always the same two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub(super) guest: u32,
    pub(super) host: u32,
}

/// What a packet is for (virtio 1.2, 5.10.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Request,
    Response,
    Reset,
    /// With SHUT_ flags.
    Shutdown(u32),
    Data,
    CreditUpdate,
    CreditRequest,
}

impl Op {
    fn parse(op: u16, flags: u32) -> Option<Self> {
        Some(match op {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown(flags & SHUT_BOTH),
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }

    fn encode(self) -> (u16, u32) {
        match self {
            Self::Request => (1, 0),
            Self::Response => (2, 0),
            Self::Reset => (3, 0),
            Self::Shutdown(flags) => (4, flags),
            Self::Data => (5, 0),
            Self::CreditUpdate => (6, 0),
            Self::CreditRequest => (7, 0),
        }
    }
}

/// A packet of the guest that is what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Incoming {
    pub(super) ports: Ports,
    pub(super) op: Op,
    /// Only [`Op::Data`] has any; never more than the chain holds.
    pub(super) payload_bytes: usize,
    pub(super) buf_alloc: u32,
    pub(super) fwd_cnt: u32,
}

/// A packet of the guest that leads to no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Not from this guest, or itself a reset: no answer.
    Silently,
    /// Answered by a reset.
    Reset(Reset),
}

/// A reset that belongs to no connection (any more).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reset {
    ports: Ports,
    /// The CID that the guest addressed.
    source_cid: u64,
    /// The type that the guest named: a reset of another type would not reach its socket.
    socket_type: u16,
}

impl Reset {
    pub(super) fn new(ports: Ports) -> Self {
        Self { ports, source_cid: HOST_CID, socket_type: TYPE_STREAM }
    }

    pub(super) fn encode(self, guest_cid: u64) -> [u8; HEADER_BYTES] {
        let mut bytes =
            Outgoing { ports: self.ports, op: Op::Reset, payload_bytes: 0, buf_alloc: 0, fwd_cnt: 0 }
                .encode(guest_cid);
        bytes[..8].copy_from_slice(&self.source_cid.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.socket_type.to_le_bytes());
        bytes
    }
}

/// A packet for the guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outgoing {
    pub(super) ports: Ports,
    pub(super) op: Op,
    pub(super) payload_bytes: u32,
    pub(super) buf_alloc: u32,
    pub(super) fwd_cnt: u32,
}

impl Outgoing {
    pub(super) fn encode(&self, guest_cid: u64) -> [u8; HEADER_BYTES] {
        let (op, flags) = self.op.encode();
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&HOST_CID.to_le_bytes());
        bytes[8..16].copy_from_slice(&guest_cid.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.ports.host.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.ports.guest.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[28..30].copy_from_slice(&TYPE_STREAM.to_le_bytes());
        bytes[30..32].copy_from_slice(&op.to_le_bytes());
        bytes[32..36].copy_from_slice(&flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.buf_alloc.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.fwd_cnt.to_le_bytes());
        bytes
    }
}

/// Checks a header that the guest wrote; `available_bytes` follow it in its chain.
///
/// # Errors
/// How a packet that is not acceptable has to be answered.
pub(super) fn parse(
    bytes: &[u8; HEADER_BYTES],
    guest_cid: u64,
    available_bytes: usize,
) -> Result<Incoming, Refused> {
    let (source_cid, target_cid) = (u64_at(bytes, 0), u64_at(bytes, 8));
    let ports = Ports { guest: u32_at(bytes, 16), host: u32_at(bytes, 20) };
    let payload_bytes = u32_at(bytes, 24) as usize;
    let (socket_type, op) = (u16_at(bytes, 28), u16_at(bytes, 30));
    let op = Op::parse(op, u32_at(bytes, 32));

    // A reset is never answered: two sides that do not know each other would go on for ever.
    if source_cid != guest_cid || (op == Some(Op::Reset) && target_cid != HOST_CID) {
        return Err(Refused::Silently);
    }
    let refused = Refused::Reset(Reset { ports, source_cid: target_cid, socket_type });
    let Some(op) = op else { return Err(refused) };
    if op == Op::Reset {
        return Ok(Incoming { ports, op, payload_bytes: 0, buf_alloc: 0, fwd_cnt: 0 });
    }
    let most_bytes = if op == Op::Data { available_bytes.min(MAX_PAYLOAD_BYTES) } else { 0 };
    if target_cid != HOST_CID || socket_type != TYPE_STREAM || payload_bytes > most_bytes {
        return Err(refused);
    }
    Ok(Incoming { ports, op, payload_bytes, buf_alloc: u32_at(bytes, 36), fwd_cnt: u32_at(bytes, 40) })
}

fn u16_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
