//! A queue and the guest memory behind its chains. Chains become lists of memory slices here, checked for direction,
//! place and number; what is in the bytes is for [`super::packet`].

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemory;
use vmm_sys_util::eventfd::EventFd;

use super::packet::HEADER_BYTES;
use crate::slice::GuestSlice;
use crate::{ActiveQueue, GuestMem};

/// Descriptors of one chain: Linux uses one for the header and at most MAX_SKB_FRAGS + 1 (18) for the payload.
const MAX_SEGMENTS: usize = 32;

/// The driver broke a ring: nothing in it can be believed any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum RingError {
    #[error("ring cannot be used")]
    Queue(#[from] virtio_queue::Error),
    #[error("receive buffer {0} is not {HEADER_BYTES} bytes of writable memory or more")]
    Buffer(u16),
}

/// One queue while the device is active.
pub(super) struct Ring {
    queue: Queue,
    /// Kept open: closing it would end the watch for kicks.
    _kick: EventFd,
    /// Buffers were used since the driver was last asked whether it wants to know.
    news: bool,
}

/// A descriptor chain, cut to slices.
pub(super) struct Chain<'m> {
    pub(super) head: u16,
    pub(super) slices: Vec<GuestSlice<'m>>,
}

impl Ring {
    pub(super) fn new(active: ActiveQueue, event_idx: bool) -> Self {
        let ActiveQueue { mut queue, kick } = active;
        queue.set_event_idx(event_idx);
        Self { queue, _kick: kick, news: false }
    }

    /// The queue, as it stands.
    pub(super) fn into_queue(self) -> Queue {
        self.queue
    }

    /// The next chain that the device may write; `None` if there is none now.
    pub(super) fn pop_writable<'m>(&mut self, memory: &'m GuestMem) -> Result<Option<Chain<'m>>, RingError> {
        match self.pop(memory, true)? {
            None => Ok(None),
            Some(Ok(chain)) if chain.bytes() >= HEADER_BYTES => Ok(Some(chain)),
            Some(Ok(chain)) => Err(RingError::Buffer(chain.head)),
            Some(Err(head)) => Err(RingError::Buffer(head)),
        }
    }

    /// The next chain that the device may read; an error inside carries the head of one that it may not.
    pub(super) fn pop_readable<'m>(
        &mut self,
        memory: &'m GuestMem,
    ) -> Result<Option<Result<Chain<'m>, u16>>, RingError> {
        self.pop(memory, false)
    }

    fn pop<'m>(
        &mut self,
        memory: &'m GuestMem,
        writable: bool,
    ) -> Result<Option<Result<Chain<'m>, u16>>, RingError> {
        let Some(descriptors) = self.queue.iter(memory)?.next() else { return Ok(None) };
        let head = descriptors.head_index();
        let mut slices = Vec::with_capacity(2);
        for descriptor in descriptors {
            if descriptor.is_write_only() != writable {
                return Ok(Some(Err(head)));
            }
            for slice in memory.get_slices(descriptor.addr(), descriptor.len() as usize) {
                match slice {
                    Ok(slice) if slices.len() < MAX_SEGMENTS => slices.push(slice),
                    _ => return Ok(Some(Err(head))),
                }
            }
        }
        Ok(Some(Ok(Chain { head, slices })))
    }

    /// Puts the chains popped last back into the ring.
    pub(super) fn unpop(&mut self, chains: usize) {
        for _ in 0..chains {
            self.queue.go_to_previous_position();
        }
    }

    /// Gives a chain back to the driver, with `written_bytes` in it.
    pub(super) fn finish(
        &mut self,
        memory: &GuestMem,
        head: u16,
        written_bytes: usize,
    ) -> Result<(), RingError> {
        // A chain is shorter than 2^32 bytes, virtio-queue sees to it.
        self.queue.add_used(memory, head, written_bytes as u32)?;
        self.news = true;
        Ok(())
    }

    /// Whether the driver wants to be interrupted for what was used since the last call.
    pub(super) fn interrupt_due(&mut self, memory: &GuestMem) -> Result<bool, RingError> {
        Ok(std::mem::take(&mut self.news) && self.queue.needs_notification(memory)?)
    }

    /// Asks for a kick at the next chain; true if there is one already.
    pub(super) fn ask_for_kick(&mut self, memory: &GuestMem) -> Result<bool, RingError> {
        Ok(self.queue.enable_notification(memory)?)
    }

    /// Kicks would tell nothing new for now.
    pub(super) fn no_kicks(&mut self, memory: &GuestMem) -> Result<(), RingError> {
        Ok(self.queue.disable_notification(memory)?)
    }
}

impl<'m> Chain<'m> {
    pub(super) fn bytes(&self) -> usize {
        self.slices.iter().map(GuestSlice::len).sum()
    }

    /// Reads the header and leaves the payload; `None` if the chain is shorter than a header.
    pub(super) fn take_header(&mut self) -> Option<[u8; HEADER_BYTES]> {
        let mut header = [0; HEADER_BYTES];
        let mut at = 0;
        for slice in &self.slices {
            at += slice.copy_to(&mut header[at..]);
        }
        if at < HEADER_BYTES {
            return None;
        }
        self.slices = skip(&self.slices, HEADER_BYTES);
        Some(header)
    }

    /// Writes the header in front.
    pub(super) fn put_header(&self, header: &[u8; HEADER_BYTES]) {
        let mut at = 0;
        for slice in &self.slices {
            let bytes = slice.len().min(HEADER_BYTES - at);
            slice.copy_from(&header[at..at + bytes]);
            at += bytes;
        }
    }

    /// The memory behind the header.
    pub(super) fn payload(&self) -> Vec<GuestSlice<'m>> {
        skip(&self.slices, HEADER_BYTES)
    }
}

/// All but the first `bytes` of `slices`.
pub(super) fn skip<'m>(slices: &[GuestSlice<'m>], mut bytes: usize) -> Vec<GuestSlice<'m>> {
    let mut rest = Vec::with_capacity(slices.len());
    for slice in slices {
        match slice.offset(bytes.min(slice.len())) {
            Ok(tail) if !tail.is_empty() => rest.push(tail),
            _ => {}
        }
        bytes = bytes.saturating_sub(slice.len());
    }
    rest
}

/// Cuts `slices` to `bytes` in all.
pub(super) fn truncate(slices: &mut Vec<GuestSlice<'_>>, mut bytes: usize) {
    slices.retain_mut(|slice| {
        if let Ok(part) = slice.subslice(0, bytes.min(slice.len())) {
            *slice = part;
        }
        bytes -= bytes.min(slice.len());
        !slice.is_empty()
    });
}
