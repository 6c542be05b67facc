//! What kind of KVM this host has, found out once. Nothing else asks what host it is on: a value of
//! [`HostProfile`] is passed to the few places that differ.

use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::fmt;
use std::path::Path;

/// The module of KVM's PVM backend; a built-in one shows up at the same place.
const PVM_MODULE: &str = "/sys/module/kvm_pvm";

/// The kind of KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostProfile {
    /// Hardware virtualization: an ordinary guest, nothing added.
    Hardware,
    /// The PVM backend: guest user mode is native, guest kernel mode is emulated, and some instructions
    /// are refused.
    Pvm,
}

impl HostProfile {
    /// Looks at the host.
    #[must_use]
    pub fn detect() -> Self {
        if Path::new(PVM_MODULE).exists() { Self::Pvm } else { Self::Hardware }
    }
}

impl fmt::Display for HostProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hardware => "hardware",
            Self::Pvm => "pvm",
        })
    }
}

/// What of the processor decides which code a guest's kernel chooses for itself when it boots: vendor, model and features, in
/// hexadecimal (Intel SDM 2A, CPUID). Without what differs between the processors of one host (initial APIC IDs).
#[must_use]
pub fn processor() -> String {
    let vendor = __cpuid(0);
    let model = __cpuid(1);
    let features = __cpuid_count(7, 0);
    let states = __cpuid_count(0xd, 0);
    let extended = __cpuid(0x8000_0001);
    [
        vendor.ebx,
        vendor.edx,
        vendor.ecx,
        model.eax,
        model.ecx,
        model.edx,
        features.ebx,
        features.ecx,
        features.edx,
        states.eax,
        extended.ecx,
        extended.edx,
    ]
    .iter()
    .fold(String::new(), |text, word| text + &format!("{word:08x}"))
}
