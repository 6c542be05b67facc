//! From a snapshot to a VM, one call a step; [`crate::snapshot`] has the order and its reasons. Before: [`RestoreConfig`].
//! Next: [`Vm::start`].

use std::fs::File;

use kvm_ioctls::VmFd;
use vm_memory::GuestAddress;

use crate::builder::Creating;
use crate::bus::Bus;
use crate::devices::{self, attach};
use crate::error::{KvmContext, VmError};
use crate::layout::HOTPLUG_BLOCK_MIB;
use crate::memory;
use crate::moment::Arrival;
use crate::snapshot::{self, Snapshot, State};
use crate::vcpu::Vcpu;
use crate::vm::Parts;
use crate::x86_64::{cpuid, irqchip, msrs, tsc};
use crate::{DeviceConfig, HostProfile, Vm, layout, sys};

/// A VM that goes on from a snapshot.
#[derive(Debug)]
pub struct RestoreConfig {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Its memory. Guests map it: a file that may be in use is replaced or removed, never written.
    pub memory: File,
    /// Guest memory; at least the snapshot's. What is more is added in whole blocks of 128 MiB.
    pub memory_mib: u32,
    /// Number of vCPUs; at most the snapshot's.
    pub vcpus: u8,
    /// The devices, as they were when the snapshot was taken.
    pub devices: Vec<DeviceConfig>,
}

/// Restores a VM.
pub(crate) fn restore(config: RestoreConfig) -> Result<Vm, VmError> {
    let RestoreConfig { snapshot, memory: file, memory_mib, vcpus, devices } = config;
    snapshot.check_size(&file).map_err(VmError::SnapshotMemory)?;
    let state = snapshot.state;
    if vcpus == 0
        || vcpus > state.vcpus
        || memory_mib < state.memory_mib
        || devices.len() != state.windows.len()
    {
        return Err(VmError::SnapshotShape);
    }
    let profile = HostProfile::detect();
    let creating = Creating::begin()?;
    sys::allow_huge_pages(false);
    let added_mib = (memory_mib - state.memory_mib).next_multiple_of(HOTPLUG_BLOCK_MIB);
    let owned = memory::create_with_hotplug(state.memory_mib, added_mib)?;
    snapshot::memory::map(&owned.memory, &file, &state.extents)
        .map_err(|source| VmError::Memory(state.memory_mib, source))?;
    // The guest writes to all of it when it adds the memory.
    for start in layout::added_page_structures(u64::from(added_mib) << 20) {
        sys::populate_huge(&owned.memory, start, layout::HUGE_PAGE_BYTES as usize);
    }
    let arrival = Arrival {
        vcpus,
        guest_cid: devices.iter().find_map(DeviceConfig::guest_cid).unwrap_or(0),
        added_bytes: u64::from(added_mib) << 20,
    };
    let (_kvm, vm) = creating.finish()?;
    memory::show(&owned.memory, &vm)?;
    irqchip::create(&vm)?;
    state.chips.restore_chips(&vm)?;
    let vcpus = vcpus_of(&vm, &state, vcpus)?;
    let mut windows = Vec::with_capacity(devices.len());
    for (index, (device, saved)) in devices.into_iter().zip(&state.windows).enumerate() {
        let mut window = attach::attach(&vm, &owned.memory, index, devices::create(device)?)?;
        window.restore(saved).map_err(|source| VmError::Window(index, source))?;
        windows.push(window);
    }
    state.chips.restore_clock(&vm)?;
    Ok(Vm::of(Parts {
        vcpus,
        bus: Bus::new(windows, None),
        profile,
        known_vcpus: state.vcpus,
        arrival: Some(arrival),
        page: Some(GuestAddress(state.page)),
        vm,
        memory: owned,
    }))
}

/// The first vCPU as it was saved, the others as at a boot: they wait for their start-up IPI. All are made before the
/// first is set: setting its local APIC has KVM look at who can be sent an IPI (kvm_recalculate_apic_map()).
fn vcpus_of(vm: &VmFd, state: &State, count: u8) -> Result<Vec<Vcpu>, VmError> {
    let make = |index: u8| -> Result<Vcpu, VmError> {
        let fd = vm.create_vcpu(index.into()).kvm("cannot create a vCPU")?;
        Ok(Vcpu { index, fd })
    };
    let vcpus = (0..count).map(make).collect::<Result<Vec<_>, _>>()?;
    let mut template = cpuid::Template::from_saved(&state.vcpu.cpuid, state.vcpus);
    for Vcpu { index, fd } in vcpus.iter().rev() {
        if *index == 0 {
            state.vcpu.restore(fd)?;
        } else {
            cpuid::set(fd, template.of(*index))?;
            msrs::set_boot(fd)?;
            tsc::set(fd, state.vcpu.tsc())?;
        }
    }
    Ok(vcpus)
}
