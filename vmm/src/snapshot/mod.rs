//! A guest that stands still, in two files: one with the state of the VM, one with its memory. [`crate::RunningVm::snapshot`]
//! takes it at the guest's moment (see [`crate::moment`]), [`crate::Vm::restore`] makes any number of VMs of it.
//!
//! | | saved, in this order | restored, in this order |
//! |---|---|---|
//! | 1 | vCPU (`vcpu`), its last exit finished | memory mapped (`memory`), shown to KVM |
//! | 2 | devices: workers stopped, queues (`crx_virtio::transport`) | interrupt controllers made and set (`chips`) |
//! | 3 | interrupt controllers, clock (`chips`) | all vCPUs made; set, the first as the last |
//! | 4 | memory (`memory`), which nobody writes any more | devices attached, queues set, workers started |
//! | 5 | the header (`format`) | clock; then the moment's page, and the guest goes on |
//!
//! Interrupts that devices raised last may still be on their way into the controllers: a device that has some
//! unacknowledged raises them again.

mod chips;
mod format;
pub(crate) mod memory;
mod vcpu;

use std::fs::File;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use crx_virtio::transport::WindowState;
use serde::{Deserialize, Serialize};

pub(crate) use self::chips::SavedChips;
pub use self::format::{FORMAT_VERSION, FormatError, HEADER_BYTES, Header};
pub(crate) use self::memory::Extent;
pub(crate) use self::vcpu::SavedVcpu;

/// Everything but the content of the memory.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) memory_mib: u32,
    /// Processors that the guest knows; all but the first are offline.
    pub(crate) vcpus: u8,
    /// Guest-physical address of the moment's page.
    pub(crate) page: u64,
    pub(crate) vcpu: SavedVcpu,
    pub(crate) windows: Vec<WindowState>,
    pub(crate) chips: SavedChips,
    pub(crate) extents: Vec<Extent>,
}

/// A snapshot, without the content of its memory.
#[derive(Debug)]
pub struct Snapshot {
    pub(crate) state: State,
    memory_file_bytes: u64,
    memory_checksum: u32,
}

/// A memory file that is not the snapshot's.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// It cannot be read, or ends too early.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// It has another size.
    #[error("it has {0} bytes instead of {1}")]
    Size(u64, u64),
    /// Its content changed.
    #[error("it is damaged")]
    Damaged,
}

impl Snapshot {
    pub(crate) fn new(state: State, memory_file_bytes: u64, memory_checksum: u32) -> Self {
        Self { state, memory_file_bytes, memory_checksum }
    }

    /// The file of its state; `label` is the caller's.
    ///
    /// # Errors
    /// None that could be met.
    pub fn to_bytes(&self, label: [u8; 32]) -> io::Result<Vec<u8>> {
        let state = postcard::to_stdvec(&self.state).map_err(io::Error::other)?;
        let header = Header {
            memory_mib: self.state.memory_mib,
            vcpus: self.state.vcpus.into(),
            content_bytes: self.state.extents.iter().map(|extent| extent.bytes).sum(),
            memory_file_bytes: self.memory_file_bytes,
            memory_checksum: self.memory_checksum,
            state_bytes: state.len() as u32,
            state_checksum: crc32fast::hash(&state),
            created_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            label,
        };
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend(state);
        Ok(bytes)
    }

    /// Reads the file of a state.
    ///
    /// # Errors
    /// It is none, or not as it was written.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let header = Header::parse(bytes)?;
        let state =
            postcard::from_bytes(header.state_in(bytes)?).map_err(|_| FormatError::Damaged("state"))?;
        Ok(Self::new(state, header.memory_file_bytes, header.memory_checksum))
    }

    /// Checks the size of a memory file; that is all that a launch has time for.
    ///
    /// # Errors
    /// It is another one.
    pub fn check_size(&self, memory: &File) -> Result<(), MemoryError> {
        match memory.metadata().map_err(MemoryError::Read)?.len() {
            size if size == self.memory_file_bytes => Ok(()),
            size => Err(MemoryError::Size(size, self.memory_file_bytes)),
        }
    }

    /// Checks the content of a memory file, all of it.
    ///
    /// # Errors
    /// It is another one, or damaged.
    pub fn check_content(&self, memory: &File) -> Result<(), MemoryError> {
        self.check_size(memory)?;
        match memory::checksum(memory, &self.state.extents).map_err(MemoryError::Read)? {
            sum if sum == self.memory_checksum => Ok(()),
            _ => Err(MemoryError::Damaged),
        }
    }
}

// The structures of KVM are saved as their bytes: one that changes its size changes the format.
const _: () = {
    assert!(size_of::<kvm_bindings::kvm_regs>() == 144);
    assert!(size_of::<kvm_bindings::kvm_sregs>() == 312);
    assert!(size_of::<kvm_bindings::kvm_xsave>() == 4096);
    assert!(size_of::<kvm_bindings::kvm_xcrs>() == 392);
    assert!(size_of::<kvm_bindings::kvm_debugregs>() == 128);
    assert!(size_of::<kvm_bindings::kvm_lapic_state>() == 1024);
    assert!(size_of::<kvm_bindings::kvm_mp_state>() == 4);
    assert!(size_of::<kvm_bindings::kvm_vcpu_events>() == 64);
    assert!(size_of::<kvm_bindings::kvm_msr_entry>() == 16);
    assert!(size_of::<kvm_bindings::kvm_cpuid_entry2>() == 40);
    assert!(size_of::<kvm_bindings::kvm_irqchip>() == 520);
};

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use crx_virtio::transport::RingState;

    use super::*;

    fn state() -> State {
        let queue = RingState {
            max_size: 64,
            size: 32,
            ready: true,
            event_idx: true,
            next_available: 5,
            next_used: 4,
            descriptors: 0x1000,
            available: 0x2000,
            used: 0x3000,
        };
        let window = WindowState {
            device_id: 19,
            features: 1 << 32,
            status: 15,
            interrupt_status: 1,
            queues: vec![queue],
        };
        State {
            memory_mib: 256,
            vcpus: 8,
            page: 0x12_3000,
            vcpu: SavedVcpu::sample(),
            windows: vec![window],
            chips: SavedChips::sample(),
            extents: vec![Extent { start: 0, bytes: 4096 }, Extent { start: 0x10_0000, bytes: 8192 }],
        }
    }

    /// What [`state`] was in the file when [`FORMAT_VERSION`] was given its number: a change here is one of the format.
    const GOLDEN: (usize, u32) = (7849, 3_017_071_710);

    #[test]
    fn the_state_is_written_as_it_always_was_and_read_back() {
        let snapshot = Snapshot::new(state(), 0x10_2000, 7);
        let bytes = snapshot.to_bytes([3; 32]).unwrap();
        let written = &bytes[HEADER_BYTES..];
        assert_eq!((written.len(), crc32fast::hash(written)), GOLDEN, "raise FORMAT_VERSION, then this");
        let read = Snapshot::from_bytes(&bytes).unwrap();
        assert_eq!(postcard::to_stdvec(&read.state).unwrap(), written);
        assert_eq!((read.memory_file_bytes, read.memory_checksum), (0x10_2000, 7));
        assert_eq!(Header::parse(&bytes).unwrap().content_bytes, 4096 + 8192);
    }
}
