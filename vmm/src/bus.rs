//! From the address of an access to the device behind it. Before: `vcpu/exit.rs` took an exit apart. Next:
//! a window's registers in crx-virtio, or one of the two legacy devices.

use std::sync::{Mutex, PoisonError};

use crx_virtio::transport::{MmioTransport, StateError, WINDOW_BYTES, WindowState};

use crate::End;
use crate::devices::platform::Platform;
use crate::devices::serial::Serial;
use crate::layout::{MMIO_WINDOWS, SERIAL_PORT};

/// What a read of nothing gives, as on a real bus.
const OPEN_BUS: u8 = 0xff;

/// Ports of a serial port.
const SERIAL_PORTS: u16 = 8;

/// Every device; shared by the vCPU threads.
pub(crate) struct Bus {
    windows: Vec<Mutex<MmioTransport>>,
    serial: Option<Mutex<Serial>>,
    platform: Mutex<Platform>,
}

impl Bus {
    /// A bus with these devices, in the order of their windows.
    pub(crate) fn new(windows: Vec<MmioTransport>, serial: Option<Serial>) -> Self {
        Self {
            windows: windows.into_iter().map(Mutex::new).collect(),
            serial: serial.map(Mutex::new),
            platform: Mutex::default(),
        }
    }

    /// A read of memory that is none.
    pub(crate) fn read_memory(&self, address: u64, data: &mut [u8]) {
        match self.window(address) {
            Some((window, offset)) => with(window, |window| window.read(offset, data)),
            None => data.fill(OPEN_BUS),
        }
    }

    /// A write to memory that is none.
    pub(crate) fn write_memory(&self, address: u64, data: &[u8]) {
        if let Some((window, offset)) = self.window(address) {
            with(window, |window| window.write(offset, data));
        }
    }

    /// A read of a port, `data.len()` bytes at once or one after the other.
    pub(crate) fn read_port(&self, port: u16, data: &mut [u8]) {
        match (&self.serial, serial_register(port)) {
            (Some(serial), Some(register)) => {
                with(serial, |serial| data.iter_mut().for_each(|byte| *byte = serial.read(register)));
            }
            _ => data.fill(Platform::read(port).unwrap_or(OPEN_BUS)),
        }
    }

    /// A write to a port; some end the guest.
    pub(crate) fn write_port(&self, port: u16, data: &[u8]) -> Option<End> {
        match (&self.serial, serial_register(port)) {
            (Some(serial), Some(register)) => {
                with(serial, |serial| data.iter().for_each(|byte| serial.write(register, *byte)));
                None
            }
            _ => with(&self.platform, |platform| platform.write(port, data)),
        }
    }

    /// Stops every device and says how it stands; the number of the first that does not work.
    pub(crate) fn save(&self) -> Result<Vec<WindowState>, (usize, StateError)> {
        self.windows
            .iter()
            .enumerate()
            .map(|(index, window)| with(window, MmioTransport::save).map_err(|error| (index, error)))
            .collect()
    }

    /// Resets every device: no worker is left.
    pub(crate) fn reset(&self) {
        for window in &self.windows {
            with(window, MmioTransport::reset);
        }
    }

    fn window(&self, address: u64) -> Option<(&Mutex<MmioTransport>, u64)> {
        let offset = address.checked_sub(MMIO_WINDOWS)?;
        let index = usize::try_from(offset / WINDOW_BYTES).ok()?;
        Some((self.windows.get(index)?, offset % WINDOW_BYTES))
    }
}

fn serial_register(port: u16) -> Option<u16> {
    port.checked_sub(SERIAL_PORT).filter(|register| *register < SERIAL_PORTS)
}

/// A vCPU thread that panicked in a device takes nobody else with it.
fn with<T, R>(device: &Mutex<T>, access: impl FnOnce(&mut T) -> R) -> R {
    access(&mut device.lock().unwrap_or_else(PoisonError::into_inner))
}
