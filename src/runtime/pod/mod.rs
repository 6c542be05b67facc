//! The VMM process: one per pod. It builds the share and the VM, talks to PID 1, and does what its clients say.
//! Everything that the pod costs the host hangs off it, so its end, however it comes, is the pod's end.
//!
//! Before: [`super::launch`] started it. Here: the way to a running VM. Next: `hear` (the threads that wait for
//! something), `control` (what the pod does with what they hear), and in the guest `crx-guest-init`.

mod control;
mod hear;
mod namespaces;
mod nics;
mod processes;
mod questions;
mod timelines;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::Context;
use crx_virtio::fs::FsConfig;
use crx_virtio::net::{NetConfig, NetPort};
use crx_virtio::vsock::{GuestConnection, VsockConfig};
use crx_vmm::{DeviceConfig, RestoreConfig, RunningVm, Vm, VmConfig};
use rustix::rand::{GetRandomFlags, getrandom};

use self::control::Pod;
use self::hear::Events;
use self::nics::Nics;
use super::channel::{self, Failure, NewPod, Report};
use super::network::MAX_INTERFACES;
use super::share::Share;
use super::state::POD_SOCKET;
use super::template::{self, Template};
use super::timeline::Track;
use super::{exit, log, session};
use crate::sys;

/// What the boot leaves for the pod's life.
struct Booted {
    share: Share,
    running: RunningVm,
    connections: Receiver<GuestConnection>,
    clients: UnixListener,
    nics: Vec<NetPort>,
}

/// Runs a pod from its launcher's first message to its end; returns the exit code of its first container.
///
/// # Errors
/// The launcher cannot be heard or told; everything else is reported to it.
pub(crate) fn main(
    launcher: UnixStream,
    new: &NewPod,
    template: Option<Template>,
    mut timeline: Track,
) -> anyhow::Result<u8> {
    let console = session::begin(new.detached, new.console)?;
    // Before there is another thread: unshare(2) of a process with several threads is only its caller's.
    let left = sys::unshare_mounts().context("cannot make a mount namespace for the pod");
    let (events, received) = Events::new();
    let release = hear::launcher(launcher.try_clone()?, &events)?;
    let limits = new.rates.limits();
    match left.and_then(|()| boot(new, template, &mut timeline)) {
        Ok(booted) => {
            let Booted { share, running, connections, clients, nics } = booted;
            hear::guest_connections(connections, &events)?;
            hear::vm_end(running, &events)?;
            hear::clients(clients, &events)?;
            if console {
                hear::window_changes(&events)?;
            }
            let nics = Nics::new(nics, queue_pairs(new.vcpus), limits);
            Pod::new(share, nics, launcher, release, console, timeline, events).run(&received)
        }
        Err(error) => {
            let failure =
                Failure { exit_code: exit::FAILURE, message: format!("{error:#}"), console: Vec::new() };
            channel::send(&launcher, &Report::Failed(failure), &[])?;
            Ok(exit::FAILURE)
        }
    }
}

/// Queue pairs of each network device that a pod with so many virtual processors uses.
pub(crate) fn queue_pairs(vcpus: u8) -> u8 {
    vcpus.min(crx_virtio::net::MAX_QUEUE_PAIRS as u8)
}

