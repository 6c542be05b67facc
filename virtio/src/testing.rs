//! A driver for device tests: what the guest's side of virtio-mmio does, over the real transport and real
//! rings in memory of the test, without a guest. A device test is then: make the device, start the driver,
//! send requests, look at what came back.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_memory::{Bytes, GuestAddress};

use crate::transport::{MmioTransport, WindowState};
use crate::{GuestMem, VirtioDevice};

/// Memory that the driver has for rings and buffers.
pub const MEMORY_BYTES: usize = 16 << 20;

/// Rings of queue n start here plus n times [`RING_BYTES`].
const RINGS: u64 = 0x1_0000;
/// Descriptors, available and used ring of a queue of up to 1024 entries.
const RING_BYTES: u64 = 0x8000;
const AVAILABLE: u64 = 0x4000;
const USED: u64 = 0x5000;
/// Buffers are handed out from here, and never reused.
const BUFFERS: u64 = 0x20_0000;

/// The registers that the driver uses (virtio 1.2, 4.2.2).
mod register {
    pub(super) const DEVICE_FEATURES: u64 = 0x010;
    pub(super) const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub(super) const DRIVER_FEATURES: u64 = 0x020;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub(super) const QUEUE_SEL: u64 = 0x030;
    pub(super) const QUEUE_NUM_MAX: u64 = 0x034;
    pub(super) const QUEUE_NUM: u64 = 0x038;
    pub(super) const QUEUE_READY: u64 = 0x044;
    pub(super) const QUEUE_NOTIFY: u64 = 0x050;
    pub(super) const INTERRUPT_STATUS: u64 = 0x060;
    pub(super) const INTERRUPT_ACK: u64 = 0x064;
    pub(super) const STATUS: u64 = 0x070;
    pub(super) const QUEUE_DESC: u64 = 0x080;
    pub(super) const QUEUE_DRIVER: u64 = 0x090;
    pub(super) const QUEUE_DEVICE: u64 = 0x0a0;
    pub(super) const CONFIG: u64 = 0x100;
}

/// One buffer of a request.
#[derive(Clone, Debug)]
pub enum Buffer {
    /// The device reads these bytes.
    Out(Vec<u8>),
    /// The device writes up to this many bytes.
    In(usize),
}

/// A request in flight.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its first descriptor, which is its name in the used ring.
    pub head: u16,
    writable: Vec<(GuestAddress, usize)>,
}

struct Ring {
    size: u16,
    next_descriptor: u16,
    available: u16,
    used: u16,
}

/// The driver.
pub struct Driver {
    transport: MmioTransport,
    memory: GuestMem,
    rings: Vec<Ring>,
    next_buffer: u64,
}

