//! Boots a kernel and shows how it ends: `boot KERNEL INITRAMFS MEMORY_MIB VCPUS [WORD...]`. A first word
//! of `console` gives the guest a debug console on stdout.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::os::fd::AsFd;
use std::time::Instant;

use crx_vmm::{DeviceConfig, Vm, VmConfig};

fn main() {
    let start = Instant::now();
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let console = args.get(4).is_some_and(|word| word == "console");
    let extra_command_line = args.split_off(if console { 5 } else { 4 });
    let vm = Vm::new(VmConfig {
        kernel: File::open(&args[0]).unwrap(),
        kernel_path: args[0].clone().into(),
        initramfs: File::open(&args[1]).unwrap(),
        initramfs_path: args[1].clone().into(),
        memory_mib: args[2].parse().unwrap(),
        vcpus: args[3].parse().unwrap(),
        debug_console: console.then(|| File::from(std::io::stdout().as_fd().try_clone_to_owned().unwrap())),
        extra_command_line,
        for_snapshot: false,
        devices: vec![DeviceConfig::Rng],
    });
    let built = start.elapsed();
    let end = vm.and_then(Vm::start).map(crx_vmm::RunningVm::wait);
    eprintln!("built after {built:?}, ended after {:?}:", start.elapsed());
    match end {
        Ok(crx_vmm::End::Panic { log }) => eprintln!("panic: {log}"),
        Ok(end) => eprintln!("{end}"),
        Err(error) => eprintln!("{error}: {:?}", std::error::Error::source(&error)),
    }
}
