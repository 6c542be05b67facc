//! The state of a vCPU that stands between two instructions.
//!
//! Order when it is set (Documentation/virt/kvm/api.rst says what depends on what): CPUID decides which registers and
//! MSRs there are; the system registers hold the APIC base, which the local APIC's state needs; its timer needs the TSC,
//! so the deadline comes after both; pending events are the last, because setting registers clears some.

use kvm_bindings::{
    Msrs, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuFd};
use serde::{Deserialize, Serialize};

use crate::error::{KvmContext, VmError};
use crate::sys;
use crate::x86_64::{cpuid, tsc};

/// MSRs that are set in an order of their own: IA32_TSC and IA32_TSC_DEADLINE (Intel SDM 4, table 2-2).
const MSR_IA32_TSC: u32 = 0x10;
const MSR_IA32_TSC_DEADLINE: u32 = 0x6e0;

/// More CPUID entries than any KVM gives (KVM_MAX_CPUID_ENTRIES).
const MAX_CPUID_ENTRIES: usize = kvm_bindings::KVM_MAX_CPUID_ENTRIES;

/// A vCPU.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedVcpu {
    pub(crate) cpuid: Vec<kvm_cpuid_entry2>,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: kvm_xsave,
    xcrs: kvm_xcrs,
    debug: kvm_debugregs,
    lapic: kvm_lapic_state,
    mp_state: kvm_mp_state,
    events: kvm_vcpu_events,
    /// All that KVM can tell, without the two above.
    msrs: Vec<kvm_msr_entry>,
    tsc: u64,
    tsc_deadline: u64,
}

impl SavedVcpu {
    /// Reads the state. The vCPU's last exit was an access that has been answered.
    pub(crate) fn save(kvm: &Kvm, vcpu: &mut VcpuFd) -> Result<Self, VmError> {
        finish_exit(vcpu)?;
        let what = "cannot read a vCPU's state";
        let mut msrs = read_msrs(kvm, vcpu)?;
        let mut take = |index| {
            let at = msrs.iter().position(|msr| msr.index == index);
            at.map_or(0, |at| msrs.swap_remove(at).data)
        };
        let (tsc, tsc_deadline) = (take(MSR_IA32_TSC), take(MSR_IA32_TSC_DEADLINE));
        Ok(Self {
            cpuid: vcpu.get_cpuid2(MAX_CPUID_ENTRIES).kvm(what)?.as_slice().to_vec(),
            regs: vcpu.get_regs().kvm(what)?,
            sregs: vcpu.get_sregs().kvm(what)?,
            xsave: vcpu.get_xsave().kvm(what)?,
            xcrs: vcpu.get_xcrs().kvm(what)?,
            debug: vcpu.get_debug_regs().kvm(what)?,
            lapic: vcpu.get_lapic().kvm(what)?,
            mp_state: vcpu.get_mp_state().kvm(what)?,
            events: vcpu.get_vcpu_events().kvm(what)?,
            msrs,
            tsc,
            tsc_deadline,
        })
    }

    /// Sets a new vCPU to the state.
    pub(crate) fn restore(&self, vcpu: &VcpuFd) -> Result<(), VmError> {
        let what = "cannot set a vCPU's state";
        cpuid::set(vcpu, &self.cpuid)?;
        vcpu.set_mp_state(self.mp_state).kvm(what)?;
        vcpu.set_sregs(&self.sregs).kvm(what)?;
        vcpu.set_regs(&self.regs).kvm(what)?;
        sys::set_xsave(vcpu, &self.xsave).kvm(what)?;
        vcpu.set_xcrs(&self.xcrs).kvm(what)?;
        vcpu.set_debug_regs(&self.debug).kvm(what)?;
        vcpu.set_lapic(&self.lapic).kvm(what)?;
        let now = tsc::set(vcpu, self.tsc)?;
        write_msrs(vcpu, &self.msrs)?;
        let deadline = deadline(self.tsc_deadline, self.tsc, now);
        write_msrs(vcpu, &[msr(MSR_IA32_TSC_DEADLINE, deadline)])?;
        vcpu.set_vcpu_events(&self.events).kvm(what)
    }

