//! A device becomes reachable: a window of registers, a doorbell per queue (ioeventfd: the guest's write
//! wakes the worker without leaving the kernel), and an interrupt line (irqfd).

use crx_virtio::transport::{MmioTransport, QUEUE_NOTIFY_OFFSET, WINDOW_BYTES};
use crx_virtio::{GuestMem, VirtioDevice};
use kvm_ioctls::{IoEventAddress, VmFd};

use crate::error::{KvmContext, VmError};
use crate::layout::{FIRST_DEVICE_GSI, MMIO_WINDOWS};

/// Puts a device behind window and line number `index`.
pub(crate) fn attach(
    vm: &VmFd,
    memory: &GuestMem,
    index: usize,
    device: Box<dyn VirtioDevice>,
) -> Result<MmioTransport, VmError> {
    let transport =
        MmioTransport::new(device, memory.clone()).map_err(|source| VmError::Transport(index, source))?;
    let doorbell = MMIO_WINDOWS + index as u64 * WINDOW_BYTES + QUEUE_NOTIFY_OFFSET;
    for (queue, kick) in transport.kicks().enumerate() {
        vm.register_ioevent(kick, &IoEventAddress::Mmio(doorbell), queue as u32)
            .kvm("cannot register an ioeventfd")?;
    }
    vm.register_irqfd(transport.line(), gsi(index)).kvm("cannot register an irqfd")?;
    Ok(transport)
}

/// Interrupt line of a device.
pub(crate) fn gsi(index: usize) -> u32 {
    FIRST_DEVICE_GSI + index as u32
}
