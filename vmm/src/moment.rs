//! The moment: PID 1 has done everything that is the same for all pods, and the guest's kernel says so by a write to a
//! port, naming a page of its memory (rootfs/kernel, patch 0026). Here a snapshot is taken; and here a pod begins, whether
//! it booted or was restored: the page tells the guest's kernel what must be its own.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crx_virtio::GuestMem;
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use vm_memory::{Bytes, GuestAddress};

use crate::layout::HOLE_END;

/// 32 bits: the page's number.
const PORT: u16 = 0x50c;
const PAGE_SHIFT: u32 = 12;

/// What the page holds; the rest of it stays as it is.
const CONTENT_BYTES: usize = 128;
const ENTROPY_BYTES: usize = 64;

/// Layout of the page.
const LAYOUT: u32 = 1;

/// What a guest learns at its moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// Processors that shall be online.
    pub(crate) vcpus: u8,
    /// Its vsock address.
    pub(crate) guest_cid: u64,
    /// Memory to be added behind the hole.
    pub(crate) added_bytes: u64,
}

/// Takes a port write apart: the page, if it is the moment's.
pub(crate) fn parse(port: u16, data: &[u8]) -> Option<GuestAddress> {
    let number = u32::from_le_bytes(data.try_into().ok().filter(|_| port == PORT)?);
    Some(GuestAddress(u64::from(number) << PAGE_SHIFT))
}

impl Arrival {
    /// Fills the page, with the wall clock of now and fresh entropy.
    ///
    /// # Errors
    /// The guest named a page that is none, or the host has no entropy.
    pub(crate) fn tell(&self, memory: &GuestMem, page: GuestAddress) -> io::Result<()> {
        let mut entropy = [0; ENTROPY_BYTES];
        // Up to 256 bytes it is not interrupted once the host's pool is initialized: getrandom(2).
        while getrandom(&mut entropy, GetRandomFlags::empty()).or_else(again)? != ENTROPY_BYTES {}
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        memory.write_slice(&self.content(now, &entropy), page).map_err(io::Error::other)
    }

    fn content(&self, now: Duration, entropy: &[u8; ENTROPY_BYTES]) -> [u8; CONTENT_BYTES] {
        let mut page = [0; CONTENT_BYTES];
        let mut put = |at: usize, value: &[u8]| page[at..at + value.len()].copy_from_slice(value);
        put(0, &LAYOUT.to_le_bytes());
        put(4, &u32::from(self.vcpus).to_le_bytes());
        put(8, &(now.as_nanos() as u64).to_le_bytes());
        put(16, &self.guest_cid.to_le_bytes());
        if self.added_bytes > 0 {
            put(24, &HOLE_END.to_le_bytes());
            put(32, &self.added_bytes.to_le_bytes());
        }
        put(64, entropy);
        page
    }
}

fn again(error: Errno) -> io::Result<usize> {
    if error == Errno::INTR { Ok(0) } else { Err(error.into()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const ARRIVAL: Arrival = Arrival { vcpus: 2, guest_cid: 0x1_0000_0003, added_bytes: 128 << 20 };

    #[test]
    fn only_32_bits_on_the_port_are_the_moment() {
        assert_eq!(parse(0x50c, &[0x34, 0x12, 0, 0]), Some(GuestAddress(0x123_4000)));
        assert_eq!(parse(0x50c, &[1, 0]), None);
        assert_eq!(parse(0x508, &[0x34, 0x12, 0, 0]), None);
    }

    #[test]
    fn the_page_has_the_documented_layout() {
        let now = Duration::from_nanos(0x1122_3344_5566_7788);
        let page = ARRIVAL.content(now, &[9; 64]);
        assert_eq!(page[..8], *b"\x01\0\0\0\x02\0\0\0");
        assert_eq!(page[8..16], *b"\x88\x77\x66\x55\x44\x33\x22\x11");
        assert_eq!(page[16..24], *b"\x03\0\0\0\x01\0\0\0");
        assert_eq!(page[24..40], *b"\0\0\0\0\x01\0\0\0\0\0\0\x08\0\0\0\0");
        assert_eq!(page[40..64], [0; 24]);
        assert_eq!(page[64..], [9; 64]);
    }

    #[test]
    fn no_two_guests_get_the_same_entropy_and_a_page_outside_is_refused() {
        let memory = GuestMem::from_ranges(&[(GuestAddress(0), 8192)]).unwrap();
        let told = || {
            ARRIVAL.tell(&memory, GuestAddress(4096)).unwrap();
            memory.read_obj::<[u8; 32]>(GuestAddress(4096 + 64)).unwrap()
        };
        assert_ne!(told(), told());
        assert!(ARRIVAL.tell(&memory, GuestAddress(8192)).is_err());
    }
}
