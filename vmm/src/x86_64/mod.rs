//! What a vCPU is at its first instruction, one register family a file.

pub(crate) mod cpuid;
pub(crate) mod gdt;
pub(crate) mod irqchip;
pub(crate) mod msrs;
pub(crate) mod regs;
pub(crate) mod tsc;
