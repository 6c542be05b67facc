//! Snapshots of a guest of a few instructions on the real /dev/kvm: it waits at its moment, and goes on from there in
//! other VMs.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crx_virtio::net::{NetConfig, NetPort};
use crx_vmm::{DeviceConfig, End, FormatError, MemoryError, RestoreConfig, Snapshot, Vm, VmConfig, VmError};
use vmm_sys_util::tempfile::TempFile;

/// Where the guest's code is loaded and entered.
const ENTRY: u64 = 0x10_0000;

/// Sets a register, goes through its moment with the page at 2 MiB, and powers off if the register is still the same
/// and the page says two processors; otherwise it resets.
const GUEST: &[u8] = &[
    0xbb, 0x78, 0x56, 0x34, 0x12, // mov ebx, 0x12345678
    0x66, 0xba, 0x0c, 0x05, // mov dx, 0x50c
    0xb8, 0x00, 0x02, 0x00, 0x00, // mov eax, 0x200
    0xef, // out dx, eax
    0x81, 0xfb, 0x78, 0x56, 0x34, 0x12, // cmp ebx, 0x12345678
    0x75, 0x1f, // jne reset
    0x8b, 0x04, 0x25, 0x00, 0x00, 0x20, 0x00, // mov eax, [0x200000]
    0x83, 0xf8, 0x01, // cmp eax, 1
    0x75, 0x13, // jne reset
    0x8b, 0x04, 0x25, 0x04, 0x00, 0x20, 0x00, // mov eax, [0x200004]
    0x83, 0xf8, 0x02, // cmp eax, 2
    0x75, 0x07, // jne reset
    0x66, 0xba, 0x04, 0x06, // mov dx, 0x604
    0x66, 0xb8, 0x00, // mov ax, 0x2000 (its first byte)
    0x20, 0x66, 0xef, // ... out dx, ax
    0xb0, 0xfe, 0xe6, 0x64, // reset: mov al, 0xfe; out 0x64, al
    0xeb, 0xfe,
];

/// An ELF image with `code` as its only segment.
fn kernel(code: &[u8]) -> File {
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
    let mut file = TempFile::new().unwrap().into_file();
    file.write_all(&image).unwrap();
    file.rewind().unwrap();
    file
}

fn config(code: &[u8], for_snapshot: bool) -> VmConfig {
    let mut initramfs = TempFile::new().unwrap().into_file();
    initramfs.write_all(b"initramfs").unwrap();
    VmConfig {
        kernel: kernel(code),
        kernel_path: PathBuf::from("/guest/vmlinux"),
        initramfs,
        initramfs_path: PathBuf::from("/guest/initramfs"),
        memory_mib: 32,
        vcpus: 2,
        debug_console: None,
        extra_command_line: Vec::new(),
        for_snapshot,
        devices: vec![DeviceConfig::Rng],
    }
}

/// A snapshot of the guest, as its two files; `None` without KVM.
fn snapshot() -> Option<(Vec<u8>, File)> {
    snapshot_with(vec![DeviceConfig::Rng])
}

fn snapshot_with(devices: Vec<DeviceConfig>) -> Option<(Vec<u8>, File)> {
    if !Path::new("/dev/kvm").exists() {
        assert!(std::env::var_os("CI").is_none(), "this test needs /dev/kvm");
        eprintln!("skipped: needs /dev/kvm");
        return None;
    }
    let memory = TempFile::new().unwrap().into_file();
    let config = VmConfig { devices, ..config(GUEST, true) };
    let running = Vm::new(config).unwrap().start().unwrap();
    let snapshot = running.snapshot(&memory).unwrap();
    Some((snapshot.to_bytes([7; 32]).unwrap(), memory))
}

fn restore(state: &[u8], memory: &File, memory_mib: u32, vcpus: u8) -> Result<End, VmError> {
    restore_with(state, memory, memory_mib, vcpus, vec![DeviceConfig::Rng])
}

