//! Extended register state on a PVM host (rootfs/kernel, patch 0013). Programs run natively there and use
//! AVX, but the guest's kernel cannot execute XSAVE: it names an address, and KVM reads or sets the state.
//!
//! Before: `exit.rs` recognised the ports.

use crx_virtio::GuestMem;
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use super::failure::FailedRun;
use crate::sys;

/// Saves the state: 32 bits, the guest-physical address divided by [`ADDRESS_UNIT_BYTES`].
const SAVE_PORT: u16 = 0x508;
/// Restores it, likewise.
const RESTORE_PORT: u16 = 0x50a;
/// XSAVE areas are aligned to this (Intel SDM, volume 1, 13.4).
const ADDRESS_UNIT_BYTES: u64 = 64;
/// What KVM_GET_XSAVE fills: `struct kvm_xsave`.
const STATE_BYTES: usize = 4096;

/// What the guest asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// The vCPU's state to this address.
    Save(GuestAddress),
    /// The vCPU's state from this address.
    Restore(GuestAddress),
}

impl Request {
    /// Takes a port write apart; `None` if it is none of these.
    pub(super) fn parse(port: u16, data: &[u8]) -> Option<Self> {
        let address =
            || Some(GuestAddress(u64::from(u32::from_le_bytes(data.try_into().ok()?)) * ADDRESS_UNIT_BYTES));
        match port {
            SAVE_PORT => address().map(Self::Save),
            RESTORE_PORT => address().map(Self::Restore),
            _ => None,
        }
    }

    /// Does it. An address or a state that cannot be is the end of a guest that broke its own rules.
    pub(super) fn serve(self, vcpu: &VcpuFd, memory: &GuestMem) -> Result<(), FailedRun> {
        let mut state = [0; STATE_BYTES];
        match self {
            Self::Save(address) => {
                sys::read_xsave(vcpu, &mut state).map_err(FailedRun::Call)?;
                memory.write_slice(&state, address).map_err(|_| FailedRun::MemoryFault(address.0))
            }
            Self::Restore(address) => {
                memory.read_slice(&mut state, address).map_err(|_| FailedRun::MemoryFault(address.0))?;
                sys::write_xsave(vcpu, &state).map_err(FailedRun::Call)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_32_bits_on_the_two_ports_are_requests() {
        let address = 0x1234_u32.to_le_bytes();
        assert_eq!(Request::parse(0x508, &address), Some(Request::Save(GuestAddress(0x48d00))));
        assert_eq!(Request::parse(0x50a, &address), Some(Request::Restore(GuestAddress(0x48d00))));
        assert_eq!(Request::parse(0x509, &address), None);
        assert_eq!(Request::parse(0x508, &address[..2]), None);
        assert_eq!(Request::parse(0x508, &[0; 8]), None);
    }
}
