//! Frames from the guest: written to the tap straight from the guest's buffers. Before: [`super::worker`] got a kick.

use std::collections::VecDeque;
use std::io;

use super::ring::{Chain, Ring, RingError};
use super::tap::Tap;
use super::{HEADER_BYTES, MAX_FRAME_BYTES};
use crate::ActiveQueue;
use crate::slice::GuestSlice;

/// What came of an attempt.
pub(super) enum Sent {
    /// A frame of so many bytes with its header.
    Frame(usize),
    /// A frame that is none, that the tap does not take, or without a tap.
    Dropped,
    /// The tap is full; the frame is kept.
    Full,
    /// The guest has no more, and will kick when it has.
    Empty,
}

/// A transmit queue.
pub(super) struct Tx<'m> {
    ring: Ring<'m>,
    /// The frame that is next, and its slices.
    next: Option<Chain>,
    slices: VecDeque<GuestSlice<'m>>,
}

impl<'m> Tx<'m> {
    pub(super) fn new(ring: Ring<'m>) -> Self {
        Self { ring, next: None, slices: VecDeque::new() }
    }

    /// Before the first frame.
    pub(super) fn begin(&mut self) -> Result<(), RingError> {
        self.ring.no_kicks()
    }

    /// The ring, with a frame that was not sent back in it.
    pub(super) fn ring(&mut self) -> &mut Ring<'m> {
        self.ring.unpop(self.next.take().iter().len());
        self.slices.clear();
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
    pub(super) fn send(&mut self, tap: Option<&Tap>) -> Result<Sent, RingError> {
        let Some(chain) = self.take_next()? else { return Ok(Sent::Empty) };
        let sane = !chain.cut && (HEADER_BYTES + 1..=MAX_FRAME_BYTES).contains(&chain.bytes);
        let sent = match tap.filter(|_| sane).map(|tap| tap.write(self.slices.iter())) {
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                self.next = Some(chain);
                return Ok(Sent::Full);
            }
            Some(Ok(_)) => Sent::Frame(chain.bytes),
            // A header that makes no sense, an interface that is down, no memory: frames get lost in networks.
            Some(Err(_)) | None => Sent::Dropped,
        };
        self.slices.clear();
        self.ring.finish(&[(chain.head, 0)])?;
        Ok(sent)
    }

    fn take_next(&mut self) -> Result<Option<Chain>, RingError> {
        if let Some(chain) = self.next.take() {
            return Ok(Some(chain));
        }
        let chain = self.ring.pop_slices(false, &mut self.slices)?;
        if chain.is_some() || !self.ring.ask_for_kick()? {
            return Ok(chain);
        }
        self.ring.no_kicks()?;
        self.ring.pop_slices(false, &mut self.slices)
    }
}
