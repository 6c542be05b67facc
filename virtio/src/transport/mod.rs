//! How a driver reaches a device: before this, the VMM found the window that a vCPU touched; here the
//! access becomes a register, feature negotiation and queue set-up; after it, the device's own folder.

mod mmio;
mod regs;
mod state;

pub use mmio::{MmioTransport, TransportError};
pub use regs::{QUEUE_NOTIFY_OFFSET, WINDOW_BYTES};
pub use state::{RingState, StateError, WindowState};
