//! What the vCPUs share: the interrupt controllers and the clock.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data, kvm_irqchip,
};
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};

use crate::error::{KvmContext, VmError};

/// The chips of `create_irq_chip`, without the local APICs, which are the vCPUs'.
const CHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];

/// Interrupt controllers and clock.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedChips {
    chips: Vec<kvm_irqchip>,
    /// What kvm-clock shows, in nanoseconds: it goes on from here, however long the snapshot has lain.
    clock_ns: u64,
}

impl SavedChips {
    /// Reads the state.
    pub(crate) fn save(vm: &VmFd) -> Result<Self, VmError> {
        let chips = CHIPS
            .iter()
            .map(|chip_id| {
                let mut chip = kvm_irqchip { chip_id: *chip_id, ..Default::default() };
                vm.get_irqchip(&mut chip).kvm("cannot read an interrupt controller").map(|()| chip)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { chips, clock_ns: vm.get_clock().kvm("cannot read the clock")?.clock })
    }

    /// Sets the interrupt controllers of a new VM.
    pub(crate) fn restore_chips(&self, vm: &VmFd) -> Result<(), VmError> {
        self.chips.iter().try_for_each(|chip| vm.set_irqchip(chip).kvm("cannot set an interrupt controller"))
    }

    /// Sets its clock, which runs from now on.
    pub(crate) fn restore_clock(&self, vm: &VmFd) -> Result<(), VmError> {
        let clock = kvm_clock_data { clock: self.clock_ns, ..Default::default() };
        vm.set_clock(&clock).kvm("cannot set the clock")
    }

    /// One for tests of the format.
    #[cfg(test)]
    pub(super) fn sample() -> Self {
        let chip = |chip_id: &u32| kvm_irqchip { chip_id: *chip_id, ..Default::default() };
        Self { chips: CHIPS.iter().map(chip).collect(), clock_ns: 0x1122_3344 }
    }
}
