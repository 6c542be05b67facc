//! Registers of the boot vCPU: long mode, paging on, at the kernel's entry point with `boot_params` in RSI
//! (Documentation/arch/x86/boot.rst, 64-bit boot protocol). The others wait for their start-up IPI.

use kvm_bindings::kvm_regs;
use kvm_ioctls::VcpuFd;

use super::gdt;
use crate::error::{KvmContext, VmError};
use crate::layout;

/// CR0: protection, extension type, paging. CR4: physical address extension (Intel SDM 3, 2.5).
const CR0: u64 = 1 | 1 << 4 | 1 << 31;
const CR4: u64 = 1 << 5;
/// EFER: long mode enabled and active (Intel SDM 3, 2.2.1).
const EFER: u64 = 1 << 8 | 1 << 10;
/// RFLAGS: the bit that is always set; interrupts off.
const RFLAGS: u64 = 2;

/// Sets the vCPU to enter the kernel.
pub(crate) fn set_boot(vcpu: &VcpuFd, entry: u64) -> Result<(), VmError> {
    let mut sregs = vcpu.get_sregs().kvm("cannot read a vCPU's registers")?;
    sregs.cs = gdt::code();
    for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *segment = gdt::data();
    }
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = gdt::LIMIT;
    sregs.cr0 = CR0;
    sregs.cr3 = layout::PAGE_TABLES[0];
    sregs.cr4 = CR4;
    sregs.efer = EFER;
    vcpu.set_sregs(&sregs).kvm("cannot set a vCPU's registers")?;
    let regs = kvm_regs {
        rip: entry,
        rsp: layout::BOOT_STACK,
        rsi: layout::BOOT_PARAMS,
        rflags: RFLAGS,
        ..Default::default()
    };
    vcpu.set_regs(&regs).kvm("cannot set a vCPU's registers")
}
