//! The time stamp counter of a restored vCPU.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use crate::error::{KvmContext, VmError};

/// IA32_TIME_STAMP_COUNTER (Intel SDM 4, table 2-2).
const MSR_IA32_TSC: u32 = 0x10;

/// Farther from every counter than KVM's notion of the same time: a second of cycles.
const FAR: u64 = 1 << 50;

/// Sets the counter; what it is then, as not every KVM can give a guest another one than the host's. KVM takes a value that is less than a second from what the counter would be for an attempt to
/// synchronize vCPUs, and keeps the old one (kvm_synchronize_tsc() of arch/x86/kvm/x86.c), so one that is far comes first.
pub(crate) fn set(vcpu: &VcpuFd, value: u64) -> Result<u64, VmError> {
    let what = "cannot set a vCPU's time stamp counter";
    let counter = |data| {
        let entry = kvm_msr_entry { index: MSR_IA32_TSC, data, ..Default::default() };
        Msrs::from_entries(&[entry]).map_err(|_| kvm_ioctls::Error::new(libc::ENOMEM)).kvm(what)
    };
    for data in [value.wrapping_add(FAR), value] {
        if vcpu.set_msrs(&counter(data)?).kvm(what)? != 1 {
            return Err(kvm_ioctls::Error::new(libc::EINVAL)).kvm(what);
        }
    }
    let mut read = counter(0)?;
    match vcpu.get_msrs(&mut read).kvm(what)? {
        1 => Ok(read.as_slice()[0].data),
        _ => Err(kvm_ioctls::Error::new(libc::EINVAL)).kvm(what),
    }
}