impl Driver {
    /// A driver that has not touched the device yet.
    ///
    /// # Panics
    /// Without memory or eventfds.
    #[must_use]
    #[allow(clippy::expect_used, reason = "a test without memory cannot go on")]
    pub fn new(device: Box<dyn VirtioDevice>) -> Self {
        let memory = GuestMem::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).expect("16 MiB");
        let transport = MmioTransport::new(device, memory.clone()).expect("a sane device");
        Self { transport, memory, rings: Vec::new(), next_buffer: BUFFERS }
    }

    /// A driver that accepts `features` of those offered, sets every queue up at its largest size (1024 at
    /// most) and has the device running.
    #[must_use]
    pub fn started(device: Box<dyn VirtioDevice>, features: u64) -> Self {
        let mut driver = Self::new(device);
        driver.start(features);
        driver
    }

    /// Initialization as in virtio 1.2, 3.1.1.
    ///
    /// # Panics
    /// When the device does not accept the features or needs a reset.
    pub fn start(&mut self, features: u64) {
        self.write(register::STATUS, 0);
        self.write(register::STATUS, 1);
        self.write(register::STATUS, 3);
        let accepted = self.offered() & (features | 1 << VIRTIO_F_VERSION_1);
        for half in 0..2 {
            self.write(register::DRIVER_FEATURES_SEL, half);
            self.write(register::DRIVER_FEATURES, (accepted >> (32 * half)) as u32);
        }
        self.write(register::STATUS, 11);
        assert_eq!(self.status(), 11, "features were not accepted");
        self.rings.clear();
        for index in 0.. {
            self.write(register::QUEUE_SEL, index);
            let size = self.read(register::QUEUE_NUM_MAX).min(1024) as u16;
            if size == 0 {
                break;
            }
            self.set_up(index, size);
        }
        self.write(register::STATUS, 15);
        assert_eq!(self.status(), 15, "the device did not start");
    }

    fn set_up(&mut self, index: u32, size: u16) {
        let base = ring_base(index as usize);
        self.memory.write_slice(&[0; RING_BYTES as usize], GuestAddress(base)).unwrap_or_default();
        self.write(register::QUEUE_NUM, size.into());
        for (at, address) in [
            (register::QUEUE_DESC, base),
            (register::QUEUE_DRIVER, base + AVAILABLE),
            (register::QUEUE_DEVICE, base + USED),
        ] {
            self.write(at, address as u32);
            self.write(at + 4, (address >> 32) as u32);
        }
        self.write(register::QUEUE_READY, 1);
        self.rings.push(Ring { size, next_descriptor: 0, available: 0, used: 0 });
    }

    /// A register.
    pub fn read(&mut self, offset: u64) -> u32 {
        let mut word = [0; 4];
        self.transport.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    /// A register.
    pub fn write(&mut self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    /// The device's status.
    pub fn status(&mut self) -> u32 {
        self.read(register::STATUS)
    }

    /// All features that the device offers.
    pub fn offered(&mut self) -> u64 {
        (0..2).fold(0, |all, half| {
            self.write(register::DEVICE_FEATURES_SEL, half);
            all | u64::from(self.read(register::DEVICE_FEATURES)) << (32 * half)
        })
    }

    /// Bytes of the configuration space.
    pub fn config(&mut self, offset: u64, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.transport.read(register::CONFIG + offset, &mut data);
        data
    }

    /// Resets the device; its workers are gone afterwards.
    pub fn reset(&mut self) {
        self.write(register::STATUS, 0);
    }

    /// Reads and acknowledges the interrupt status; says whether the line was raised since the last time.
    pub fn take_interrupt(&mut self) -> (u32, bool) {
        let raised = self.transport.line().read().is_ok();
        let status = self.read(register::INTERRUPT_STATUS);
        self.write(register::INTERRUPT_ACK, status);
        (status, raised)
    }

    /// Saves the window as for a snapshot, and goes on with `device` in its place; says how it stood.
    ///
    /// # Panics
    /// When the device cannot be saved, or the other one cannot go on from there.
    #[allow(clippy::expect_used, reason = "a test without its device cannot go on")]
    pub fn move_to(&mut self, device: Box<dyn VirtioDevice>) -> WindowState {
        let state = self.transport.save().expect("a device that works");
        let mut next = MmioTransport::new(device, self.memory.clone()).expect("a sane device");
        next.restore(&state).expect("a device that goes on");
        self.transport = next;
        state
    }

    /// When the driver wants to be interrupted: behind used entry `index` of a queue (virtio 1.2, 2.7.7).
    ///
    /// # Panics
    /// Never: the ring is in the driver's memory.
    #[allow(clippy::expect_used, reason = "the ring is in the driver's memory")]
    pub fn set_used_event(&self, queue: usize, index: u16) {
        let at = ring_base(queue) + AVAILABLE + 4 + 2 * u64::from(self.rings[queue].size);
        self.memory.write_obj(index, GuestAddress(at)).expect("ring");
    }

    /// The guest's memory, for tests that write broken rings.
    #[must_use]
    pub fn memory(&self) -> &GuestMem {
        &self.memory
    }

    /// The registers, for tests that misuse them.
    pub fn transport(&mut self) -> &mut MmioTransport {
        &mut self.transport
    }

    /// Makes a request available and rings the doorbell.
    ///
    /// # Panics
    /// With more buffers than the ring has entries, or out of memory.
    pub fn send(&mut self, queue: usize, buffers: &[Buffer]) -> Request {
        let request = self.add(queue, buffers);
        self.kick(queue);
        request
    }

    /// Makes a request available, without the doorbell.
    ///
    /// # Panics
    /// With more buffers than the ring has entries, or out of memory.
    #[allow(clippy::expect_used, reason = "the memory is the driver's own")]
    pub fn add(&mut self, queue: usize, buffers: &[Buffer]) -> Request {
        let base = ring_base(queue);
        let size = self.rings[queue].size;
        assert!(!buffers.is_empty() && buffers.len() <= size.into());
        let head = self.rings[queue].next_descriptor % size;
        let mut writable = Vec::new();
        for (position, buffer) in buffers.iter().enumerate() {
            let (address, bytes, flags) = match buffer {
                Buffer::Out(data) => {
                    let address = self.place(data.len());
                    self.memory.write_slice(data, address).expect("guest memory");
                    (address, data.len(), 0)
                }
                Buffer::In(bytes) => {
                    let address = self.place(*bytes);
                    writable.push((address, *bytes));
                    (address, *bytes, VRING_DESC_F_WRITE)
                }
            };
            let ring = &mut self.rings[queue];
            let index = ring.next_descriptor % size;
            ring.next_descriptor = ring.next_descriptor.wrapping_add(1);
            let next = if position + 1 < buffers.len() { VRING_DESC_F_NEXT } else { 0 };
            self.descriptor(
                queue,
                index,
                address.0,
                bytes as u32,
                (flags | next) as u16,
                ring_next(index, size),
            );
        }
        let slot = self.rings[queue].available % size;
        let available = base + AVAILABLE;
        self.memory.write_obj(head, GuestAddress(available + 4 + 2 * u64::from(slot))).expect("ring");
        self.rings[queue].available = self.rings[queue].available.wrapping_add(1);
        let index = self.rings[queue].available;
        self.memory.store(index, GuestAddress(available + 2), Ordering::Release).expect("ring");
        Request { head, writable }
    }

    /// Writes one descriptor (virtio 1.2, 2.7.5), also for tests that want a broken one.
    ///
    /// # Panics
    /// Never: the ring is in the driver's memory.
    #[allow(clippy::expect_used, reason = "the ring is in the driver's memory")]
    pub fn descriptor(&self, queue: usize, index: u16, address: u64, bytes: u32, flags: u16, next: u16) {
        let at = GuestAddress(ring_base(queue) + 16 * u64::from(index));
        let mut raw = [0; 16];
        raw[..8].copy_from_slice(&address.to_le_bytes());
        raw[8..12].copy_from_slice(&bytes.to_le_bytes());
        raw[12..14].copy_from_slice(&flags.to_le_bytes());
        raw[14..].copy_from_slice(&next.to_le_bytes());
        self.memory.write_slice(&raw, at).expect("ring");
    }

    /// Rings a queue's doorbell.
    pub fn kick(&mut self, queue: usize) {
        self.write(register::QUEUE_NOTIFY, queue as u32);
    }

    /// Waits for the next used request: its first descriptor and the bytes that the device says it wrote.
    ///
    /// `None` when nothing comes within ten seconds, which no working device needs.
    pub fn wait_used(&mut self, queue: usize) -> Option<(u16, u32)> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(used) = self.poll_used(queue) {
                return Some(used);
            }
            if Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// The next used request if there is one already.
    ///
    /// # Panics
    /// Never: the ring is in the driver's memory.
    #[allow(clippy::expect_used, reason = "the ring is in the driver's memory")]
    pub fn poll_used(&mut self, queue: usize) -> Option<(u16, u32)> {
        let used = ring_base(queue) + USED;
        let index: u16 = self.memory.load(GuestAddress(used + 2), Ordering::Acquire).expect("ring");
        let ring = &mut self.rings[queue];
        if index == ring.used {
            return None;
        }
        let slot = u64::from(ring.used % ring.size);
        ring.used = ring.used.wrapping_add(1);
        let entry: [u32; 2] =
            [0, 4].map(|half| self.memory.read_obj(GuestAddress(used + 4 + 8 * slot + half)).expect("ring"));
        Some((entry[0] as u16, entry[1]))
    }

    /// The first `bytes` bytes that the device wrote for a request.
    ///
    /// # Panics
    /// Never: the buffers are in the driver's memory.
    #[must_use]
    #[allow(clippy::expect_used, reason = "the buffers are in the driver's memory")]
    pub fn answer(&self, request: &Request, bytes: u32) -> Vec<u8> {
        let mut answer = Vec::new();
        for (address, size) in &request.writable {
            let mut part = vec![0; (*size).min(bytes as usize - answer.len())];
            self.memory.read_slice(&mut part, *address).expect("guest memory");
            answer.extend(part);
        }
        answer
    }

    /// Sends a request, waits for it and returns what the device wrote; `None` when it never answers.
    pub fn call(&mut self, queue: usize, buffers: &[Buffer]) -> Option<Vec<u8>> {
        let request = self.send(queue, buffers);
        let (head, bytes) = self.wait_used(queue)?;
        (head == request.head).then(|| self.answer(&request, bytes))
    }

    fn place(&mut self, bytes: usize) -> GuestAddress {
        let address = self.next_buffer;
        self.next_buffer += (bytes as u64).next_multiple_of(16);
        assert!(self.next_buffer <= MEMORY_BYTES as u64, "the test needs more than {MEMORY_BYTES} bytes");
        GuestAddress(address)
    }
}

fn ring_base(queue: usize) -> u64 {
    RINGS + RING_BYTES * queue as u64
}

fn ring_next(index: u16, size: u16) -> u16 {
    (index + 1) % size
}
