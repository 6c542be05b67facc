//! Interrupt controllers: all of them in KVM, so that interrupts and timers never leave the kernel. There is
//! no PIT: the guest has kvm-clock and the local APIC's TSC-deadline timer.

use kvm_ioctls::VmFd;

use crate::error::{KvmContext, VmError};
use crate::layout;

/// Makes them; before the first vCPU.
pub(crate) fn create(vm: &VmFd) -> Result<(), VmError> {
    vm.set_tss_address(layout::TSS).kvm("cannot set the TSS address")?;
    vm.create_irq_chip().kvm("cannot create the interrupt controllers")
}
