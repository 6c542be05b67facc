//! What the guest finds in its memory at the first instruction, in order: kernel, initramfs, command line,
//! MP table, `boot_params`, page tables and descriptors. Before: `memory`. Next: the boot vCPU's registers.

mod cmdline;
mod file;
mod initramfs;
mod kernel;
mod params;
mod tables;

use crx_virtio::GuestMem;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

pub(crate) use cmdline::CommandLine;
pub use cmdline::CommandLineError;
pub use initramfs::InitramfsError;
pub(crate) use initramfs::load as load_initramfs;
pub(crate) use kernel::load as load_kernel;
pub use kernel::{ElfFault, KernelError};

use crate::layout;

/// What the boot structures say.
pub(crate) struct BootInfo<'a> {
    pub(crate) memory_bytes: u64,
    pub(crate) vcpus: u8,
    /// Inputs of the IOAPIC that something is connected to.
    pub(crate) gsis: &'a [u32],
    pub(crate) command_line: &'a CommandLine,
    /// Address and size of the initramfs.
    pub(crate) initramfs: (u64, u64),
}

/// Writes everything but kernel and initramfs.
pub(crate) fn write_structures(memory: &GuestMem, info: &BootInfo<'_>) -> Result<(), GuestMemoryError> {
    let command_line = info.command_line.with_nul();
    memory.write_slice(command_line, GuestAddress(layout::COMMAND_LINE))?;
    memory.write_slice(&tables::mp_table(info.vcpus, info.gsis), GuestAddress(layout::MP_TABLE))?;
    let params = params::boot_params(info.memory_bytes, command_line.len() as u32, info.initramfs);
    memory.write_obj(params, GuestAddress(layout::BOOT_PARAMS))?;
    for (table, at) in params::page_tables().iter().zip(layout::PAGE_TABLES) {
        memory.write_slice(table, GuestAddress(at))?;
    }
    memory.write_slice(&crate::x86_64::gdt::bytes(), GuestAddress(layout::GDT))
}
