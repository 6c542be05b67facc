//! A queue and the guest memory behind its chains. Chains become lists of memory slices here, checked for direction, place
//! and number; what they mean is for [`super::rx`] and [`super::tx`].

use std::collections::VecDeque;
use std::num::Wrapping;
use std::sync::atomic::{Ordering, fence};

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory};

use super::MAX_SEGMENTS;
use crate::slice::GuestSlice;
use crate::{ActiveQueue, GuestMem};

/// The driver broke a ring: nothing in it can be believed any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum RingError {
    #[error("ring cannot be used")]
    Queue(#[from] virtio_queue::Error),
    #[error("ring is not in the guest's memory")]
    Memory(#[from] vm_memory::GuestMemoryError),
    #[error("chain {0} is not in the ring")]
    Head(u16),
    #[error("chain {0} is not guest memory of the right direction")]
    Chain(u16),
}

/// A chain whose slices are in a list of the caller's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    pub(super) head: u16,
    /// Bytes of its slices.
    pub(super) bytes: usize,
    /// Number of its slices.
    pub(super) slices: usize,
    /// There is more of it than [`MAX_SEGMENTS`] slices.
    pub(super) cut: bool,
}

/// One queue while the device is active.
pub(super) struct Ring<'m> {
    memory: &'m GuestMem,
    active: ActiveQueue,
    /// Index of the used ring up to which the driver was told.
    announced: Wrapping<u16>,
}

impl<'m> Ring<'m> {
    pub(super) fn new(memory: &'m GuestMem, active: ActiveQueue) -> Self {
        let announced = Wrapping(active.queue.next_used());
        Self { memory, active, announced }
    }

    /// The queue, as it stands.
    pub(super) fn into_active(self) -> ActiveQueue {
        self.active
    }

    /// The queue and its doorbell; no chain is at hand.
    pub(super) fn active(&self) -> &ActiveQueue {
        &self.active
    }

    /// Goes on where somebody else has come to: the next entry of the available ring, and what the used ring says of itself.
    pub(super) fn go_on(&mut self, next_available: u16) -> Result<(), RingError> {
        let used: u16 = self.memory.load(GuestAddress(self.queue().used_ring() + 2), Ordering::Acquire)?;
        self.active.queue.set_next_avail(next_available);
        self.active.queue.set_next_used(u16::from_le(used));
        self.announced = Wrapping(u16::from_le(used));
        Ok(())
    }

    /// Most chains that can be in it.
    pub(super) fn size(&self) -> usize {
        self.queue().size().into()
    }

    fn queue(&self) -> &Queue {
        &self.active.queue
    }

    /// The next chain; `None` if there is none now.
    pub(super) fn pop(&mut self) -> Result<Option<DescriptorChain<&'m GuestMem>>, RingError> {
        let Some(chain) = self.active.queue.iter(self.memory)?.next() else { return Ok(None) };
        let head = chain.head_index();
        if head < self.queue().size() { Ok(Some(chain)) } else { Err(RingError::Head(head)) }
    }

    /// The next chain, of which the device writes all or reads all; its slices are added to `slices`.
    pub(super) fn pop_slices(
        &mut self,
        writable: bool,
        slices: &mut VecDeque<GuestSlice<'m>>,
    ) -> Result<Option<Chain>, RingError> {
        let Some(descriptors) = self.pop()? else { return Ok(None) };
        let head = descriptors.head_index();
        let mut chain = Chain { head, bytes: 0, slices: 0, cut: false };
        for descriptor in descriptors {
            if descriptor.is_write_only() != writable {
                return Err(RingError::Chain(head));
            }
            for slice in self.memory.get_slices(descriptor.addr(), descriptor.len() as usize) {
                let slice = slice.map_err(|_| RingError::Chain(head))?;
                if chain.slices == MAX_SEGMENTS {
                    chain.cut = true;
                    return Ok(Some(chain));
                }
                chain.bytes += slice.len();
                chain.slices += 1;
                slices.push_back(slice);
            }
        }
        Ok(Some(chain))
    }

    /// Puts the chains popped last back into the ring.
    pub(super) fn unpop(&mut self, chains: usize) {
        for _ in 0..chains {
            self.active.queue.go_to_previous_position();
        }
    }

    /// Gives chains back to the driver: for each its head and the bytes written. The driver sees all of them or none: it
    /// takes the buffers of one frame together (`Queue::add_used` shows each alone).
    pub(super) fn finish(&mut self, used: &[(u16, u32)]) -> Result<(), RingError> {
        let queue = &mut self.active.queue;
        let mut next = Wrapping(queue.next_used());
        let ring = queue.used_ring();
        for (head, bytes) in used {
            // Header of 4 bytes, elements of 8 (virtio 1.2, 2.7.8). The ring was found to be in guest memory.
            let at = GuestAddress(ring + 4 + 8 * u64::from(next.0 % queue.size()));
            let element = u64::from(*head) | u64::from(*bytes) << 32;
            self.memory.write_obj(element.to_le(), at)?;
            next += 1;
        }
        queue.set_next_used(next.0);
        Ok(self.memory.store(next.0.to_le(), GuestAddress(ring + 2), Ordering::Release)?)
    }

    /// Whether the driver wants to be interrupted for what was used since the last call (virtio 1.2, 2.7.10).
    pub(super) fn interrupt_due(&mut self) -> Result<bool, RingError> {
        let next = Wrapping(self.queue().next_used());
        let news = next - std::mem::replace(&mut self.announced, next);
        if news.0 == 0 || !self.queue().event_idx_enabled() {
            return Ok(news.0 != 0);
        }
        // The used ring before used_event: the driver writes and reads them the other way round.
        fence(Ordering::SeqCst);
        let at = self.queue().avail_ring() + 4 + 2 * u64::from(self.queue().size());
        let wanted: u16 = self.memory.load(GuestAddress(at), Ordering::Relaxed)?;
        Ok(next - Wrapping(u16::from_le(wanted)) - Wrapping(1) < news)
    }

    /// Asks for a kick at the next chain; true if there is one already.
    pub(super) fn ask_for_kick(&mut self) -> Result<bool, RingError> {
        Ok(self.active.queue.enable_notification(self.memory)?)
    }

    /// Kicks would tell nothing new for now.
    pub(super) fn no_kicks(&mut self) -> Result<(), RingError> {
        Ok(self.active.queue.disable_notification(self.memory)?)
    }
}

/// Whether the driver has ever put something into a ring.
pub(super) fn was_used(queue: &Queue, memory: &GuestMem) -> bool {
    queue.ready()
        && (queue.next_avail() != 0
            || queue.avail_idx(memory, Ordering::Acquire).is_ok_and(|index| index.0 != 0))
}
