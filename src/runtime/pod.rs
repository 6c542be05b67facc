//! The VMM child: one process per pod. It builds the share and the VM, talks to PID 1, relays the container's
//! streams and reports to its caller. Everything that the pod costs the host hangs off it, so its end, however
//! it comes, is the pod's end.
//!
//! Before: [`super::launch`] started it. Next: `crx_vmm::Vm`, and in the guest `crx-guest-init`.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::SystemTime;
use std::{io, thread};

use anyhow::{Context, bail};
use crx_proto::{ExitStatus, FrameError, GuestMessage, HostMessage, Stage, frame};
use crx_virtio::fs::FsConfig;
use crx_virtio::vsock::{GuestConnection, VsockConfig};
use crx_vmm::{DeviceConfig, End, RunningVm, Vm, VmConfig};
use rustix::termios::Termios;

use super::channel::{Command, Launch, Report};
use super::timeline::{Stamp, monotonic_ns};
use super::{exit, relay, share, terminal};
use crate::sys;

/// The guest's address. One pod per VMM process and no kernel vsock: every pod can have the same.
const GUEST_CID: u64 = 3;

/// Everything that the main thread waits for.
enum Event {
    /// PID 1 opened the control connection.
    Connected(UnixStream),
    Guest(GuestMessage),
    GuestLost(FrameError),
    Command(Command),
    /// stdout or stderr of the container was relayed to its end.
    Relayed,
    VmEnded(End),
}

/// Runs a pod from its caller's first message to its end.
///
/// # Errors
/// The caller cannot be heard or told; everything else is reported to it.
pub(crate) fn main(caller: UnixStream) -> anyhow::Result<()> {
    // A terminal's signals reach the whole process group: the caller forwards those that are meant for the container.
    for signal in [
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGHUP,
        libc::SIGTERM,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGALRM,
    ] {
        sys::ignore_signal(signal);
    }
    let started = Stamp::now("vmm: process started");
    let launch: Launch = frame::read(&caller)?;
    let terminal_mode = launch.plan.process.terminal.and_then(|_| terminal::mode());
    let (events, received) = channel();
    let report = caller.try_clone()?;
    let left = share::leave_host().context("cannot make a mount namespace for the pod");
    hear_caller(caller, events.clone(), terminal_mode)?;
    let last = match left.and_then(|()| boot(&launch, &events)) {
        Ok(stamps) => {
            let mut pod = Pod::new(launch, report.try_clone()?, events);
            pod.stamps.push(started);
            pod.stamps.extend(stamps);
            pod.run(&received)?
        }
        Err(error) => {
            Report::Failed { exit_code: exit::FAILURE, message: format!("{error:#}"), console: Vec::new() }
        }
    };
    Ok(frame::write(&report, &last)?)
}

/// Hears the caller on a thread of its own. When the caller is gone the process ends there and then, and gives the
/// terminal the mode back that it had.
fn hear_caller(caller: UnixStream, events: Sender<Event>, terminal_mode: Option<Termios>) -> io::Result<()> {
    thread::Builder::new().name("crx-caller".to_owned()).spawn(move || {
        while let Ok(command) = frame::read(&caller) {
            if events.send(Event::Command(command)).is_err() {
                return;
            }
        }
        if let Some(mode) = terminal_mode {
            // The caller made it raw and was killed. A shell may have the terminal back already.
            sys::ignore_signal(libc::SIGTTOU);
            terminal::set_mode(&mode);
        }
        std::process::exit(i32::from(exit::FAILURE));
    })?;
    Ok(())
}

/// Builds the share and the VM, confines the process to the share and starts the VM.
fn boot(launch: &Launch, events: &Sender<Event>) -> anyhow::Result<Vec<Stamp>> {
    let open =
        |path: &std::path::Path| File::open(path).with_context(|| format!("guest file {}", path.display()));
    let (kernel, initramfs) = (open(&launch.kernel)?, open(&launch.initramfs)?);
    let debug_console = launch.debug_console.then(|| dup_stderr().context("stderr")).transpose()?;
    share::build(launch)?;
    let mut stamps = vec![Stamp::now("vmm: share built")];
    let (guest_connections, accepted) = channel();
    let vm = Vm::new(VmConfig {
        kernel,
        kernel_path: launch.kernel.clone(),
        initramfs,
        initramfs_path: launch.initramfs.clone(),
        memory_mib: launch.memory_mib,
        vcpus: launch.vcpus,
        debug_console,
        extra_command_line: Vec::new(),
        devices: vec![
            DeviceConfig::Vsock(VsockConfig { guest_cid: GUEST_CID, host_listener: None, guest_connections }),
            DeviceConfig::Fs(FsConfig {
                tag: crx_proto::SHARE_TAG.to_owned(),
                root: launch.state_dir.clone(),
            }),
            DeviceConfig::Rng,
        ],
    })?;
    stamps.push(Stamp::now("vmm: VM built"));
    share::enter(&launch.state_dir)?;
    let running = vm.start()?;
    stamps.push(Stamp::now("vmm: VM started"));
    accept(accepted, launch.plan.process.terminal.is_some(), events.clone())?;
    watch(running, events.clone())?;
    Ok(stamps)
}

