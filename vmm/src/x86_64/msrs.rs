//! Model-specific registers that firmware would have set and Linux does not.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use crate::error::{KvmContext, VmError};

/// IA32_MISC_ENABLE, bit 0: fast string operations (Intel SDM 4, table 2-2).
const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
const FAST_STRING: u64 = 1;

/// Sets them.
pub(crate) fn set_boot(vcpu: &VcpuFd) -> Result<(), VmError> {
    let entry = kvm_msr_entry { index: MSR_IA32_MISC_ENABLE, data: FAST_STRING, ..Default::default() };
    let cannot = "cannot set a vCPU's MSRs";
    let msrs = Msrs::from_entries(&[entry]).map_err(|_| kvm_ioctls::Error::new(libc::ENOMEM)).kvm(cannot)?;
    match vcpu.set_msrs(&msrs).kvm(cannot)? {
        1 => Ok(()),
        _ => Err(kvm_ioctls::Error::new(libc::EINVAL)).kvm(cannot),
    }
}
