//! One virtio-mmio window (virtio 1.2, 4.2): register accesses come in from vCPU threads, negotiation and
//! queue set-up happen here, and DRIVER_OK hands the queues to the device. Modern layout only.
//!
//! A driver that breaks the rules harms only itself: a bad access reads as zero or is ignored, a bad
//! queue sets NEEDS_RESET.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::regs::{self, Access, CONFIG_OFFSET, Register};
use super::state::{RingState, StateError, WindowState};
use crate::device::InterruptStatus;
use crate::{Activation, ActiveQueue, GuestMem, Interrupt, VirtioDevice};

/// A window could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// No more file descriptors, most likely.
    #[error("cannot make an eventfd")]
    EventFd(#[source] io::Error),
    /// The device names a queue size that is no power of two up to 32768 (virtio 1.2, 2.7).
    #[error("queue {0} has an impossible size")]
    QueueSize(usize),
}

/// A queue while the driver sets it up, and its doorbell for the device's life.
struct Setup {
    queue: Queue,
    /// What QueueReady reads: stays true while the device owns the queue.
    ready: bool,
    kick: EventFd,
}

/// A device behind its registers.
pub struct MmioTransport {
    device: Box<dyn VirtioDevice>,
    memory: GuestMem,
    queues: Vec<Setup>,
    queue_sel: usize,
    offered: u64,
    accepted: u64,
    device_features_sel: u32,
    driver_features_sel: u32,
    status: Arc<AtomicU32>,
    interrupt_status: Arc<InterruptStatus>,
    line: Arc<EventFd>,
    active: bool,
}

impl MmioTransport {
    /// Puts a device behind registers, in the state after a reset.
    ///
    /// # Errors
    /// No eventfds, or a queue size that virtio does not know.
    pub fn new(device: Box<dyn VirtioDevice>, memory: GuestMem) -> Result<Self, TransportError> {
        let eventfd = || EventFd::new(EFD_NONBLOCK).map_err(TransportError::EventFd);
        let queues = device
            .queue_sizes()
            .iter()
            .enumerate()
            .map(|(index, size)| {
                let queue = Queue::new(*size).map_err(|_| TransportError::QueueSize(index))?;
                Ok(Setup { queue, ready: false, kick: eventfd()? })
            })
            .collect::<Result<_, _>>()?;
        let offered = device.features() | 1 << VIRTIO_F_VERSION_1;
        Ok(Self {
            device,
            memory,
            queues,
            queue_sel: 0,
            offered,
            accepted: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            status: Arc::new(AtomicU32::new(0)),
            interrupt_status: Arc::default(),
            line: Arc::new(eventfd()?),
            active: false,
        })
    }

    /// The doorbell of each queue, in order, for ioeventfds.
    pub fn kicks(&self) -> impl Iterator<Item = &EventFd> {
        self.queues.iter().map(|setup| &setup.kick)
    }

    /// The device's interrupt line, for an irqfd.
    #[must_use]
    pub fn line(&self) -> &EventFd {
        &self.line
    }