/// Builds the share and the VM, confines the process to the share and starts the VM.
fn boot(new: &NewPod, template: Option<Template>, timeline: &mut Track) -> anyhow::Result<Booted> {
    // The host's files can be opened here for the last time.
    let open = |path: &Path| File::open(path).with_context(|| format!("guest file {}", path.display()));
    let (kernel, initramfs) = (open(&new.kernel)?, open(&new.initramfs)?);
    let debug_console = new.debug_console.then(|| dup_stderr().context("stderr")).transpose()?;
    let clients = listen(&new.state_dir)?;
    let share = Share::build(&new.state_dir)?;
    timeline.reached("share built");
    let (guest_connections, connections) = channel();
    let restored = template.map(|template| restore(new, template, guest_connections.clone())).transpose();
    let unusable = restored.as_ref().err().map(|error| format!("{error:#}"));
    let (vm, nics) = match restored.unwrap_or_default() {
        Some(restored) => {
            timeline.reached("template restored");
            restored
        }
        None => {
            let (devices, nics) = devices(new.state_dir.clone(), guest_connections, new.network)?;
            let vm = Vm::new(VmConfig {
                kernel,
                kernel_path: new.kernel.clone(),
                initramfs,
                initramfs_path: new.initramfs.clone(),
                memory_mib: new.memory_mib,
                vcpus: new.vcpus,
                debug_console,
                extra_command_line: Vec::new(),
                for_snapshot: false,
                devices,
            })?;
            timeline.reached("VM built");
            (vm, nics)
        }
    };
    Share::enter(&new.state_dir)?;
    let running = vm.start()?;
    // A pod that cannot boot either has told why.
    if let Some(reason) = unusable {
        log::warning(&format!(
            "the pod boots, its template cannot be used: {reason}; crx template rm removes it"
        ));
    }
    timeline.reached("VM started");
    Ok(Booted { share, running, connections, clients, nics })
}

/// A VM from a template.
fn restore(
    new: &NewPod,
    template: Template,
    guest_connections: Sender<GuestConnection>,
) -> anyhow::Result<(Vm, Vec<NetPort>)> {
    let Template { state, memory } = template;
    let (devices, nics) = devices(new.state_dir.clone(), guest_connections, new.network)?;
    let vm = Vm::restore(RestoreConfig {
        snapshot: template::snapshot(&state)?,
        memory,
        memory_mib: new.memory_mib,
        vcpus: new.vcpus,
        devices,
    })?;
    Ok((vm, nics))
}

/// The devices of a pod, the same for one that boots, one from a template, and the template itself; and where the pod's taps
/// are plugged in. Of the interfaces of a pod with a network the guest's kernel finds the first as it boots, and the others when
/// they are plugged in and PID 1 asks for them.
///
/// # Errors
/// The host has no entropy.
pub(crate) fn devices(
    share: PathBuf,
    guest_connections: Sender<GuestConnection>,
    network: bool,
) -> anyhow::Result<(Vec<DeviceConfig>, Vec<NetPort>)> {
    let mut devices = vec![
        DeviceConfig::Vsock(VsockConfig { guest_cid: guest_cid()?, host_listener: None, guest_connections }),
        DeviceConfig::Fs(FsConfig { tag: crx_proto::SHARE_TAG.to_owned(), root: share }),
        DeviceConfig::Rng,
    ];
    let nics: Vec<NetPort> = (0..if network { MAX_INTERFACES } else { 0 }).map(|_| NetPort::new()).collect();
    for (number, port) in nics.iter().enumerate() {
        // PID 1 sets the pod's own address.
        let mac = [0x02, 0, 0, 0, 0, number as u8];
        devices.push(DeviceConfig::Net(NetConfig { mac, port: port.clone(), hidden: number > 0 }));
    }
    Ok((devices, nics))
}

/// An address for the guest. No two pods meet over it, but no two should be taken for one another either: random, of the
/// 32 bits that Linux uses, without those with a meaning (include/uapi/linux/vm_sockets.h).
fn guest_cid() -> anyhow::Result<u64> {
    let mut random = [0; 4];
    getrandom(&mut random, GetRandomFlags::empty()).context("cannot draw the guest's address")?;
    Ok(u64::from(u32::from_le_bytes(random).clamp(3, u32::MAX - 1)))
}

/// Listens where other commands of the host look for the pod.
fn listen(state_dir: &Path) -> anyhow::Result<UnixListener> {
    let directory = File::open(state_dir).context("cannot open the state directory")?;
    UnixListener::bind(session::short_path(&directory, POD_SOCKET)).context("cannot make the pod's socket")
}

fn dup_stderr() -> io::Result<File> {
    Ok(File::from(io::stderr().as_fd().try_clone_to_owned()?))
}
