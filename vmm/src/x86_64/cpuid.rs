//! CPUID: what the host's KVM supports, with each vCPU's place in the topology. All vCPUs are cores of one
//! package, without SMT.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Kvm, VcpuFd};

use crate::HostProfile;
use crate::error::{KvmContext, VmError};

/// Leaf 1, EDX: the package has more than one APIC ID (HTT).
const LEAF1_EDX_HTT: u32 = 1 << 28;
/// Leaf 1, ECX: the local APIC timer has TSC-deadline mode. KVM emulates it but does not report it.
const LEAF1_ECX_TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1, ECX: there is a hypervisor.
const LEAF1_ECX_HYPERVISOR: u32 = 1 << 31;
/// Leaves 0xb and 0x1f, ECX bits 15:8: kind of the level (Intel SDM 2A, CPUID).
const LEVEL_SMT: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;
/// KVM's own leaf of features, and those of EAX for which a guest calls the hypervisor: PV_UNHALT, PV_SEND_IPI,
/// PV_SCHED_YIELD and HC_MAP_GPA_RANGE (Documentation/virt/kvm/x86/cpuid.rst).
const LEAF_KVM_FEATURES: u32 = 0x4000_0001;
const KVM_EAX_HYPERCALLS: u32 = 1 << 7 | 1 << 11 | 1 << 13 | 1 << 16;
/// Subleaf index is significant (Documentation/virt/kvm/api.rst, KVM_SET_CPUID2).
const SIGNIFICANT_INDEX: u32 = 1;

/// Gives a vCPU its CPUID.
pub(crate) fn set(vcpu: &VcpuFd, entries: &[kvm_cpuid_entry2]) -> Result<(), VmError> {
    let what = "cannot set a vCPU's CPUID";
    let cpuid = CpuId::from_entries(entries).map_err(|_| kvm_ioctls::Error::new(libc::E2BIG)).kvm(what)?;
    vcpu.set_cpuid2(&cpuid).kvm(what)
}

/// The CPUID of one vCPU after the other.
pub(crate) struct Template {
    entries: Vec<kvm_cpuid_entry2>,
    vcpus: u32,
}

