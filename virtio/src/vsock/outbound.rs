//! Towards the guest: resets, control packets and data into receive buffers, each connection in turn. Data is read from
//! the socket straight into as many receive buffers as one system call can fill.
//!
//! Before: [`super::muxer`] put connections with something to say on its list. Next: the worker interrupts the guest once.

use super::connection::Next;
use super::muxer::Muxer;
use super::packet::{HEADER_BYTES, MAX_PAYLOAD_BYTES, Op};
use super::ring::{Chain, Ring, RingError, truncate};
use super::sys;
use crate::GuestMem;
use crate::slice::GuestSlice;

/// Bytes for one connection before it is the next one's turn.
const TURN_BYTES: usize = 64 << 10;

/// Receive buffers filled by one read: those of Linux hold 3.6 KiB each, so a turn takes 18. With at most 32 slices
/// a buffer this stays below the kernel's limit of 1024 (UIO_MAXIOV).
const TURN_BUFFERS: usize = 24;

/// Packets before the worker looks at everything else again.
const MAX_PACKETS: usize = 256;

/// Why filling stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// Nothing is left to send.
    All,
    /// The guest has no receive buffer left.
    Starved,
    /// It is somebody else's turn.
    Paused,
}

impl Muxer {
    /// Fills receive buffers with what there is for the guest.
    pub(super) fn fill(&mut self, rx: &mut Ring, memory: &GuestMem) -> Result<Filled, RingError> {
        let mut packets = 0;
        while packets < MAX_PACKETS {
            if let Some(reset) = self.resets.front() {
                let Some(buffer) = rx.pop_writable(memory)? else { return Ok(Filled::Starved) };
                buffer.put_header(&reset.encode(self.guest_cid));
                rx.finish(memory, buffer.head, HEADER_BYTES)?;
                self.resets.pop_front();
                packets += 1;
                continue;
            }
            let Some(&number) = self.ready.front() else { return Ok(Filled::All) };
            match self.connections.get(&number).and_then(|connection| connection.next()) {
                Some(Next::Control(op)) => {
                    let Some(buffer) = rx.pop_writable(memory)? else { return Ok(Filled::Starved) };
                    self.put(number, op, 0, &buffer, rx, memory)?;
                    packets += 1;
                }
                Some(Next::Data(limit)) => {
                    let Some(sent) = self.fill_data(number, limit, rx, memory)? else {
                        return Ok(Filled::Starved);
                    };
                    packets += sent + 1;
                    self.ready.rotate_left(1);
                }
                None => {
                    self.ready.pop_front();
                    if let Some(connection) = self.connections.get_mut(&number) {
                        connection.queued = false;
                    }
                }
            }
        }
        Ok(Filled::Paused)
    }

    /// Reads one turn's bytes of a connection; the number of packets that they took, `None` without receive buffers.
    fn fill_data(
        &mut self,
        number: u64,
        limit: usize,
        rx: &mut Ring,
        memory: &GuestMem,
    ) -> Result<Option<usize>, RingError> {
        let Some(connection) = self.connections.get_mut(&number) else { return Ok(Some(0)) };
        let limit = limit.min(TURN_BYTES);
        let (buffers, mut slices) = gather(limit, rx, memory)?;
        if buffers.is_empty() {
            return Ok(None);
        }
        truncate(&mut slices, limit);
        // Buffers of nothing but a header leave no room; a read of nothing would look like the end of the stream.
        let result = if slices.is_empty() {
            Err(std::io::ErrorKind::Interrupted.into())
        } else {
            sys::receive(&connection.socket, &slices)
        };
        connection.was_read(&result);

        let mut left = result.unwrap_or(0);
        let mut used = 0;
        for buffer in &buffers {
            if left == 0 && !slices.is_empty() {
                break;
            }
            let bytes = left.min(buffer.bytes() - HEADER_BYTES).min(MAX_PAYLOAD_BYTES);
            self.put(number, Op::Data, bytes, buffer, rx, memory)?;
            left -= bytes;
            used += 1;
        }
        rx.unpop(buffers.len() - used);
        Ok(Some(used))
    }

    /// One packet into one receive buffer, whose payload is there already.
    fn put(
        &mut self,
        number: u64,
        op: Op,
        payload_bytes: usize,
        buffer: &Chain<'_>,
        rx: &mut Ring,
        memory: &GuestMem,
    ) -> Result<(), RingError> {
        let Some(connection) = self.connections.get_mut(&number) else { return Ok(()) };
        let packet = connection.packet(op, payload_bytes);
        buffer.put_header(&packet.encode(self.guest_cid));
        rx.finish(memory, buffer.head, HEADER_BYTES + payload_bytes)
    }
}

/// Receive buffers for `limit` bytes, and the memory behind their headers.
fn gather<'m>(
    limit: usize,
    rx: &mut Ring,
    memory: &'m GuestMem,
) -> Result<(Vec<Chain<'m>>, Vec<GuestSlice<'m>>), RingError> {
    let mut buffers = Vec::with_capacity(TURN_BUFFERS);
    let mut slices = Vec::with_capacity(TURN_BUFFERS);
    let mut bytes = 0;
    while bytes < limit && buffers.len() < TURN_BUFFERS {
        let Some(buffer) = rx.pop_writable(memory)? else { break };
        let mut payload = buffer.payload();
        truncate(&mut payload, MAX_PAYLOAD_BYTES);
        bytes += payload.iter().map(GuestSlice::len).sum::<usize>();
        slices.append(&mut payload);
        buffers.push(buffer);
    }
    Ok((buffers, slices))
}
