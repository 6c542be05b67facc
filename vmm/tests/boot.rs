//! Guests of a few instructions on the real /dev/kvm: each way a guest can end, each way a VM cannot be
//! built. The guests enter like a kernel does, in 64-bit mode with interrupts off.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use crx_vmm::{DeviceConfig, End, FailedRun, RunningVm, Vm, VmConfig, VmError};
use vmm_sys_util::tempfile::TempFile;

/// Where the guests' code is loaded and entered.
const ENTRY: u64 = 0x10_0000;

/// An ELF image with `code` as its only segment, at the size of a real one's first page.
fn kernel(code: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 4096];
    image[..6].copy_from_slice(b"\x7fELF\x02\x01");
    let size = code.len() as u64;
    for (at, value) in [
        (16, 2 | 62 << 16),
        (24, ENTRY),
        (32, 64),
        (64, 1),
        (64 + 8, 4096),
        (64 + 16, 0xffff_ffff_8000_0000 | ENTRY),
        (64 + 24, ENTRY),
        (64 + 32, size),
        (64 + 40, size + 4096),
    ] {
        image[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
    }
    image[54..58].copy_from_slice(&[56, 0, 1, 0]);
    image.extend(code);
    image
}

fn file(bytes: &[u8]) -> File {
    let mut file = TempFile::new().unwrap().into_file();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

fn config(code: &[u8]) -> VmConfig {
    VmConfig {
        kernel: file(&kernel(code)),
        kernel_path: PathBuf::from("/guest/vmlinux"),
        initramfs: file(b"initramfs"),
        initramfs_path: PathBuf::from("/guest/initramfs"),
        memory_mib: 32,
        vcpus: 1,
        debug_console: None,
        extra_command_line: Vec::new(),
        for_snapshot: false,
        devices: vec![DeviceConfig::Rng],
    }
}

fn start(config: VmConfig) -> Option<RunningVm> {
    if !Path::new("/dev/kvm").exists() {
        assert!(std::env::var_os("CI").is_none(), "this test needs /dev/kvm");
        eprintln!("skipped: needs /dev/kvm");
        return None;
    }
    Some(Vm::new(config).unwrap().start().unwrap())
}

/// Runs `code` to its end; `None` without KVM.
fn end_of(code: &[u8]) -> Option<End> {
    start(config(code)).map(RunningVm::wait)
}

/// mov dx, port; mov eax, value; out dx, ax or al; jmp $
fn out(port: u16, value: u32, wide: bool) -> Vec<u8> {
    let mut code = vec![0x66, 0xba];
    code.extend(port.to_le_bytes());
    code.push(0xb8);
    code.extend(value.to_le_bytes());
    code.extend(if wide { &[0x66, 0xef][..] } else { &[0xee] });
    code.extend([0xeb, 0xfe]);
    code
}

/// Loads an empty interrupt descriptor table from behind itself: lidt [rip+...]; `then`; the table.
fn without_handlers(then: &[u8]) -> Vec<u8> {
    let mut code = vec![0x0f, 0x01, 0x1d];
    code.extend((then.len() as u32).to_le_bytes());
    code.extend(then);
    code.extend([0; 10]);
    code
}

#[test]
fn power_off() {
    let Some(end) = end_of(&out(0x604, 0x2000, true)) else { return };
    assert!(matches!(end, End::PowerOff), "{end}");
}

#[test]
fn reset() {
    let Some(end) = end_of(&out(0x64, 0xfe, false)) else { return };
    assert!(matches!(end, End::Reset), "{end}");
}

#[test]
fn panic_with_its_log() {
    // lea rsi, [rip+log]; mov ecx, 13; mov dx, 0x506; rep outsb; then 1 to 0x505; the log
    let panic = out(0x505, 1, false);
    let mut code = vec![0x48, 0x8d, 0x35];
    code.extend((5 + 4 + 2 + panic.len() as u32).to_le_bytes());
    code.extend([0xb9, 13, 0, 0, 0, 0x66, 0xba, 0x06, 0x05, 0xf3, 0x6e]);
    code.extend(panic);
    code.extend(b"not syncing:\n");
    let Some(end) = end_of(&code) else { return };
    assert!(matches!(&end, End::Panic { log } if log == "not syncing:\n"), "{end:?}");
}

#[test]
fn triple_fault() {
    let Some(end) = end_of(&without_handlers(&[0x0f, 0x0b])) else { return };
    assert!(matches!(end, End::TripleFault { vcpu: 0, .. }), "{end}");
}

/// An MMIO access by an instruction that KVM's emulator does not know, on every host.
#[test]
fn an_instruction_that_kvm_refuses_is_reported() {
    // mov eax, 0xd0000000; pslldq-like SSE access to the window: addps xmm0, [rax]
    let mut code = vec![0xb8, 0, 0, 0, 0xd0];
    // CR4.OSFXSR, so that it is not simply undefined: mov rcx, cr4; or ecx, 0x200; mov cr4, rcx
    code.extend([0x0f, 0x20, 0xe1, 0x81, 0xc9, 0, 2, 0, 0, 0x0f, 0x22, 0xe1]);
    code.extend([0x0f, 0x58, 0x00, 0xeb, 0xfe]);
    // The window must be mapped: 2 MiB page at 0xd0000000 through a directory at 0xc000.
    let mut mapped = Vec::new();
    // mov qword [0xa018], 0xc003 (directory pointer 3)
    mapped.extend([0x48, 0xc7, 0x04, 0x25, 0x18, 0xa0, 0, 0, 0x03, 0xc0, 0, 0]);
    // mov eax, 0xd0000083; mov [0xc400], rax (entry 128: 3 GiB + 256 MiB)
    mapped.extend([0xb8, 0x83, 0, 0, 0xd0, 0x48, 0x89, 0x04, 0x25, 0, 0xc4, 0, 0]);
    mapped.extend(code);
    let Some(end) = end_of(&mapped) else { return };
    let End::Failed(error) = &end else { panic!("{end}") };
    assert_eq!((error.vcpu, &error.run), (0, &FailedRun::Emulation));
    assert_eq!(error.state.rip, ENTRY + mapped.len() as u64 - 5);
    assert_eq!(error.state.instruction[..3], [0x0f, 0x58, 0x00]);
    assert_eq!(error.state.cpl, 0);
    let text = end.to_string();
    assert!(text.contains("bytes 0f 58 00") && text.contains("cr0 0x8") && !text.contains('\n'), "{text}");
}

#[test]
fn stop_ends_a_spinning_guest() {
    let Some(vm) = start(config(&[0xeb, 0xfe])) else { return };
    let stopper = vm.stopper();
    let (sender, ended) = mpsc::channel();
    std::thread::spawn(move || sender.send(vm.wait()));
    assert!(ended.recv_timeout(Duration::from_millis(100)).is_err(), "it spins");
    stopper.stop();
    stopper.clone().stop();
    assert!(matches!(ended.recv().unwrap(), End::Stopped));
    stopper.stop();
}

#[test]
fn a_halted_guest_and_waiting_processors_stop_too() {
    for vcpus in [1, 2, 4] {
        let Some(vm) = start(VmConfig { vcpus, ..config(&[0xf4, 0xeb, 0xfd]) }) else { return };
        vm.stopper().stop();
        assert!(matches!(vm.wait(), End::Stopped));
    }
}

#[test]
fn dropping_a_running_vm_stops_it() {
    let Some(vm) = start(config(&[0xeb, 0xfe])) else { return };
    drop(vm);
}

#[test]
fn up_to_64_vcpus_can_be_built_and_run() {
    for vcpus in [2, 3, 64] {
        let Some(vm) = start(VmConfig { vcpus, ..config(&out(0x604, 0x2000, true)) }) else { return };
        assert!(matches!(vm.wait(), End::PowerOff));
    }
}

#[test]
fn memory_above_the_hole() {
    // Reads through a page that maps 4 GiB: directory pointer 4 with a 2 MiB directory at 0xc000, then
    // compares what it wrote at 4 GiB and powers off, or resets.
    let mut code = vec![0x48, 0xc7, 0x04, 0x25, 0x20, 0xa0, 0, 0, 0x03, 0xc0, 0, 0];
    // mov rax, 0x100000083; mov [0xc000], rax
    code.extend([0x48, 0xb8, 0x83, 0, 0, 0, 1, 0, 0, 0, 0x48, 0x89, 0x04, 0x25, 0, 0xc0, 0, 0]);
    // mov rbx, 0x100000000; mov dword [rbx], 0x12345678; mov ecx, [rbx]; cmp ecx, 0x12345678; jne reset
    code.extend([0x48, 0xbb, 0, 0, 0, 0, 1, 0, 0, 0, 0xc7, 0x03, 0x78, 0x56, 0x34, 0x12, 0x8b, 0x0b]);
    code.extend([0x81, 0xf9, 0x78, 0x56, 0x34, 0x12]);
    let off = out(0x604, 0x2000, true);
    code.extend([0x75, off.len() as u8]);
    code.extend(off);
    code.extend(out(0x64, 0xfe, false));
    let Some(vm) = start(VmConfig { memory_mib: 4096, ..config(&code) }) else { return };
    let end = vm.wait();
    assert!(matches!(end, End::PowerOff), "{end}");
}

#[test]
fn the_debug_console_shows_what_the_guest_prints() {
    let mut console = TempFile::new().unwrap().into_file();
    let output = console.try_clone().unwrap();
    let mut code = Vec::new();
    for byte in *b"hi\n" {
        code.extend(&out(0x3f8, byte.into(), false)[..10]);
    }
    code.extend(out(0x604, 0x2000, true));
    let Some(vm) = start(VmConfig { debug_console: Some(output), ..config(&code) }) else { return };
    assert!(matches!(vm.wait(), End::PowerOff));
    console.rewind().unwrap();
    let mut text = String::new();
    console.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hi\n");
}

#[test]
fn bad_files_are_named_in_one_line() {
    let error = |config| match Vm::new(config) {
        Ok(_) => panic!("built"),
        Err(VmError::NoKvm) => None,
        Err(error) => Some(error.to_string()),
    };
    let with_kernel = |bytes: &[u8]| VmConfig { kernel: file(bytes), ..config(&[]) };
    let good = kernel(&[0xeb, 0xfe]);
    for (bytes, wrong) in [
        (&b""[..], "kernel /guest/vmlinux: is not an ELF image (an uncompressed vmlinux is needed)"),
        (&good[..100], "kernel /guest/vmlinux: is truncated"),
        (&good[..4097], "kernel /guest/vmlinux: is truncated"),
    ] {
        let Some(text) = error(with_kernel(bytes)) else { return };
        assert_eq!(text, wrong);
    }
    let empty = VmConfig { initramfs: file(b""), ..config(&[0xeb, 0xfe]) };
    assert_eq!(error(empty).unwrap(), "initramfs /guest/initramfs: is empty");
    let mut big = config(&[0xeb, 0xfe]);
    big.initramfs.set_len(40 << 20).unwrap();
    big.memory_mib = 32;
    assert_eq!(
        error(big).unwrap(),
        "memory of 32 MiB is too small: kernel and initramfs /guest/initramfs need 42 MiB at least"
    );
}

#[test]
fn impossible_configurations() {
    let error = |config: VmConfig| Vm::new(config).err().unwrap().to_string();
    let code = &[0xeb, 0xfe];
    assert!(error(VmConfig { memory_mib: 1, ..config(code) }).starts_with("memory of 1 MiB"));
    assert!(error(VmConfig { vcpus: 0, ..config(code) }).starts_with("0 vCPUs"));
    assert!(error(VmConfig { vcpus: 65, ..config(code) }).starts_with("65 vCPUs"));
    let devices = (0..20).map(|_| DeviceConfig::Rng).collect();
    assert!(error(VmConfig { devices, ..config(code) }).starts_with("20 devices"));
}