impl Template {
    /// Asks the host.
    pub(crate) fn new(kvm: &Kvm, profile: HostProfile, vcpus: u8) -> Result<Self, VmError> {
        let supported =
            kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).kvm("cannot ask for the supported CPUID")?;
        Ok(Self::from_entries(supported.as_slice(), profile, vcpus))
    }

    fn from_entries(supported: &[kvm_cpuid_entry2], profile: HostProfile, vcpus: u8) -> Self {
        // The extended topology leaves are the host's or empty; ours are made below.
        let mut entries: Vec<_> =
            supported.iter().filter(|entry| !matches!(entry.function, 0xb | 0x1f)).copied().collect();
        let has_topology_leaf = entries.iter().any(|entry| entry.function == 0 && entry.eax >= 0xb);
        if has_topology_leaf {
            entries.extend((0..3).map(|index| kvm_cpuid_entry2 {
                function: 0xb,
                index,
                flags: SIGNIFICANT_INDEX,
                ..Default::default()
            }));
        }
        // A hypercall never returns on a PVM host: the instruction is patched, and executed again, for ever.
        if profile == HostProfile::Pvm {
            let features = entries.iter_mut().filter(|entry| entry.function == LEAF_KVM_FEATURES);
            features.for_each(|entry| entry.eax &= !KVM_EAX_HYPERCALLS);
        }
        Self { entries, vcpus: vcpus.into() }
    }

    /// As a vCPU of a snapshot had it.
    pub(crate) fn from_saved(saved: &[kvm_cpuid_entry2], vcpus: u8) -> Self {
        Self { entries: saved.to_vec(), vcpus: vcpus.into() }
    }

    /// A vCPU's CPUID.
    pub(crate) fn of(&mut self, id: u8) -> &[kvm_cpuid_entry2] {
        self.patch(id.into());
        &self.entries
    }

    /// Every leaf that says who the vCPU is.
    fn patch(&mut self, id: u32) {
        let vcpus = self.vcpus;
        let id_bits = u32::BITS - (vcpus - 1).leading_zeros();
        for entry in &mut self.entries {
            match (entry.function, entry.index) {
                (1, _) => {
                    entry.ecx |= LEAF1_ECX_TSC_DEADLINE | LEAF1_ECX_HYPERVISOR;
                    entry.ebx = entry.ebx & 0xffff | vcpus << 16 | id << 24;
                    entry.edx &= !LEAF1_EDX_HTT;
                    if vcpus > 1 {
                        entry.edx |= LEAF1_EDX_HTT;
                    }
                }
                // Cache parameters, Intel and AMD: levels 1 and 2 are a core's own, level 3 is everybody's.
                (4 | 0x8000_001d, _) if entry.eax & 0x1f != 0 => {
                    let sharing = if entry.eax >> 5 & 7 >= 3 { vcpus - 1 } else { 0 };
                    entry.eax = entry.eax & !(0xfff << 14) | sharing << 14;
                    if entry.function == 4 {
                        entry.eax = entry.eax & !(0x3f << 26) | ((1 << id_bits) - 1).min(0x3f) << 26;
                    }
                }
                (0xb, 0) => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 1, LEVEL_SMT, id),
                (0xb, 1) => {
                    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (id_bits, vcpus, LEVEL_CORE | 1, id);
                }
                (0xb, index) => (entry.ecx, entry.edx) = (index, id),
                // AMD: number of cores and the bits of their IDs; ID, core ID, node (APM 3, E.4.7 and E.4.17).
                (0x8000_0008, _) => entry.ecx = entry.ecx & !0xf0ff | id_bits << 12 | (vcpus - 1),
                (0x8000_001e, _) => (entry.eax, entry.ebx, entry.ecx) = (id, id, 0),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, ..Default::default() }
    }

    fn template(vcpus: u8) -> Template {
        let mut supported = vec![leaf(0, 0), leaf(1, 0), leaf(4, 0), leaf(0xb, 0), leaf(0xb, 1)];
        supported.extend([leaf(0x1f, 0), leaf(0x8000_0008, 0), leaf(0x8000_001e, 0)]);
        supported[0].eax = 0xd;
        supported[1].ebx = 0xffff_0800;
        supported[2].eax = 3 << 5 | 3;
        Template::from_entries(&supported, HostProfile::Hardware, vcpus)
    }

    fn get(template: &Template, function: u32, index: u32) -> kvm_cpuid_entry2 {
        let found = template.entries.iter().find(|entry| entry.function == function && entry.index == index);
        *found.unwrap_or_else(|| panic!("leaf {function:#x}.{index}"))
    }

    #[test]
    fn each_vcpu_has_its_own_id_everywhere() {
        let mut template = template(64);
        for id in [0, 1, 63] {
            template.patch(id);
            assert_eq!(get(&template, 1, 0).ebx, id << 24 | 64 << 16 | 0x800);
            for index in 0..3 {
                assert_eq!(get(&template, 0xb, index).edx, id);
            }
            assert_eq!(get(&template, 0x8000_001e, 0).eax, id);
        }
    }

    #[test]
    fn one_package_of_cores() {
        for (vcpus, bits) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (64, 6)] {
            let mut template = template(vcpus);
            template.patch(0);
            let cores = get(&template, 0xb, 1);
            assert_eq!((cores.eax, cores.ebx, cores.ecx), (bits, vcpus.into(), 0x201));
            let threads = get(&template, 0xb, 0);
            assert_eq!((threads.eax, threads.ebx, threads.ecx), (0, 1, 0x100));
            assert_eq!(get(&template, 0x8000_0008, 0).ecx, bits << 12 | (u32::from(vcpus) - 1));
            assert_eq!(get(&template, 4, 0).eax >> 14 & 0xfff, u32::from(vcpus) - 1);
            assert_eq!(get(&template, 1, 0).edx & LEAF1_EDX_HTT != 0, vcpus > 1);
        }
    }

    #[test]
    fn a_guest_calls_no_hypervisor_that_does_not_return() {
        let mut supported = leaf(LEAF_KVM_FEATURES, 0);
        supported.eax = u32::MAX;
        for (profile, hypercalls) in [(HostProfile::Hardware, KVM_EAX_HYPERCALLS), (HostProfile::Pvm, 0)] {
            let template = Template::from_entries(&[supported], profile, 1);
            let features = get(&template, LEAF_KVM_FEATURES, 0).eax;
            assert_eq!(features & KVM_EAX_HYPERCALLS, hypercalls);
            assert_eq!(features | KVM_EAX_HYPERCALLS, u32::MAX, "the others stay");
        }
    }

    #[test]
    fn the_hosts_topology_is_gone() {
        let template = template(2);
        assert!(template.entries.iter().all(|entry| entry.function != 0x1f));
        assert_eq!(template.entries.iter().filter(|entry| entry.function == 0xb).count(), 3);
    }
}
