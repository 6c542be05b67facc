//! Limits on a descriptor chain before anything acts on it: before this, a queue gave a chain; after it, a
//! device reads and writes through virtio-queue's `Reader` and `Writer`. virtio-queue bounds the number of
//! descriptors by the queue size and the bytes by 4 GiB; a device knows much tighter numbers.

use std::ops::Deref;

use virtio_queue::DescriptorChain;
use vm_memory::GuestMemory;

/// What one request may consist of.
#[derive(Clone, Copy, Debug)]
pub struct ChainLimits {
    /// Most descriptors.
    pub max_segments: usize,
    /// Most bytes that the device reads.
    pub max_readable_bytes: u32,
    /// Most bytes that the device writes.
    pub max_writable_bytes: u32,
}

/// Bytes of a chain within its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainBytes {
    /// What the device reads.
    pub readable: u32,
    /// What the device writes.
    pub writable: u32,
}

/// A chain that a device must not touch.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// More descriptors than the device's requests have.
    #[error("a chain of more than {0} descriptors")]
    Segments(usize),
    /// More bytes than the device's requests have.
    #[error("a chain of more than {0} bytes in one direction")]
    Bytes(u32),
    /// Readable descriptors come first (virtio 1.2, 2.7.4.2).
    #[error("a readable descriptor behind a writable one")]
    Order,
    /// A buffer that is not guest memory.
    #[error("a buffer outside the guest's memory")]
    Memory,
}

/// Walks a chain once and adds it up.
///
/// # Errors
/// The chain is longer than its limits, out of order, or points outside the guest's memory.
pub fn check_chain<M>(chain: &DescriptorChain<M>, limits: ChainLimits) -> Result<ChainBytes, ChainError>
where
    M: Clone + Deref,
    M::Target: GuestMemory,
{
    let memory = chain.memory();
    let mut bytes = ChainBytes { readable: 0, writable: 0 };
    let mut seen_writable = false;
    for (index, descriptor) in chain.clone().enumerate() {
        if index >= limits.max_segments {
            return Err(ChainError::Segments(limits.max_segments));
        }
        let (sum, max) = if descriptor.is_write_only() {
            seen_writable = true;
            (&mut bytes.writable, limits.max_writable_bytes)
        } else if seen_writable {
            return Err(ChainError::Order);
        } else {
            (&mut bytes.readable, limits.max_readable_bytes)
        };
        *sum = sum.checked_add(descriptor.len()).filter(|n| *n <= max).ok_or(ChainError::Bytes(max))?;
        if !memory.check_range(descriptor.addr(), descriptor.len() as usize) {
            return Err(ChainError::Memory);
        }
    }
    Ok(bytes)
}
