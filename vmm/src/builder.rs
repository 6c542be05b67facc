//! From a configuration to a VM, one call a step, in boot order. Before: [`VmConfig`]. Next: [`Vm::start`].

use std::io;
use std::thread::{self, JoinHandle};

use crx_virtio::transport::MmioTransport;
use kvm_ioctls::{Kvm, VmFd};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::boot::{self, BootInfo, CommandLine};
use crate::bus::Bus;
use crate::config::VmConfig;
use crate::devices::serial::Serial;
use crate::devices::{self, attach};
use crate::error::{KvmContext, VmError};
use crate::moment::Arrival;
use crate::vcpu::Vcpu;
use crate::vm::Parts;
use crate::x86_64::{cpuid, irqchip, msrs, regs};
use crate::{DeviceConfig, HostProfile, Vm, layout, memory, sys};

/// Builds a VM.
pub(crate) fn build(config: VmConfig) -> Result<Vm, VmError> {
    config.validate()?;
    let profile = HostProfile::detect();
    let memory_bytes = config.memory_bytes();
    let VmConfig { mut kernel, mut initramfs, debug_console, devices, vcpus, for_snapshot, .. } = config;

    let creating = Creating::begin()?;
    sys::allow_huge_pages(false);
    let owned = memory::create(config.memory_mib)?;
    let memory = &owned.memory;
    let loaded = boot::load_kernel(memory, memory_bytes, &mut kernel, &config.kernel_path)?;
    let initramfs =
        boot::load_initramfs(memory, memory_bytes, &mut initramfs, &config.initramfs_path, loaded.end)?;
    let structures = layout::page_structures(memory_bytes, initramfs.0);
    if !structures.is_empty() {
        sys::populate_huge(memory, structures.start, (structures.end - structures.start) as usize);
    }
    let (kvm, vm) = creating.finish()?;
    memory::show(memory, &vm)?;
    irqchip::create(&vm)?;

    let console = debug_console.is_some();
    let guest_cid = devices.iter().find_map(DeviceConfig::guest_cid).unwrap_or(0);
    let mut gsis = Vec::new();
    let mut windows: Vec<MmioTransport> = Vec::with_capacity(devices.len());
    for (index, device) in devices.into_iter().enumerate() {
        windows.push(attach::attach(&vm, memory, index, devices::create(device)?)?);
        gsis.push(attach::gsi(index));
    }
    let serial = debug_console.map(|output| serial(&vm, output)).transpose()?;
    if console {
        gsis.push(layout::SERIAL_GSI);
    }

    let mut words = config.extra_command_line;
    if for_snapshot {
        words.push("maxcpus=1".to_owned());
    }
    let command_line = CommandLine::new(profile, console, windows.len(), &words)?;
    let info = BootInfo { memory_bytes, vcpus, gsis: &gsis, command_line: &command_line, initramfs };
    boot::write_structures(memory, &info).map_err(VmError::BootStructures)?;

    let arrival = (!for_snapshot).then_some(Arrival { vcpus, guest_cid, added_bytes: 0 });
    let bus = Bus::new(windows, serial);
    let known_vcpus = vcpus;
    let vcpus = vcpus_of(&kvm, &vm, profile, vcpus, for_snapshot, loaded.entry)?;
    Ok(Vm::of(Parts { vcpus, bus, profile, known_vcpus, arrival, page: None, vm, memory: owned }))
}

/// A VM that KVM is creating. Some kernels (6.1) sleep 10 ms in KVM_CREATE_VM: what does not need the VM is done
/// meanwhile.
pub(crate) struct Creating(JoinHandle<Result<(Kvm, VmFd), VmError>>);

impl Creating {
    /// Begins.
    pub(crate) fn begin() -> Result<Self, VmError> {
        let create = || {
            let kvm = open_kvm()?;
            let vm = kvm.create_vm().kvm("cannot create a VM")?;
            Ok((kvm, vm))
        };
        let thread = thread::Builder::new().name("crx-create".to_owned()).spawn(create);
        thread.map(Self).map_err(|source| VmError::Host("cannot start a thread", source))
    }

    /// Waits for it.
    pub(crate) fn finish(self) -> Result<(Kvm, VmFd), VmError> {
        self.0.join().map_err(|_| VmError::Host("cannot create a VM", io::ErrorKind::Other.into()))?
    }
}

pub(crate) fn open_kvm() -> Result<Kvm, VmError> {
    Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENXIO | libc::ENODEV => VmError::NoKvm,
        libc::EACCES | libc::EPERM => VmError::KvmPermission,
        _ => VmError::Kvm("cannot open /dev/kvm", error),
    })
}

fn serial(vm: &VmFd, output: std::fs::File) -> Result<Serial, VmError> {
    let line =
        EventFd::new(EFD_NONBLOCK).map_err(|source| VmError::Host("cannot make an eventfd", source))?;
    vm.register_irqfd(&line, layout::SERIAL_GSI).kvm("cannot register an irqfd")?;
    Ok(Serial::new(output, line))
}

/// The vCPUs; the guest of a snapshot knows of all, and only the first is there.
fn vcpus_of(
    kvm: &Kvm,
    vm: &VmFd,
    profile: HostProfile,
    count: u8,
    for_snapshot: bool,
    entry: u64,
) -> Result<Vec<Vcpu>, VmError> {
    let mut template = cpuid::Template::new(kvm, profile, count)?;
    (0..if for_snapshot { 1 } else { count })
        .map(|index| {
            let fd = vm.create_vcpu(index.into()).kvm("cannot create a vCPU")?;
            cpuid::set(&fd, template.of(index))?;
            msrs::set_boot(&fd)?;
            if index == 0 {
                regs::set_boot(&fd, entry)?;
            }
            Ok(Vcpu { index, fd })
        })
        .collect()
}
