//! Frames towards the guest: read from the tap straight into the guest's buffers. Before: [`super::worker`] saw the tap
//! readable.
//!
//! Nobody knows a frame's size before it is read. So buffers for the largest frame are kept at hand, those that a frame
//! does not need serve the next one, and a frame that is larger than what the guest has left waits for more in `rest`.

use std::collections::VecDeque;
use std::io;

use vm_memory::VolatileSlice;

use super::ring::{Chain, Ring, RingError};
use super::sys::MAX_VECTORS;
use super::tap::Tap;
use super::{HEADER_BYTES, MAX_FRAME_BYTES, MAX_SEGMENTS, NUM_BUFFERS_AT};
use crate::ActiveQueue;
use crate::slice::GuestSlice;

/// From so many slices at hand on no chain is added.
const MAX_SLICES: usize = 512;

/// One read takes all, and one of ours.
const _: () = assert!(MAX_SLICES - 1 + MAX_SEGMENTS < MAX_VECTORS);

/// What came of an attempt.
pub(super) enum Received {
    /// A frame of so many bytes with its header.
    Frame(usize),
    /// A frame that the guest's buffers cannot hold.
    Dropped,
    /// The tap has no more.
    Empty,
    /// The guest has no buffers, and will kick when it has.
    Starved,
}

/// A receive queue.
pub(super) struct Rx<'m> {
    ring: Ring<'m>,
    /// A frame may go to several chains (VIRTIO_NET_F_MRG_RXBUF).
    mergeable: bool,
    /// Chains at hand, and their slices in the same order.
    chains: VecDeque<Chain>,
    slices: VecDeque<GuestSlice<'m>>,
    /// Bytes in them.
    room: usize,
    /// What did not fit into them.
    rest: Box<[u8]>,
    /// The frame that is in both: its bytes, and how many of them are in slices.
    waiting: Option<(usize, usize)>,
    used: Vec<(u16, u32)>,
}

impl<'m> Rx<'m> {
    pub(super) fn new(ring: Ring<'m>, mergeable: bool) -> Self {
        Self {
            ring,
            mergeable,
            chains: VecDeque::new(),
            slices: VecDeque::new(),
            room: 0,
            rest: vec![0; MAX_FRAME_BYTES].into_boxed_slice(),
            waiting: None,
            used: Vec::new(),
        }
    }

    /// Before the first frame.
    pub(super) fn begin(&mut self) -> Result<(), RingError> {
        self.ring.no_kicks()
    }

    /// The ring, with the chains at hand back in it; a frame that waited for more is lost.
    pub(super) fn ring(&mut self) -> &mut Ring<'m> {
        self.ring.unpop(self.chains.len());
        self.chains.clear();
        self.slices.clear();
        self.room = 0;
        self.waiting = None;
        &mut self.ring
    }

    /// The queue.
    pub(super) fn into_active(mut self) -> ActiveQueue {
        self.ring();
        self.ring.into_active()
    }

    pub(super) fn interrupt_due(&mut self) -> Result<bool, RingError> {
        self.ring.interrupt_due()
    }

    /// Moves a frame.
    pub(super) fn receive(&mut self, tap: &Tap) -> Result<Received, RingError> {
        self.gather()?;
        if self.chains.is_empty() && !self.more_after_asking()? {
            return Ok(Received::Starved);
        }
        let (bytes, in_slices) = match self.waiting {
            Some(waiting) => waiting,
            None => match tap.read(self.slices.iter(), &mut self.rest) {
                // No more; or no tap any more, of which the host knows.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Empty),
                Err(_) => return Ok(Received::Empty),
                Ok(bytes) if bytes < HEADER_BYTES => return Ok(Received::Dropped),
                Ok(bytes) => (bytes, bytes.min(self.room)),
            },
        };
        self.waiting = Some((bytes, in_slices));
        while self.room < bytes {
            if !self.mergeable || self.is_full() {
                self.waiting = None;
                return Ok(Received::Dropped);
            }
            if !self.more_after_asking()? {
                return Ok(Received::Starved);
            }
        }
        self.waiting = None;
        self.put(in_slices, bytes);
        self.hand_over(bytes)?;
        Ok(Received::Frame(bytes))
    }

    /// Takes chains until the largest frame fits.
    fn gather(&mut self) -> Result<(), RingError> {
        while self.chains.is_empty() || (self.mergeable && self.room < MAX_FRAME_BYTES && !self.is_full()) {
            let Some(chain) = self.ring.pop_slices(true, &mut self.slices)? else { return Ok(()) };
            // Shorter ones cannot hold a header (virtio 1.2, 5.1.6.3.1).
            if chain.cut || chain.bytes < HEADER_BYTES {
                return Err(RingError::Chain(chain.head));
            }
            self.room += chain.bytes;
            self.chains.push_back(chain);
        }
        Ok(())
    }

    /// No more chains can be taken before some are used.
    fn is_full(&self) -> bool {
        self.chains.len() == self.ring.size() || self.slices.len() >= MAX_SLICES
    }

    /// Takes chains after the driver was asked for a kick; false if there are none.
    fn more_after_asking(&mut self) -> Result<bool, RingError> {
        if !self.ring.ask_for_kick()? {
            return Ok(false);
        }
        self.ring.no_kicks()?;
        let before = self.chains.len();
        self.gather()?;
        Ok(self.chains.len() > before)
    }

    /// Copies the frame's bytes from `from` on out of `rest` into the slices.
    fn put(&self, from: usize, bytes: usize) {
        let mut at = 0;
        for slice in &self.slices {
            let (start, end) = (from.max(at), bytes.min(at + slice.len()));
            if start < end
                && let Ok(part) = slice.offset(start - at)
            {
                part.copy_from(&self.rest[start - from..end - from]);
            }
            at += slice.len();
        }
    }

    /// Gives the driver the chains that hold a frame, with their number in the header.
    fn hand_over(&mut self, bytes: usize) -> Result<(), RingError> {
        self.used.clear();
        let (mut left, mut slices) = (bytes, 0);
        while left > 0
            && let Some(chain) = self.chains.pop_front()
        {
            let part = left.min(chain.bytes);
            self.used.push((chain.head, part as u32));
            left -= part;
            slices += chain.slices;
            self.room -= chain.bytes;
        }
        // At most as many as the ring is long; 1 without mergeable buffers too (virtio 1.2, 5.1.6.4.1).
        let count = (self.used.len() as u16).to_le_bytes();
        write_at(self.slices.iter(), NUM_BUFFERS_AT, &count);
        self.slices.drain(..slices);
        self.ring.finish(&self.used)
    }
}

/// Writes a few bytes that may lie across slices.
fn write_at<'a, 'm: 'a>(slices: impl Iterator<Item = &'a GuestSlice<'m>>, mut at: usize, mut bytes: &[u8]) {
    for slice in slices {
        if bytes.is_empty() {
            return;
        }
        if let Ok(part) = VolatileSlice::offset(slice, at.min(slice.len())) {
            let count = part.len().min(bytes.len());
            part.copy_from(&bytes[..count]);
            bytes = &bytes[count..];
        }
        at = at.saturating_sub(slice.len());
    }
}