fn dup_stderr() -> io::Result<File> {
    use std::os::fd::AsFd;
    Ok(File::from(io::stderr().as_fd().try_clone_to_owned()?))
}

/// Sends the VM's end as an event.
fn watch(running: RunningVm, events: Sender<Event>) -> io::Result<()> {
    thread::Builder::new().name("crx-watch".to_owned()).spawn(move || {
        // The main thread may have left already.
        let _ = events.send(Event::VmEnded(running.wait()));
    })?;
    Ok(())
}

/// Gives every connection of PID 1 to its user.
///
/// PID 1 opens its connections before the container's first instruction; whatever else opens one is a process
/// of the container, and is hung up on.
fn accept(accepted: Receiver<GuestConnection>, terminal: bool, events: Sender<Event>) -> io::Result<()> {
    thread::Builder::new().name("crx-accept".to_owned()).spawn(move || {
        let mut taken = [false; 4];
        for GuestConnection { port, stream } in accepted {
            let Some(taken) =
                port.checked_sub(crx_proto::CONTROL_PORT).and_then(|n| taken.get_mut(n as usize))
            else {
                continue;
            };
            if std::mem::replace(taken, true) {
                continue;
            }
            if let Err(error) = connect(port, stream, terminal, &events) {
                let _ = events.send(Event::GuestLost(FrameError::Io(error)));
            }
        }
    })?;
    Ok(())
}

fn connect(port: u32, stream: UnixStream, terminal: bool, events: &Sender<Event>) -> io::Result<()> {
    let relayed = || {
        let events = events.clone();
        move || drop(events.send(Event::Relayed))
    };
    match port {
        crx_proto::CONTROL_PORT => {
            // The main thread may have left already, here and below.
            let _ = events.send(Event::Connected(stream.try_clone()?));
            hear_guest(stream, events.clone())
        }
        crx_proto::STDIN_PORT => relay::input(stream),
        crx_proto::STDERR_PORT => relay::output("crx-stderr", stream, io::stderr(), relayed()),
        crx_proto::STDOUT_PORT => {
            if terminal {
                relay::input(stream.try_clone()?)?;
            }
            relay::output("crx-stdout", stream, io::stdout(), relayed())
        }
        _ => Ok(()),
    }
}

fn hear_guest(stream: UnixStream, events: Sender<Event>) -> io::Result<()> {
    thread::Builder::new().name("crx-guest".to_owned()).spawn(move || {
        loop {
            let event = match frame::read(&stream) {
                Ok(message) => Event::Guest(message),
                Err(error) => Event::GuestLost(error),
            };
            let last = matches!(event, Event::GuestLost(_));
            if events.send(event).is_err() || last {
                return;
            }
        }
    })?;
    Ok(())
}

/// A pod whose VM runs.
struct Pod {
    launch: Launch,
    caller: UnixStream,
    control: Option<UnixStream>,
    /// Outputs that are still being relayed.
    outputs: usize,
    ended: Option<ExitStatus>,
    stamps: Vec<Stamp>,
    /// The guest's stages, on its own CLOCK_MONOTONIC in nanoseconds.
    guest_stages: Vec<(Stage, u64)>,
    /// Host's minus guest's CLOCK_MONOTONIC, in nanoseconds: the least that a stage's way to the host took.
    clock_offset_ns: i128,
    /// Keeps the channel open while no other thread sends.
    _events: Sender<Event>,
}

impl Pod {
    fn new(launch: Launch, caller: UnixStream, events: Sender<Event>) -> Self {
        let outputs = if launch.plan.process.terminal.is_some() { 1 } else { 2 };
        Self {
            launch,
            caller,
            control: None,
            outputs,
            ended: None,
            stamps: Vec::new(),
            guest_stages: Vec::new(),
            clock_offset_ns: i128::MAX,
            _events: events,
        }
    }

