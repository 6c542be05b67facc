//! A driver of virtio-vsock for tests: real rings in real memory, kicks and interrupts as sparing as Linux's, so that one
//! that is missing shows as a test that does not go on.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::sync::mpsc::{Receiver, channel};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::vsock::{GuestConnection, Vsock, VsockConfig, sys};
use crate::{Activation, ActiveQueue, GuestMem, Interrupt, VirtioDevice};

pub(super) const GUEST_CID: u64 = 7;
pub(super) const RX: usize = 0;
pub(super) const TX: usize = 1;

const RINGS: u64 = 0x1000;
const RING_BYTES: u64 = 0x4000;
const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;
const RX_BUFFERS: u64 = 0x10_0000;
const TX_BUFFERS: u64 = 0x20_0000;
/// Room for a header and the largest payload.
const TX_BUFFER_BYTES: u64 = 0x1_1000;
pub(super) const MEMORY_BYTES: u64 = 0x80_0000;
/// As Linux: a page without the bookkeeping behind it.
pub(super) const RX_BUFFER_BYTES: u32 = 3776;
/// Long enough for the slowest machine; reached only when something is lost.
const PATIENCE_S: i64 = 60;

pub(super) struct Ring {
    base: u64,
    pub(super) size: u16,
    pub(super) avail: u16,
    kicked: u16,
    used: u16,
    kick: EventFd,
}

/// A chain's parts: address, length, for the device to write.
pub(super) type Part = (u64, u32, bool);

pub(super) struct Driver {
    pub(super) memory: GuestMem,
    pub(super) rings: Vec<Ring>,
    pub(super) device: Vsock,
    pub(super) connections: Receiver<GuestConnection>,
    event_idx: bool,
    line: EventFd,
    device_status: Arc<AtomicU32>,
    free_tx: Vec<u16>,
    /// Interrupts taken.
    pub(super) interrupts: usize,
}

impl Driver {
    /// A device that is active, with `rx_buffers` receive buffers.
    pub(super) fn start(event_idx: bool, rx_buffers: u16, listener: Option<UnixListener>) -> Self {
        let (sender, connections) = channel();
        let config = VsockConfig { guest_cid: GUEST_CID, host_listener: listener, guest_connections: sender };
        let device = Vsock::new(config).unwrap();
        let memory = GuestMem::from_ranges(&[(GuestAddress(0), MEMORY_BYTES as usize)]).unwrap();
        let mut driver = Self {
            memory,
            rings: Vec::new(),
            device,
            connections,
            event_idx,
            line: EventFd::new(EFD_NONBLOCK).unwrap(),
            device_status: Arc::default(),
            free_tx: Vec::new(),
            interrupts: 0,
        };
        driver.activate();
        for slot in 0..rx_buffers {
            driver.give_rx(slot);
        }
        driver
    }

    /// Sets fresh rings up, as after a reset.
    pub(super) fn activate(&mut self) {
        let sizes = self.device.queue_sizes().to_vec();
        let mut queues = Vec::new();
        self.rings.clear();
        self.free_tx = (0..sizes[TX] / 2).collect();
        for (index, size) in sizes.into_iter().enumerate() {
            let base = RINGS + RING_BYTES * index as u64;
            self.memory.write_slice(&[0; RING_BYTES as usize], GuestAddress(base)).unwrap();
            let mut queue = Queue::new(size).unwrap();
            queue.set_desc_table_address(Some(base as u32), Some(0));
            queue.set_avail_ring_address(Some((base + AVAIL) as u32), Some(0));
            queue.set_used_ring_address(Some((base + USED) as u32), Some(0));
            queue.set_ready(true);
            let kick = EventFd::new(EFD_NONBLOCK).unwrap();
            queues.push(ActiveQueue { queue, kick: kick.try_clone().unwrap() });
            self.rings.push(Ring { base, size, avail: 0, kicked: 0, used: 0, kick });
        }
        let line = Arc::new(self.line.try_clone().unwrap());
        let interrupt = Interrupt::new(Arc::default(), Arc::clone(&self.device_status), line);
        let mut features = 1 << 32;
        if self.event_idx {
            features |= self.device.features() & 1 << VIRTIO_RING_F_EVENT_IDX;
        }
        let memory = self.memory.clone();
        self.device.activate(Activation { memory, features, queues, interrupt }).unwrap();
    }

    /// Makes a chain of descriptors from `first` on available.
    pub(super) fn offer(&mut self, ring: usize, first: u16, parts: &[Part]) {
        let memory = &self.memory;
        let ring = &mut self.rings[ring];
        for (index, (address, length, writable)) in (first..).zip(parts) {
            let last = usize::from(index - first) + 1 == parts.len();
            let mut flags = if *writable { VRING_DESC_F_WRITE } else { 0 };
            flags |= if last { 0 } else { VRING_DESC_F_NEXT };
            let at = GuestAddress(ring.base + 16 * u64::from(index));
            let words = [*address, u64::from(*length) | u64::from(flags) << 32 | u64::from(index + 1) << 48];
            memory.write_obj(words, at).unwrap();
        }
        let at = ring.base + AVAIL + 4 + 2 * u64::from(ring.avail % ring.size);
        memory.write_obj(first, GuestAddress(at)).unwrap();
        ring.avail = ring.avail.wrapping_add(1);
        memory.store(ring.avail, GuestAddress(ring.base + AVAIL + 2), Ordering::Release).unwrap();
    }