    /// One for tests of the format.
    #[cfg(test)]
    pub(super) fn sample() -> Self {
        Self {
            cpuid: vec![kvm_cpuid_entry2 { function: 1, eax: 2, ..Default::default() }],
            regs: kvm_regs { rip: 0x1234, ..Default::default() },
            sregs: kvm_sregs::default(),
            xsave: kvm_xsave::default(),
            xcrs: kvm_xcrs::default(),
            debug: kvm_debugregs::default(),
            lapic: kvm_lapic_state::default(),
            mp_state: kvm_mp_state::default(),
            events: kvm_vcpu_events::default(),
            msrs: vec![msr(0xc000_0080, 0xd01)],
            tsc: 77,
            tsc_deadline: 88,
        }
    }

    /// The time stamp counter.
    pub(crate) fn tsc(&self) -> u64 {
        self.tsc
    }
}

/// A timer's deadline where the counter was `then` and is `now`; a timer that is off stays off.
fn deadline(deadline: u64, then: u64, now: u64) -> u64 {
    if deadline == 0 { 0 } else { now.saturating_add(deadline.saturating_sub(then)).max(1) }
}

/// Has KVM finish the instruction of the last exit: it does so when the vCPU is entered again, which it leaves at once.
fn finish_exit(vcpu: &mut VcpuFd) -> Result<(), VmError> {
    vcpu.set_kvm_immediate_exit(1);
    let run = vcpu.run().map(|exit| format!("{exit:?}"));
    vcpu.set_kvm_immediate_exit(0);
    match run {
        Err(error) if error.errno() == libc::EINTR => Ok(()),
        Err(error) => Err(error).kvm("cannot finish a vCPU's last instruction"),
        Ok(_) => Err(kvm_ioctls::Error::new(libc::EBUSY)).kvm("a vCPU did not stand still"),
    }
}

fn msr(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry { index, data, ..Default::default() }
}

/// Reads every MSR that KVM lists and this vCPU has. KVM stops at the first that it has not.
fn read_msrs(kvm: &Kvm, vcpu: &VcpuFd) -> Result<Vec<kvm_msr_entry>, VmError> {
    let what = "cannot read a vCPU's MSRs";
    let list = kvm.get_msr_index_list().kvm(what)?;
    let wanted: Vec<_> = list.as_slice().iter().map(|index| msr(*index, 0)).collect();
    let mut rest = &wanted[..];
    let mut read = Vec::with_capacity(wanted.len());
    while !rest.is_empty() {
        let mut batch =
            Msrs::from_entries(rest).map_err(|_| kvm_ioctls::Error::new(libc::ENOMEM)).kvm(what)?;
        let done = vcpu.get_msrs(&mut batch).kvm(what)?;
        read.extend_from_slice(&batch.as_slice()[..done]);
        rest = rest.get(done + 1..).unwrap_or(&[]);
    }
    Ok(read)
}

/// Writes MSRs. One that KVM does not let be written has to have its value already.
fn write_msrs(vcpu: &VcpuFd, msrs: &[kvm_msr_entry]) -> Result<(), VmError> {
    let what = "cannot set a vCPU's MSRs";
    let mut rest = msrs;
    while !rest.is_empty() {
        let batch = Msrs::from_entries(rest).map_err(|_| kvm_ioctls::Error::new(libc::ENOMEM)).kvm(what)?;
        let done = vcpu.set_msrs(&batch).kvm(what)?;
        let Some(refused) = rest.get(done) else { return Ok(()) };
        let mut there = Msrs::from_entries(&[msr(refused.index, 0)])
            .map_err(|_| kvm_ioctls::Error::new(libc::ENOMEM))
            .kvm(what)?;
        let read = vcpu.get_msrs(&mut there).kvm(what)?;
        if read != 1 || there.as_slice()[0].data != refused.data {
            return Err(VmError::Msr(refused.index));
        }
        rest = &rest[done + 1..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::deadline;

    #[test]
    fn a_timer_goes_off_as_much_later_as_it_would_have() {
        assert_eq!(deadline(1500, 1000, 1000), 1500);
        assert_eq!(deadline(1500, 1000, 70), 570, "a host that has booted again");
        assert_eq!(deadline(900, 1000, 5000), 5000, "at once");
        assert_eq!(deadline(0, 1000, 5000), 0);
    }
}
