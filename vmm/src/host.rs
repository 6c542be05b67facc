//! What kind of KVM this host has, found out once. Nothing else asks what host it is on: a value of
//! [`HostProfile`] is passed to the few places that differ.

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
