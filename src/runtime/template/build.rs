//! Making a template. The process that boots the guest is one of its own, as a pod's is; it ends with its guest, or with
//! whoever started it.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use crx_proto::FrameError;
use crx_vmm::{Vm, VmConfig};
use rustix::io::{FdFlags, fcntl_setfd};
use serde::{Deserialize, Serialize};

use super::key::Key;
use super::store::Store;
use super::{MEMORY_MIB, VCPUS};
use crate::runtime::channel::{self, Failure, Report, Role};
use crate::runtime::{exit, log, pod};

/// How long it may take before a terminal is told; and how often that is said anew.
const PATIENCE: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(500);

/// What a template is to be made of. Beside it, as a descriptor: the file for its memory.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct NewTemplate {
    /// The guest's kernel.
    pub(crate) kernel: PathBuf,
    /// The guest's first process.
    pub(crate) initramfs: PathBuf,
    /// An empty directory: the guest's share.
    pub(crate) share: PathBuf,
    /// For pods with network interfaces.
    pub(crate) network: bool,
}

/// Makes the template of a key, unless another process has just done so.
///
/// # Errors
/// The store cannot be written, or the guest does not come to its moment. Nothing is left behind.
pub(crate) fn build(
    store: &Store,
    key: &Key,
    kernel: PathBuf,
    initramfs: PathBuf,
    network: bool,
) -> anyhow::Result<()> {
    let _lock = store.lock()?;
    if store.find(key)?.is_some() {
        return Ok(());
    }
    log::debug(&format!("making template {}", key.name()));
    let unfinished = store.begin()?;
    let failed = || format!("cannot write {}", unfinished.path().display());
    let memory = unfinished.memory().with_context(failed)?;
    let share = unfinished.path().join("share");
    std::fs::create_dir(&share).with_context(failed)?;
    let state = boot(&NewTemplate { kernel, initramfs, share: share.clone(), network }, key, &memory)?;
    std::fs::remove_dir(&share).with_context(failed)?;
    store.finish(unfinished, key, &state)
}

/// Boots a guest in a process of its own and has its snapshot taken; the file of the state.
fn boot(new: &NewTemplate, key: &Key, memory: &File) -> anyhow::Result<Vec<u8>> {
    let (socket, inherited) = UnixStream::pair()?;
    fcntl_setfd(&inherited, FdFlags::empty())?;
    let number = inherited.as_raw_fd().to_string();
    let child = Command::new("/proc/self/exe")
        .arg0("crx")
        .args(["vmm", "template", "--channel", &number])
        .spawn()
        .context("cannot start the process that makes a template")?;
    drop(inherited);
    let _ended = Ended(child);
    let role = Role::Template { new: new.clone(), label: key.label() };
    channel::send(&socket, &role, &[memory.as_fd()]).context("the process that makes a template")?;
    let waiting = Waiting::begin()?;
    match channel::receive(&socket) {
        Ok((Report::Template(state), _)) => Ok(state),
        Ok((Report::Failed(failure), _)) => {
            drop(waiting);
            failure.console.iter().for_each(|line| log::detail(line));
            bail!("cannot make a template: {}", failure.message)
        }
        Ok(_) => bail!("the process that makes a template says what it should not"),
        Err(FrameError::Closed) => bail!("the process that makes a template died"),
        Err(error) => Err(error).context("the process that makes a template"),
    }
}

/// Ends the process, whatever it is at, and waits for it.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// On a terminal, tells that it takes its time, and takes that back.
struct Waiting {
    thread: Option<thread::JoinHandle<()>>,
    done: Option<Sender<()>>,
}

impl Waiting {
    fn begin() -> io::Result<Self> {
        if !io::stderr().is_terminal() {
            return Ok(Self { thread: None, done: None });
        }
        let (done, over) = channel();
        let thread = thread::Builder::new().name("crx-waiting".to_owned()).spawn(move || {
            let begun = Instant::now();
            let mut pause = PATIENCE;
            while over.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                eprint!("\rcrx: making a template of the pod's kernel, for this launch and all that follow ... {} s", begun.elapsed().as_secs());
                pause = TICK;
            }
            if begun.elapsed() >= PATIENCE {
                eprint!("\r\x1b[K");
            }
        })?;
        Ok(Self { thread: Some(thread), done: Some(done) })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.done.take());
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

/// The process that makes a template.
///
/// # Errors
/// Whoever started it cannot be told.
pub(crate) fn main(
    launcher: UnixStream,
    new: &NewTemplate,
    label: [u8; 32],
    memory: &File,
) -> anyhow::Result<u8> {
    let leash = launcher.try_clone()?;
    thread::Builder::new().name("crx-launcher".to_owned()).spawn(move || {
        // It says nothing more: this waits for its end.
        while channel::receive::<Role>(&leash).is_ok() {}
        std::process::exit(i32::from(exit::FAILURE));
    })?;
    let report = match take(new, label, memory) {
        Ok(state) => Report::Template(state),
        Err(error) => Report::Failed(Failure {
            exit_code: exit::FAILURE,
            message: format!("{error:#}"),
            console: Vec::new(),
        }),
    };
    channel::send(&launcher, &report, &[])?;
    Ok(exit::SUCCESS)
}

fn take(new: &NewTemplate, label: [u8; 32], memory: &File) -> anyhow::Result<Vec<u8>> {
    let open = |path: &PathBuf| File::open(path).with_context(|| format!("guest file {}", path.display()));
    let (guest_connections, connections) = channel();
    let running = Vm::new(VmConfig {
        kernel: open(&new.kernel)?,
        kernel_path: new.kernel.clone(),
        initramfs: open(&new.initramfs)?,
        initramfs_path: new.initramfs.clone(),
        memory_mib: MEMORY_MIB,
        vcpus: VCPUS,
        debug_console: None,
        extra_command_line: Vec::new(),
        for_snapshot: true,
        devices: pod::devices(new.share.clone(), guest_connections, new.network)?.0,
    })?
    .start()?;
    // PID 1 connects when its moment is over: a guest that knows of none is not waited for.
    let stopper = running.stopper();
    thread::Builder::new().name("crx-accept".to_owned()).spawn(move || {
        if connections.recv().is_ok() {
            stopper.stop();
        }
    })?;
    Ok(running.snapshot(memory)?.to_bytes(label)?)
}
