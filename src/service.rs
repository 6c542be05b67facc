//! Containers for a caller that lives as long as they do: the shim of containerd (package `crx-shim`). The same runtime as
//! the command's, without its printing, signals and standard streams.
//!
//! A process is ended when its [`Process`] is dropped, and with the caller.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::bail;
use crx_proto::Answer;

use crate::cli::launching;
pub use crate::cli::launching::{POD_ANNOTATION, SANDBOX_ANNOTATIONS};
use crate::runtime::attended::{Attended, Remote};
use crate::runtime::channel::{Command, Report};
use crate::runtime::host_process::{Given, Streams};
use crate::runtime::launch::{self, Caller, Follow};
use crate::runtime::settings::Settings;
use crate::runtime::state::Container;
use crate::runtime::template::{DEFAULT_LIMIT_MIB, Store};
use crate::runtime::{cgroup, exit, log, removal};

/// The containers whose state is kept in one directory.
pub struct Service {
    settings: Settings,
}

/// Files that are a process's standard streams; `/dev/null` where there is none. With a terminal, which is the pod's, its
/// bytes go through the first two.
#[derive(Default)]
pub struct Stdio {
    /// Standard input.
    pub stdin: Option<File>,
    /// Standard output.
    pub stdout: Option<File>,
    /// Standard error.
    pub stderr: Option<File>,
}

/// A process that was made.
pub struct Process(Attended);

/// A way to tell a process something while another thread waits for its end.
pub struct Control(Remote);

impl Service {
    /// Containers with their state below `root`. The guest's files and the templates are where `crx` has them by default, or
    /// where `$CRX_GUEST_DIR` and `$CRX_TEMPLATES` say.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        let path = |name| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        let templates = Store::new(path("CRX_TEMPLATES").as_deref(), DEFAULT_LIMIT_MIB);
        let cgroups = cgroup::Manner::new(false, cgroup::Rootless::False);
        Self { settings: Settings { root, guest_dir: path("CRX_GUEST_DIR"), templates, cgroups } }
    }

    /// Makes the container of a bundle, which [`Service::start`] then starts. It joins the pod that its annotations or
    /// namespaces name, or has one of its own.
    ///
    /// # Errors
    /// The bundle cannot be honoured, or this host cannot run it. Nothing is left.
    pub fn create(&self, id: &str, bundle: &Path, stdio: Stdio) -> anyhow::Result<Process> {
        let arguments = launching::Arguments::of_bundle(id, bundle);
        let caller = Caller { follow: Follow::UntilCreated, pid_file: None, streams: stdio.into() };
        let request = launching::request(&self.settings, &arguments, caller)?;
        Ok(Process(launch::attended_container(request)?))
    }

    /// Starts a container.
    ///
    /// # Errors
    /// Its program cannot be executed, or it was started before.
    pub fn start(&self, id: &str) -> anyhow::Result<()> {
        launch::start(&self.find(id)?)
    }

    /// Executes `process`, JSON as config.json has it, in a container.
    ///
    /// # Errors
    /// It cannot be honoured or executed.
    pub fn exec(&self, id: &str, process: &[u8], stdio: Stdio) -> anyhow::Result<Process> {
        let container = self.find(id)?;
        let plan = crx_oci::exec_plan_of(&container.bundle()?, process)?;
        Ok(Process(launch::attended_exec(&container, plan, stdio.into())?))
    }

    /// Sends a container a signal.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&self, id: &str, signal: u8, everybody: bool) -> anyhow::Result<()> {
        self.order(id, |container| Command::Kill { container, signal, everybody })
    }

    /// Stops all processes of a container.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&self, id: &str) -> anyhow::Result<()> {
        self.order(id, Command::Pause)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// It is not paused.
    pub fn resume(&self, id: &str) -> anyhow::Result<()> {
        self.order(id, Command::Resume)
    }

    /// Gives a container other limits: JSON, as `linux.resources` has them.
    ///
    /// # Errors
    /// They cannot be honoured.
    pub fn update(&self, id: &str, resources: &[u8]) -> anyhow::Result<()> {
        self.find(id)?.update(resources)
    }

    /// The accounting files of a container's cgroup in its pod, by their names (`memory.current`, `cpu.stat`, ...). Their texts come
    /// from the guest.
    ///
    /// # Errors
    /// It does not run.
    pub fn accounting(&self, id: &str) -> anyhow::Result<Vec<(String, String)>> {
        match self.find(id)?.ask(&Command::Usage(id.to_owned()))? {
            Report::Answer(Answer::Usage(files)) => Ok(files),
            _ => bail!("the pod gave no answer"),
        }
    }

    /// A container's processes, by their numbers in its pod.
    ///
    /// # Errors
    /// It does not run.
    pub fn pids(&self, id: &str) -> anyhow::Result<Vec<u32>> {
        match self.find(id)?.ask(&Command::Processes(id.to_owned()))? {
            Report::Answer(Answer::Processes(processes)) => {
                Ok(processes.iter().map(|process| process.pid).collect())
            }
            _ => bail!("the pod gave no answer"),
        }
    }

    /// Removes what is left of a container that has stopped or was not started; `force` kills it before, and one that is not
    /// there is no error then.
    ///
    /// # Errors
    /// It runs, or cannot be removed.
    pub fn delete(&self, id: &str, force: bool) -> anyhow::Result<()> {
        match self.find(id) {
            Err(_) if force => Ok(()),
            container => removal::delete(container?, force),
        }
    }

    /// The process of the host that stands for a container.
    #[must_use]
    pub fn pid(&self, id: &str) -> Option<u32> {
        self.find(id).ok()?.record.pid
    }

    fn find(&self, id: &str) -> anyhow::Result<Container> {
        Container::find(&self.settings.root, id)
    }

    fn order(&self, id: &str, command: impl FnOnce(String) -> Command) -> anyhow::Result<()> {
        self.find(id)?.ask(&command(id.to_owned())).map(drop)
    }
}

impl Process {
    /// The process of the host that stands for it, which ends with it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// A way to tell it something while another thread waits for its end.
    ///
    /// # Errors
    /// This process has no descriptors left.
    pub fn control(&self) -> anyhow::Result<Control> {
        Ok(Control(self.0.remote()?))
    }

    /// Waits until it has ended and its output is written; its exit code, 128 + n for signal n. `out_of_memory` is called
    /// whenever memory runs out in the container.
    pub fn wait(self, out_of_memory: impl FnMut()) -> u8 {
        self.0.wait(out_of_memory)
    }
}

impl Control {
    /// Sends it a signal. One that has ended does not hear it.
    pub fn signal(&self, signal: u8) {
        self.0.signal(signal);
    }

    /// Gives its terminal another size, likewise.
    pub fn resize(&self, rows: u16, columns: u16) {
        self.0.resize(rows, columns);
    }
}

impl From<Stdio> for Streams {
    fn from(Stdio { stdin, stdout, stderr }: Stdio) -> Self {
        Self::Given(Given { stdin, stdout, stderr })
    }
}

/// The exit code that `crx run` would give for an error: 126 and 127 for a program that cannot be executed or is not there.
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> u8 {
    exit::of_error(error)
}

/// Says on stderr what a person should know, as one line.
pub fn warn(text: &str) {
    log::warning(text);
}