fn restore_with(
    state: &[u8],
    memory: &File,
    memory_mib: u32,
    vcpus: u8,
    devices: Vec<DeviceConfig>,
) -> Result<End, VmError> {
    let config = RestoreConfig {
        snapshot: Snapshot::from_bytes(state).unwrap(),
        memory: memory.try_clone().unwrap(),
        memory_mib,
        vcpus,
        devices,
    };
    Ok(Vm::restore(config)?.start()?.wait())
}

#[test]
fn a_guest_goes_on_behind_its_moment_again_and_again() {
    let Some((state, memory)) = snapshot() else { return };
    Snapshot::from_bytes(&state).unwrap().check_content(&memory).unwrap();
    for memory_mib in [32, 33, 256] {
        let end = restore(&state, &memory, memory_mib, 2).unwrap();
        assert!(matches!(end, End::PowerOff), "{end}");
    }
    // This guest wants two processors.
    let end = restore(&state, &memory, 32, 1).unwrap();
    assert!(matches!(end, End::Reset), "{end}");
    Snapshot::from_bytes(&state).unwrap().check_content(&memory).unwrap();
}

#[test]
fn the_same_guest_goes_through_its_moment_without_a_snapshot() {
    if !Path::new("/dev/kvm").exists() {
        return;
    }
    let end = Vm::new(config(GUEST, false)).unwrap().start().unwrap().wait();
    assert!(matches!(end, End::PowerOff), "{end}");
}

#[test]
fn a_guest_that_ends_before_its_moment_gives_no_snapshot() {
    if !Path::new("/dev/kvm").exists() {
        return;
    }
    let reset = &GUEST[GUEST.len() - 6..];
    let memory = TempFile::new().unwrap().into_file();
    let running = Vm::new(config(reset, true)).unwrap().start().unwrap();
    let error = running.snapshot(&memory).unwrap_err();
    assert_eq!(error.to_string(), "no snapshot: the guest asked for a reset");
}

fn net(hidden: bool) -> DeviceConfig {
    DeviceConfig::Net(NetConfig { mac: [2, 0, 0, 0, 0, 1], port: NetPort::new(), hidden })
}

#[test]
fn network_interfaces_take_their_own_places_only() {
    let Some((state, memory)) = snapshot_with(vec![net(false), net(true)]) else { return };
    let end = restore_with(&state, &memory, 32, 2, vec![net(false), net(true)]).unwrap();
    assert!(matches!(end, End::PowerOff), "{end}");
    for (devices, window) in [
        (vec![net(true), net(true)], 0),
        (vec![DeviceConfig::Rng, net(true)], 0),
        (vec![net(false), net(false)], 1),
        (vec![net(false), DeviceConfig::Rng], 1),
    ] {
        let refused = restore_with(&state, &memory, 32, 2, devices);
        assert!(matches!(refused, Err(VmError::Window(at, _)) if at == window));
    }
    assert!(matches!(restore_with(&state, &memory, 32, 2, vec![net(false)]), Err(VmError::SnapshotShape)));
}

#[test]
fn what_does_not_fit_or_is_damaged_does_not_run() {
    let Some((state, memory)) = snapshot() else { return };
    for (memory_mib, vcpus) in [(31, 2), (32, 3), (32, 0)] {
        assert!(matches!(restore(&state, &memory, memory_mib, vcpus), Err(VmError::SnapshotShape)));
    }
    let mut flipped = state.clone();
    *flipped.last_mut().unwrap() ^= 0x10;
    assert!(matches!(Snapshot::from_bytes(&flipped), Err(FormatError::Damaged("state"))));
    let snapshot = Snapshot::from_bytes(&state).unwrap();
    memory.write_all_at(&[0x90], ENTRY + 1).unwrap();
    assert!(matches!(snapshot.check_content(&memory), Err(MemoryError::Damaged)));
    memory.set_len(4096).unwrap();
    assert!(matches!(snapshot.check_size(&memory), Err(MemoryError::Size(4096, _))));
    assert!(matches!(restore(&state, &memory, 32, 2), Err(VmError::SnapshotMemory(_))));
}