    /// Kicks if the device wants it (virtio 1.2, 2.7.10).
    pub(super) fn kick(&mut self, ring: usize) {
        fence(Ordering::SeqCst);
        let ring = &mut self.rings[ring];
        let used = ring.base + USED;
        let wanted = if self.event_idx {
            let at = used + 4 + 8 * u64::from(ring.size);
            let event: u16 = self.memory.load(GuestAddress(at), Ordering::Relaxed).unwrap();
            let (new, old) = (ring.avail, ring.kicked);
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.memory.load::<u16>(GuestAddress(used), Ordering::Relaxed).unwrap() & 1 == 0
        };
        ring.kicked = ring.avail;
        if wanted {
            ring.kick.write(1).unwrap();
        }
    }

    /// The next used chain: its head and the bytes in it.
    pub(super) fn take_used(&mut self, ring: usize) -> Option<(u16, u32)> {
        let ring = &mut self.rings[ring];
        let index: u16 = self.memory.load(GuestAddress(ring.base + USED + 2), Ordering::Acquire).unwrap();
        if index == ring.used {
            return None;
        }
        let at = ring.base + USED + 4 + 8 * u64::from(ring.used % ring.size);
        let [head, bytes]: [u32; 2] = self.memory.read_obj(GuestAddress(at)).unwrap();
        ring.used = ring.used.wrapping_add(1);
        Some((head as u16, bytes))
    }

    /// Sleeps until the device interrupts, unless it used something meanwhile.
    pub(super) fn wait(&mut self) {
        for ring in [RX, TX] {
            let ring = &self.rings[ring];
            let at = GuestAddress(ring.base + AVAIL + 4 + 2 * u64::from(ring.size));
            self.memory.store(ring.used, at, Ordering::Relaxed).unwrap();
        }
        fence(Ordering::SeqCst);
        for ring in [RX, TX] {
            let ring = &self.rings[ring];
            let used: u16 = self.memory.load(GuestAddress(ring.base + USED + 2), Ordering::Acquire).unwrap();
            if used != ring.used {
                return;
            }
        }
        let descriptor = sys::event_fd(&self.line);
        let timeout = Timespec { tv_sec: PATIENCE_S, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&timeout)).unwrap();
        assert_eq!(ready, 1, "no interrupt came");
        self.line.read().unwrap();
        self.interrupts += 1;
    }

    pub(super) fn needs_reset(&self) -> bool {
        self.device_status.load(Ordering::SeqCst) & VIRTIO_CONFIG_S_NEEDS_RESET != 0
    }

    /// Sleeps until the device says that its ring is broken.
    pub(super) fn wait_needs_reset(&mut self) {
        while !self.needs_reset() {
            self.wait();
        }
    }

    pub(super) fn give_rx(&mut self, slot: u16) {
        self.offer(RX, slot, &[(RX_BUFFERS + 4096 * u64::from(slot), RX_BUFFER_BYTES, true)]);
        self.kick(RX);
    }

    /// The next packet of the device, with the slot of its buffer.
    pub(super) fn receive(&mut self) -> Option<(u16, Vec<u8>)> {
        let (slot, bytes) = self.take_used(RX)?;
        let mut packet = vec![0; bytes as usize];
        self.memory.read_slice(&mut packet, GuestAddress(RX_BUFFERS + 4096 * u64::from(slot))).unwrap();
        Some((slot, packet))
    }

    /// Whether a packet can be sent now; takes sent ones back first.
    pub(super) fn can_send(&mut self) -> bool {
        while let Some((head, bytes)) = self.take_used(TX) {
            assert_eq!(bytes, 0, "the device writes nothing there");
            self.free_tx.push(head / 2);
        }
        !self.free_tx.is_empty()
    }

    /// Sends bytes as a packet: header and payload in a descriptor each, as Linux does.
    pub(super) fn send(&mut self, header: &[u8], payload: &[u8]) {
        while !self.can_send() {
            self.kick(TX);
            self.wait();
        }
        let slot = self.free_tx.pop().unwrap();
        let at = TX_BUFFERS + TX_BUFFER_BYTES * u64::from(slot);
        self.memory.write_slice(header, GuestAddress(at)).unwrap();
        self.memory.write_slice(payload, GuestAddress(at + 64)).unwrap();
        let mut parts = vec![(at, header.len() as u32, false)];
        if !payload.is_empty() {
            parts.push((at + 64, payload.len() as u32, false));
        }
        self.offer(TX, slot * 2, &parts);
        self.kick(TX);
    }
}