    /// Runs until the container's output is written, or the pod failed. The result is the last report.
    fn run(&mut self, events: &Receiver<Event>) -> anyhow::Result<Report> {
        loop {
            let event = events.recv().context("every thread of the pod ended")?;
            if let Some(last) = self.handle(event)? {
                return Ok(last);
            }
            if self.ended.is_some() && self.outputs == 0 {
                self.stamps.push(Stamp::now("vmm: output drained"));
                return Ok(Report::Drained(self.timeline()));
            }
        }
    }

    fn handle(&mut self, event: Event) -> anyhow::Result<Option<Report>> {
        match event {
            Event::Connected(stream) => self.control = Some(stream),
            Event::Guest(message) => return self.hear(message),
            Event::GuestLost(error) => {
                // The VM's own end tells more, and follows if that is why the connection broke.
                if !matches!(error, FrameError::Closed | FrameError::Io(_)) {
                    return Ok(Some(failed(format!("PID 1 of the pod broke the protocol: {error}"))));
                }
            }
            Event::Command(Command::Signal(signal)) => self.tell(&HostMessage::Signal(signal)),
            Event::Command(Command::Resize { rows, columns }) => {
                self.tell(&HostMessage::Resize { rows, columns })
            }
            Event::Relayed => self.outputs = self.outputs.saturating_sub(1),
            Event::VmEnded(end) => return Ok(Some(self.lost(end))),
        }
        Ok(None)
    }

    fn hear(&mut self, message: GuestMessage) -> anyhow::Result<Option<Report>> {
        match message {
            GuestMessage::Hello { version } => {
                if version != crx_proto::VERSION {
                    bail!(
                        "the initramfs speaks version {version} of the protocol, not {}",
                        crx_proto::VERSION
                    );
                }
                self.greet();
            }
            GuestMessage::Stage { stage, monotonic_ns: guest_ns } => {
                let offset_ns = i128::from(monotonic_ns()) - i128::from(guest_ns);
                self.clock_offset_ns = self.clock_offset_ns.min(offset_ns);
                self.guest_stages.push((stage, guest_ns));
            }
            GuestMessage::Started { .. } => {
                crx_vmm::allow_huge_pages(true);
                frame::write(&self.caller, &Report::Started)?;
            }
            GuestMessage::StartFailed(error) => {
                return Ok(Some(Report::Failed {
                    exit_code: error.exit_code,
                    message: error.message,
                    console: Vec::new(),
                }));
            }
            GuestMessage::Exited(status) => {
                self.ended = Some(status);
                frame::write(&self.caller, &Report::Ended(status))?;
            }
            GuestMessage::Log(text) => frame::write(&self.caller, &Report::Warning(text))?,
        }
        Ok(None)
    }

    /// Host's and guest's stages, all on the host's clock.
    fn timeline(&self) -> Vec<Stamp> {
        let on_host = |(stage, guest_ns): &(Stage, u64)| Stamp {
            stage: format!("guest: {stage:?}").to_lowercase(),
            monotonic_ns: u64::try_from(i128::from(*guest_ns) + self.clock_offset_ns).unwrap_or(0),
        };
        self.stamps.iter().cloned().chain(self.guest_stages.iter().map(on_host)).collect()
    }

    /// Sets the guest's clock and hands the container over.
    fn greet(&mut self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let realtime_ns = u64::try_from(now.as_nanos()).unwrap_or(0);
        self.tell(&HostMessage::SetClock { realtime_ns });
        self.tell(&HostMessage::Start(Box::new(self.launch.plan.clone())));
        self.stamps.push(Stamp::now("vmm: plan sent"));
    }

    /// Sends a message. A connection that broke is told by its reader, so nothing is lost here.
    fn tell(&mut self, message: &HostMessage) {
        if let Some(control) = &self.control {
            let _ = frame::write(control, message);
        }
    }

    fn lost(&self, end: End) -> Report {
        let console = match &end {
            End::Panic { log } => log.lines().map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        Report::Failed { exit_code: exit::FAILURE, message: format!("the pod ended: {end}"), console }
    }
}

fn failed(message: String) -> Report {
    Report::Failed { exit_code: exit::FAILURE, message, console: Vec::new() }
}
