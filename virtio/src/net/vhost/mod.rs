//! vhost-net: the host's kernel moves the frames of a pair between its rings and its tap, without a process in between.
//! Before: [`super::worker`] gives it a pair's rings and takes them back. It wakes for the guest's doorbells by itself, and
//! writes the device's interrupt line.

mod sys;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemory};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use self::sys::RingFile;
use super::tap::Tap;
use crate::device::DirectInterrupt;
use crate::{ActiveQueue, GuestMem, Interrupt};

/// The features that are about rings and headers: those that the driver accepted must be known to the kernel as well.
const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_NET_F_MRG_RXBUF
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_RING_F_EVENT_IDX;

/// Its rings, as it numbers them: receive and transmit.
const RINGS: [u32; 2] = [0, 1];

/// An open /dev/vhost-net: it carries one pair.
#[derive(Debug)]
pub struct Vhost {
    file: OwnedFd,
    /// Written by the kernel when it meets something in a ring that it cannot go on with.
    errors: EventFd,
}

impl Vhost {
    /// Makes this process the owner of a descriptor of /dev/vhost-net.
    ///
    /// # Errors
    /// It is something else, has an owner, or the kernel knows less than the device offers.
    pub fn new(file: OwnedFd) -> io::Result<Self> {
        let missing = FEATURES & !sys::features(&file)?;
        if missing != 0 {
            return Err(io::Error::other(format!("the kernel's vhost-net lacks the features {missing:#x}")));
        }
        sys::set_owner(&file)?;
        Ok(Self { file, errors: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)? })
    }

    /// Shows it a pair's rings, as they stand. Nothing moves yet.
    fn prepare(
        &self,
        memory: &GuestMem,
        features: u64,
        interrupt: &Interrupt,
        rings: [&ActiveQueue; 2],
    ) -> io::Result<()> {
        // Of the time before; empty is fine.
        let _ = self.errors.read();
        sys::set_features(&self.file, features & FEATURES)?;
        sys::set_memory(&self.file, memory)?;
        for (index, ActiveQueue { queue, kick }) in RINGS.into_iter().zip(rings) {
            sys::set_ring_size(&self.file, index, queue.size())?;
            sys::set_ring_base(&self.file, index, queue.next_avail())?;
            sys::set_ring_address(&self.file, address(memory, index, queue)?)?;
            let files = [
                (RingFile::Error, self.errors.as_raw_fd()),
                (RingFile::Call, interrupt.line().as_raw_fd()),
                (RingFile::Kick, kick.as_raw_fd()),
            ];
            for (kind, file) in files {
                sys::set_ring_file(&self.file, index, kind, Some(file))?;
            }
        }
        Ok(())
    }

    /// When this returns nothing moves any more, and doorbells wake nobody.
    fn stop(&self) -> io::Result<()> {
        let mut stopped = Ok(());
        for kind in [RingFile::Backend, RingFile::Kick, RingFile::Call] {
            for index in RINGS {
                // All of them, whatever comes of one: a ring that was not shown yet has nothing to be taken away.
                stopped = stopped.and(sys::set_ring_file(&self.file, index, kind, None));
            }
        }
        stopped
    }
}

/// A pair that the kernel may carry, until this is dropped.
pub(super) struct Carried {
    vhost: Arc<Vhost>,
    /// Stays mapped with it.
    _memory: GuestMem,
    _line: DirectInterrupt,
}

impl Carried {
    /// Shows the kernel the rings of a pair, as they stand. Nothing moves yet.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn new(
        vhost: Arc<Vhost>,
        memory: &GuestMem,
        features: u64,
        interrupt: &Interrupt,
        rings: [&ActiveQueue; 2],
    ) -> io::Result<Self> {
        let prepared = vhost.prepare(memory, features, interrupt, rings);
        // From here on dropping it undoes what was done.
        let carried = Self { vhost, _memory: memory.clone(), _line: interrupt.direct() };
        prepared.map(|()| carried)
    }

    /// Has frames move between the rings and a tap.
    ///
    /// # Errors
    /// The kernel's; one of the rings may be at work.
    pub(super) fn run(&self, tap: &Tap) -> io::Result<()> {
        let set =
            |index| sys::set_ring_file(&self.vhost.file, index, RingFile::Backend, Some(tap.as_raw_fd()));
        RINGS.into_iter().try_for_each(set)
    }

    /// Becomes readable when the kernel gives up on a ring.
    pub(super) fn errors(&self) -> RawFd {
        self.vhost.errors.as_raw_fd()
    }

    /// Takes the rings back: which entry of its available ring is next in each. Whatever was taken is in the used ring.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn take_back(self) -> io::Result<[u16; 2]> {
        self.vhost.stop()?;
        let [rx, tx] = RINGS.map(|index| sys::ring_base(&self.vhost.file, index));
        Ok([rx?, tx?])
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        // It only fails for what is not there.
        let _ = self.vhost.stop();
    }
}

/// Where a ring is in this process. The sizes are those of virtio 1.2, 2.7.
fn address(memory: &GuestMem, index: u32, queue: &Queue) -> io::Result<sys::RingAddress> {
    let entries = usize::from(queue.size());
    let place = |address: u64, bytes: usize| {
        let slice = memory.get_slice(GuestAddress(address), bytes).map_err(io::Error::other)?;
        io::Result::Ok(slice.ptr_guard().as_ptr() as u64)
    };
    Ok(sys::RingAddress {
        index,
        no_flags: 0,
        descriptors: place(queue.desc_table(), 16 * entries)?,
        used: place(queue.used_ring(), 6 + 8 * entries)?,
        available: place(queue.avail_ring(), 6 + 2 * entries)?,
        no_log: 0,
    })
}
