//! A failing KVM_RUN in one line that a report can be made from: why, where, which instruction, and the state
//! that decides how the instruction is understood.

use std::{fmt, io};

use crx_virtio::GuestMem;
use kvm_bindings::{KVM_INTERNAL_ERROR_EMULATION, kvm_regs, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

/// The longest x86 instruction (Intel SDM 2, 2.3.11).
const MAX_INSTRUCTION_BYTES: usize = 15;

/// Why KVM_RUN did not go on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FailedRun {
    /// The call itself failed.
    #[error("KVM_RUN failed ({0})")]
    Call(kvm_ioctls::Error),
    /// KVM's emulator does not know the instruction.
    #[error("KVM_EXIT_INTERNAL_ERROR, an instruction could not be emulated")]
    Emulation,
    /// KVM gave up for another reason.
    #[error("KVM_EXIT_INTERNAL_ERROR, suberror {0} {1:x?}")]
    Internal(u32, Vec<u64>),
    /// The processor refused the guest's state.
    #[error("KVM_EXIT_FAIL_ENTRY, hardware reason {0:#x}")]
    Entry(u64),
    /// The host could not give the guest its memory.
    #[error("KVM_EXIT_MEMORY_FAULT at guest address {0:#x}")]
    MemoryFault(u64),
    /// The guest could not be told what is its own.
    #[error("the guest's moment cannot be answered: {0}")]
    Moment(io::ErrorKind),
    /// An exit that nothing in the guest's configuration can cause.
    #[error("unexpected exit {0}")]
    Exit(String),
}

impl FailedRun {
    pub(super) fn internal(suberror: u32, data: Vec<u64>) -> Self {
        if suberror == KVM_INTERNAL_ERROR_EMULATION {
            Self::Emulation
        } else {
            Self::Internal(suberror, data)
        }
    }
}

/// A vCPU that cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("vCPU {vcpu}: {run}; {state}")]
pub struct VcpuError {
    /// Which one.
    pub vcpu: u8,
    /// Why.
    pub run: FailedRun,
    /// Where.
    pub state: VcpuState,
}

/// Where a vCPU was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VcpuState {
    /// Address of the instruction.
    pub rip: u64,
    /// Its bytes and those that follow, as far as they could be read.
    pub instruction: Vec<u8>,
    /// Privilege level.
    pub cpl: u8,
    /// Other registers, by name.
    pub registers: Vec<(&'static str, u64)>,
}

impl VcpuState {
    /// Reads the state; what cannot be read is left out. `instruction` is what KVM already told.
    pub(super) fn read(vcpu: &VcpuFd, memory: &GuestMem, instruction: Vec<u8>) -> Self {
        let (Ok(regs), Ok(sregs)) = (vcpu.get_regs(), vcpu.get_sregs()) else { return Self::default() };
        let instruction =
            if instruction.is_empty() { fetch(vcpu, memory, regs.rip, &sregs) } else { instruction };
        Self::from_registers(&regs, &sregs, instruction)
    }

    fn from_registers(regs: &kvm_regs, sregs: &kvm_sregs, instruction: Vec<u8>) -> Self {
        let registers = vec![
            ("rsp", regs.rsp),
            ("rflags", regs.rflags),
            ("rax", regs.rax),
            ("rcx", regs.rcx),
            ("rdx", regs.rdx),
            ("cs", sregs.cs.selector.into()),
            ("cr0", sregs.cr0),
            ("cr2", sregs.cr2),
            ("cr3", sregs.cr3),
            ("cr4", sregs.cr4),
            ("efer", sregs.efer),
        ];
        Self { rip: regs.rip, instruction, cpl: sregs.ss.dpl, registers }
    }
}

/// Reads the bytes at RIP through the guest's page tables.
fn fetch(vcpu: &VcpuFd, memory: &GuestMem, rip: u64, sregs: &kvm_sregs) -> Vec<u8> {
    let linear = if sregs.cs.l == 1 { rip } else { sregs.cs.base.wrapping_add(rip) };
    let mut bytes = vec![0; MAX_INSTRUCTION_BYTES];
    let read = vcpu
        .translate_gva(linear)
        .ok()
        .filter(|translation| translation.valid != 0)
        .and_then(|translation| memory.read(&mut bytes, GuestAddress(translation.physical_address)).ok())
        .unwrap_or(0);
    bytes.truncate(read);
    bytes
}

impl fmt::Display for VcpuState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rip {:#x}, bytes", self.rip)?;
        if self.instruction.is_empty() {
            f.write_str(" unknown")?;
        }
        for byte in &self.instruction {
            write!(f, " {byte:02x}")?;
        }
        write!(f, ", cpl {}", self.cpl)?;
        self.registers.iter().try_for_each(|(name, value)| write!(f, ", {name} {value:#x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_with_everything() {
        let mut sregs = kvm_sregs { cr0: 0x8000_0011, ..Default::default() };
        sregs.cs.selector = 0x10;
        let regs = kvm_regs { rip: 0xffff_ffff_8100_0000, rsp: 8, ..Default::default() };
        let state = VcpuState::from_registers(&regs, &sregs, vec![0x0f, 0xae]);
        let run = FailedRun::internal(KVM_INTERNAL_ERROR_EMULATION, vec![]);
        let text = VcpuError { vcpu: 3, run, state }.to_string();
        for part in ["vCPU 3", "INTERNAL_ERROR", "rip 0xffffffff81000000", "bytes 0f ae", "cr0 0x80000011"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains('\n'));
    }

    #[test]
    fn other_suberrors_keep_their_data() {
        assert_eq!(
            FailedRun::internal(3, vec![0x10]).to_string(),
            "KVM_EXIT_INTERNAL_ERROR, suberror 3 [10]"
        );
    }
}