    /// A read of the window. What is no register reads as zero.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(config) = offset.checked_sub(CONFIG_OFFSET) {
            self.device.read_config(config, data);
        } else if let (Ok(word), Some(register)) =
            (<&mut [u8; 4]>::try_from(data), regs::find(offset, Access::Read))
        {
            *word = self.read_register(register).to_le_bytes();
        }
    }

    /// A write to the window. What is no register is ignored, and so is the configuration space: none of
    /// our devices has a writable field.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if let (Ok(word), Some(register)) = (<[u8; 4]>::try_from(data), regs::find(offset, Access::Write)) {
            self.write_register(register, u32::from_le_bytes(word));
        }
    }

    /// Stops the device and forgets the negotiation (virtio 1.2, 2.4).
    pub fn reset(&mut self) {
        if self.active {
            self.device.stop();
            self.active = false;
        }
        self.status.store(0, Ordering::SeqCst);
        self.interrupt_status.set(0);
        self.accepted = 0;
        self.queue_sel = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        for setup in &mut self.queues {
            setup.queue.reset();
            setup.ready = false;
            // A doorbell that was rung for the old ring must not wake the new one; empty is fine too.
            let _ = setup.kick.read();
        }
    }

    /// Stops the device for good and says how it stands, for a snapshot. The vCPUs do not run.
    ///
    /// # Errors
    /// The device does not work.
    pub fn save(&mut self) -> Result<WindowState, StateError> {
        let status = self.status.load(Ordering::SeqCst);
        if status & VIRTIO_CONFIG_S_NEEDS_RESET != 0 {
            return Err(StateError::NeedsReset);
        }
        let queues: Vec<RingState> = if std::mem::take(&mut self.active) {
            self.device.stop().iter().map(RingState::from).collect()
        } else {
            self.queues.iter().map(|setup| RingState::from(&setup.queue)).collect()
        };
        if queues.len() != self.queues.len() {
            return Err(StateError::QueuesLost);
        }
        Ok(WindowState {
            device_id: self.device.device_id(),
            features: self.accepted,
            status,
            // After the workers have stopped: their last interrupts are in it.
            interrupt_status: self.interrupt_status.read(),
            queues,
        })
    }

    /// Goes on from a snapshot: a window that was just made becomes the one that was saved, and its device starts.
    ///
    /// # Errors
    /// The state is another device's, or none.
    pub fn restore(&mut self, state: &WindowState) -> Result<(), StateError> {
        let same = state.device_id == self.device.device_id()
            && state.features & !self.offered == 0
            && state.queues.len() == self.queues.len();
        if !same {
            return Err(StateError::OtherDevice);
        }
        for (index, (setup, ring)) in self.queues.iter_mut().zip(&state.queues).enumerate() {
            let queue = Queue::try_from(ring).map_err(|_| StateError::Queue(index))?;
            if queue.max_size() != setup.queue.max_size() {
                return Err(StateError::OtherDevice);
            }
            setup.ready = ring.ready;
            setup.queue = queue;
        }
        self.accepted = state.features;
        self.status.store(state.status, Ordering::SeqCst);
        self.interrupt_status.set(state.interrupt_status);
        if state.status & VIRTIO_CONFIG_S_DRIVER_OK != 0 {
            self.activate();
        }
        if self.status.load(Ordering::SeqCst) & VIRTIO_CONFIG_S_NEEDS_RESET != 0 {
            return Err(StateError::Activate);
        }
        // An interrupt that was on its way when the snapshot was taken is raised once more: the driver looks and finds
        // what there is, or nothing. The counter is new and cannot be full.
        if state.interrupt_status != 0 {
            let _ = self.line.write(1);
        }
        Ok(())
    }

    fn read_register(&self, register: Register) -> u32 {
        let half = |value: u64, selector: u32| match selector {
            0 => value as u32,
            1 => (value >> 32) as u32,
            _ => 0,
        };
        match register {
            Register::MagicValue => regs::MAGIC,
            Register::Version => regs::VERSION,
            Register::DeviceId => self.device.device_id(),
            Register::VendorId => regs::VENDOR,
            Register::DeviceFeatures => half(self.offered, self.device_features_sel),
            Register::QueueNumMax => {
                self.queues.get(self.queue_sel).map_or(0, |setup| setup.queue.max_size().into())
            }
            Register::QueueReady => self.queues.get(self.queue_sel).map_or(0, |setup| setup.ready.into()),
            Register::InterruptStatus => self.interrupt_status.read(),
            Register::Status => self.status.load(Ordering::SeqCst),
            // No shared memory region: length and base read as all ones (virtio 1.2, 4.2.2).
            Register::ShmLenLow | Register::ShmLenHigh | Register::ShmBaseLow | Register::ShmBaseHigh => {
                u32::MAX
            }
            // ConfigGeneration too: no device changes its configuration while it lives.
            _ => 0,
        }
    }

    fn write_register(&mut self, register: Register, value: u32) {
        match register {
            Register::DeviceFeaturesSel => self.device_features_sel = value,
            Register::DriverFeaturesSel => self.driver_features_sel = value,
            Register::DriverFeatures => self.accept_features(value),
            Register::QueueSel => self.queue_sel = value as usize,
            Register::QueueNotify => {
                // With ioeventfds this never comes here; a full counter already means "look".
                if let Some(setup) = self.queues.get(value as usize) {
                    let _ = setup.kick.write(1);
                }
            }
            Register::InterruptAck => self.interrupt_status.acknowledge(value),
            Register::Status => self.write_status(value),
            _ => self.write_queue(register, value),
        }
    }

    /// Features can be written until FEATURES_OK (virtio 1.2, 3.1.1).
    fn accept_features(&mut self, value: u32) {
        if self.status.load(Ordering::SeqCst) & VIRTIO_CONFIG_S_FEATURES_OK != 0 {
            return;
        }
        match self.driver_features_sel {
            0 => self.accepted = self.accepted & !0xffff_ffff | u64::from(value),
            1 => self.accepted = self.accepted & 0xffff_ffff | u64::from(value) << 32,
            _ => {}
        }
    }

    /// Queues can be set up between FEATURES_OK and DRIVER_OK (virtio 1.2, 3.1.1 and 4.2.3.2).
    fn write_queue(&mut self, register: Register, value: u32) {
        let status = self.status.load(Ordering::SeqCst);
        let open = status & VIRTIO_CONFIG_S_FEATURES_OK != 0 && status & VIRTIO_CONFIG_S_DRIVER_OK == 0;
        let Some(setup) = self.queues.get_mut(self.queue_sel).filter(|_| open) else { return };
        let (low, high) = (Some(value), None);
        let queue = &mut setup.queue;
        match register {
            Register::QueueReady => {
                setup.ready = value == 1;
                queue.set_ready(setup.ready);
            }
            // What this register allows depends on QueueReady being 0 (virtio 1.2, 4.2.2.2).
            _ if setup.ready => {}
            Register::QueueNum => match u16::try_from(value) {
                Ok(size) if size.is_power_of_two() && size <= queue.max_size() => queue.set_size(size),
                _ => {
                    self.status.fetch_or(VIRTIO_CONFIG_S_NEEDS_RESET, Ordering::SeqCst);
                }
            },
            Register::QueueDescLow => queue.set_desc_table_address(low, high),
            Register::QueueDescHigh => queue.set_desc_table_address(high, low),
            Register::QueueDriverLow => queue.set_avail_ring_address(low, high),
            Register::QueueDriverHigh => queue.set_avail_ring_address(high, low),
            Register::QueueDeviceLow => queue.set_used_ring_address(low, high),
            Register::QueueDeviceHigh => queue.set_used_ring_address(high, low),
            _ => {}
        }
    }

    /// The driver walks through its initialization (virtio 1.2, 3.1.1); bits are only ever added.
    fn write_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let old = self.status.load(Ordering::SeqCst);
        let added = value & !old;
        if added & VIRTIO_CONFIG_S_FAILED != 0 {
            self.status.fetch_or(VIRTIO_CONFIG_S_FAILED, Ordering::SeqCst);
            return;
        }
        let steps = [
            VIRTIO_CONFIG_S_ACKNOWLEDGE,
            VIRTIO_CONFIG_S_DRIVER,
            VIRTIO_CONFIG_S_FEATURES_OK,
            VIRTIO_CONFIG_S_DRIVER_OK,
        ];
        // In order, each on top of the one before it; a step that cannot be taken ends the walk.
        for step in steps.into_iter().take_while(|step| value & step != 0) {
            if added & step == 0 {
                continue;
            }
            // Features that were never offered, or a legacy driver: FEATURES_OK does not stick.
            if step == VIRTIO_CONFIG_S_FEATURES_OK && !self.features_are_ok() {
                return;
            }
            self.status.fetch_or(step, Ordering::SeqCst);
            if step == VIRTIO_CONFIG_S_DRIVER_OK {
                self.activate();
            }
        }
    }

    fn features_are_ok(&self) -> bool {
        self.accepted & !self.offered == 0 && self.accepted & 1 << VIRTIO_F_VERSION_1 != 0
    }

    fn activate(&mut self) {
        let interrupt = Interrupt::new(self.interrupt_status.clone(), self.status.clone(), self.line.clone());
        if self.status.load(Ordering::SeqCst) & VIRTIO_CONFIG_S_NEEDS_RESET != 0 {
            return interrupt.needs_reset();
        }
        let event_idx = self.accepted & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let mut queues = Vec::with_capacity(self.queues.len());
        for setup in &mut self.queues {
            let broken = setup.ready && !setup.queue.is_valid(&self.memory);
            let (Ok(kick), false) = (setup.kick.try_clone(), broken) else {
                return interrupt.needs_reset();
            };
            setup.queue.set_event_idx(event_idx);
            let Ok(fresh) = Queue::new(setup.queue.max_size()) else { return interrupt.needs_reset() };
            queues.push(ActiveQueue { queue: std::mem::replace(&mut setup.queue, fresh), kick });
        }
        let activation = Activation {
            memory: self.memory.clone(),
            features: self.accepted,
            queues,
            interrupt: interrupt.clone(),
        };
        // stop() is owed even after a failure: the device may have started half of its workers.
        self.active = true;
        if self.device.activate(activation).is_err() {
            interrupt.needs_reset();
        }
    }
}

impl Drop for MmioTransport {
    fn drop(&mut self) {
        self.reset();
    }
}
