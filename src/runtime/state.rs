//! The state directory of a container: the claim on its ID, and what other commands may know of it.
//!
//! `<root>/<id>/` holds
//! - `lock`, locked by everybody who keeps the container alive: the command that makes it, and the process that
//!   callers take for it (they share one open file);
//! - `state.json`, the [`Record`];
//! - `config.json`, as it was when the container was made;
//! - `timeline.jsonl`, once it is there: how its launch went ([`super::timeline`]);
//! - `resolv.conf`, if the container is its pod's first and crx makes the pod's network: what its containers have of that name;
//! - `pod.sock`, if the container is its pod's first: where commands reach the pod.
//!
//! A directory whose lock nobody holds is a container that has stopped; if nobody is to delete it (an attached `run`, or
//! a `create` that did not come to its end) the next command removes it. `<root>/.lock` orders the commands that create and
//! collect.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use crx_proto::Hook;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::channel::{Annotations, Command, Report, Status};
use super::{cgroup, channel, log, network, session};

/// Name of the socket on which a pod hears commands.
pub(crate) const POD_SOCKET: &str = "pod.sock";
/// How long a pod may take to say how a container is.
const PATIENCE: Duration = Duration::from_secs(10);
/// Name of the record.
const RECORD: &str = "state.json";
/// Name of the container's configuration.
const CONFIG: &str = "config.json";
/// Name of the record of its launch.
const TIMELINE: &str = "timeline.jsonl";

/// What a container's state directory says of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Its ID.
    pub(crate) id: String,
    /// The process that callers take for it, once it is there.
    pub(crate) pid: Option<u32>,
    /// It was made: from here on it can be started.
    pub(crate) made: bool,
    /// Its bundle.
    pub(crate) bundle: PathBuf,
    /// Its root file system.
    pub(crate) rootfs: PathBuf,
    /// When it was made, as RFC 3339 has it.
    pub(crate) created: String,
    /// Annotations of its config.json.
    pub(crate) annotations: Annotations,
    /// ID of its pod's first container.
    pub(crate) pod: String,
    /// Cgroups of the host that were made for it.
    pub(crate) cgroups: Vec<PathBuf>,
    /// The host's network namespace whose interfaces are its pod's, if it is the first and has one.
    pub(crate) network: Option<PathBuf>,
    /// It stays when it has stopped, until it is deleted.
    pub(crate) stays: bool,
    /// `hooks.poststart`.
    pub(crate) poststart: Vec<Hook>,
    /// `hooks.poststop`.
    pub(crate) poststop: Vec<Hook>,
}

impl Record {
    /// The state as the runtime specification has it.
    pub(crate) fn oci_state(&self, status: Status) -> serde_json::Value {
        let mut state = serde_json::json!({
            "ociVersion": crx_oci::SPEC_VERSION,
            "id": self.id,
            "status": status.to_string(),
            "bundle": self.bundle,
            "annotations": self.annotations,
        });
        if let Some(pid) = self.pid.filter(|_| !matches!(status, Status::Creating | Status::Stopped)) {
            state["pid"] = pid.into();
        }
        state
    }
}

/// Where the state of containers is kept: what the caller says, or the user's runtime directory.
pub(crate) fn root(from_caller: Option<&Path>) -> PathBuf {
    if let Some(root) = from_caller {
        return root.to_path_buf();
    }
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/run/crx");
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(directory) => Path::new(&directory).join("crx"),
        None => std::env::temp_dir().join(format!("crx-{}", rustix::process::geteuid().as_raw())),
    }
}

/// A claimed ID; dropped, it gives the ID back and leaves nothing.
pub(crate) struct StateDir {
    path: PathBuf,
    lock: File,
}

impl StateDir {
    /// Claims an ID, after removing what dead containers left.
    ///
    /// # Errors
    /// The ID is in use, or the directory cannot be made.
    pub(crate) fn claim(root: &Path, id: &str) -> anyhow::Result<Self> {
        let failed = || format!("cannot write the state directory {}", root.display());
        // What is in them (environment, sockets) is nobody else's.
        let private = |recursive| {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(recursive).mode(0o700);
            builder
        };
        private(true).create(root).with_context(failed)?;
        let _order = order(root)?;
        collect(root).with_context(failed)?;
        let path = root.join(id);
        match private(false).create(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => bail!("container ID {id:?} is in use"),
            made => made.with_context(failed)?,
        }
        match lock_new(&path) {
            Ok(lock) => Ok(Self { path, lock }),
            Err(error) => {
                // Half a claim is none; the next command would collect it, but nothing has to wait for that.
                let _ = fs::remove_dir_all(&path);
                Err(error).with_context(failed)
            }
        }
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The lock, for the child to inherit.
    pub(crate) fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// Writes the record, whole or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&self, record: &Record) -> anyhow::Result<()> {
        write_atomically(&self.path.join(RECORD), &serde_json::to_vec_pretty(record)?)
    }

    /// Keeps the container's configuration for later commands.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn keep_config(&self, config: &[u8]) -> anyhow::Result<()> {
        write_atomically(&self.path.join(CONFIG), config)
    }

    /// Where its launch is recorded.
    pub(crate) fn timeline_path(&self) -> PathBuf {
        self.path.join(TIMELINE)
    }

    /// Leaves the directory to whoever deletes the container.
    pub(crate) fn leave(mut self) {
        self.path = PathBuf::new();
    }
}

/// A container that is there.
pub(crate) struct Container {
    pub(crate) record: Record,
    directory: PathBuf,
    root: PathBuf,
}

impl Container {
    /// Finds a container.
    ///
    /// # Errors
    /// There is none of this ID.
    pub(crate) fn find(root: &Path, id: &str) -> anyhow::Result<Self> {
        crx_oci::container_id(id)?;
        let directory = root.join(id);
        let text = match fs::read(directory.join(RECORD)) {
            Err(error) if error.kind() == ErrorKind::NotFound => bail!("container {id:?} does not exist"),
            read => read.with_context(|| format!("cannot read {}", directory.join(RECORD).display()))?,
        };
        let record: Record = serde_json::from_slice(&text).with_context(|| {
            format!("{}: not written by this version of crx", directory.join(RECORD).display())
        })?;
        let container = Self { record, directory, root: root.to_path_buf() };
        if !container.record.stays && !container.is_alive() {
            bail!("container {id:?} does not exist");
        }
        Ok(container)
    }

    /// The first container of its pod.
    ///
    /// # Errors
    /// It is gone.
    pub(crate) fn pod(self) -> anyhow::Result<Self> {
        if self.record.pod == self.record.id {
            return Ok(self);
        }
        Self::find(&self.root, &self.record.pod)
            .with_context(|| format!("the pod of container {:?} is gone", self.record.id))
    }

    /// Every container below `root`, by ID.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub(crate) fn all(root: &Path) -> anyhow::Result<Vec<Self>> {
        let entries = match fs::read_dir(root) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("cannot read {}", root.display()))?,
        };
        let mut ids: Vec<String> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        ids.sort();
        // What is deleted or half made while this looks is not there.
        Ok(ids.iter().filter_map(|id| Self::find(root, id).ok()).collect())
    }

    /// Its configuration, as it was when it was made.
    pub(crate) fn config_path(&self) -> PathBuf {
        self.directory.join(CONFIG)
    }

    /// Its bundle, likewise.
    ///
    /// # Errors
    /// The configuration cannot be read.
    pub(crate) fn bundle(&self) -> anyhow::Result<crx_oci::Bundle> {
        let Record { bundle, rootfs, .. } = &self.record;
        Ok(crx_oci::Bundle::kept(&self.config_path(), bundle, rootfs)?)
    }

    /// Gives it other limits, and keeps them in its configuration.
    ///
    /// # Errors
    /// `resources`, JSON as `linux.resources` has it, cannot be honoured, or the pod refuses.
    pub(crate) fn update(&self, resources: &[u8]) -> anyhow::Result<()> {
        let update = crx_oci::update(&self.bundle()?, resources)?;
        update.warnings.iter().for_each(|warning| log::warning(warning));
        let container = self.record.id.clone();
        self.ask(&Command::Update { container, limits: Box::new(update.limits) })?;
        write_atomically(&self.config_path(), &update.config_json)
    }

    /// Where its launch is recorded.
    pub(crate) fn timeline_path(&self) -> PathBuf {
        self.directory.join(TIMELINE)
    }

    /// Its process on the host is there, or somebody is about to make it.
    pub(crate) fn is_alive(&self) -> bool {
        // Whatever cannot be read any more is not.
        is_dead(&self.directory).is_ok_and(|dead| !dead)
    }

    /// How it is, as its pod says; one whose process is gone has stopped.
    pub(crate) fn status(&self) -> Status {
        if !self.is_alive() {
            return Status::Stopped;
        }
        let asked = self.connect().and_then(|pod| {
            pod.set_read_timeout(Some(PATIENCE))?;
            pod.set_write_timeout(Some(PATIENCE))?;
            channel::send(&pod, &Command::Status(self.record.id.clone()), &[])?;
            Ok(channel::receive::<Report>(&pod)?.0)
        });
        match asked {
            Ok(Report::Status(status)) if status != Status::Creating => status,
            // A pod that does not answer is there, and so is what it runs. Only `delete --force` will help.
            // It was made: a pod that does not know it any more, or does not listen any more, has seen its end. What is left
            // of it passes on its last words.
            Err(error) if is_timeout(&error) => Status::Running,
            _ if self.record.made => Status::Stopped,
            // Its pod does not listen yet.
            _ if self.is_alive() => Status::Creating,
            _ => Status::Stopped,
        }
    }

    /// Connects to its pod.
    ///
    /// # Errors
    /// The pod is gone, or not there yet.
    pub(crate) fn connect(&self) -> anyhow::Result<UnixStream> {
        connect(&self.root, &self.record.pod)
    }

    /// Asks its pod for something.
    ///
    /// # Errors
    /// The container is not there any more, or the pod refuses.
    pub(crate) fn ask(&self, command: &Command) -> anyhow::Result<Report> {
        self.ask_with(command, &[])
    }

    /// As [`Self::ask`], with descriptors.
    ///
    /// # Errors
    /// Likewise.
    pub(crate) fn ask_with(&self, command: &Command, descriptors: &[OwnedFd]) -> anyhow::Result<Report> {
        if !self.is_alive() {
            bail!("container not running");
        }
        log::debug(&format!("asking the pod {:?} for container {:?}", self.record.pod, self.record.id));
        let pod = self.connect()?;
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        channel::send(&pod, command, &descriptors)?;
        match channel::receive(&pod).context("the pod of the container is gone")?.0 {
            Report::Failed(failure) => bail!("{}", failure.message),
            report => Ok(report),
        }
    }

    /// Waits until it has ended in its pod, over a connection on which `Watch` was sent, but not for ever: what is left
    /// of it there is no matter of the host.
    pub(crate) fn wait_for_end(pod: &UnixStream) -> anyhow::Result<()> {
        pod.set_read_timeout(Some(PATIENCE))?;
        while let Ok((Report::Answer(_) | Report::OutOfMemory, _)) = channel::receive(pod) {}
        Ok(())
    }

    /// Waits until its process is gone.
    ///
    /// # Errors
    /// The lock cannot be waited for.
    pub(crate) fn wait_until_dead(&self) -> anyhow::Result<()> {
        match File::open(self.directory.join("lock")) {
            Ok(lock) => Ok(retry(|| flock(&lock, FlockOperation::LockShared))?),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes what is left of it, which has stopped. `false`: somebody else did, and its ID may be another's by now.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(crate) fn remove(self) -> anyhow::Result<bool> {
        let _order = order(&self.root)?;
        let record = fs::read(self.directory.join(RECORD)).ok();
        let record = record.and_then(|text| serde_json::from_slice::<Record>(&text).ok());
        if record.is_none_or(|record| record.created != self.record.created) {
            return Ok(false);
        }
        remove(&self.directory).with_context(|| format!("cannot remove {}", self.directory.display()))?;
        Ok(true)
    }
}

/// Where the resolv.conf of the containers of a pod is, if crx makes one for them.
pub(crate) fn resolv_conf(root: &Path, pod: &str) -> PathBuf {
    root.join(pod).join("resolv.conf")
}

/// Connects to the pod whose first container has this ID.
///
/// # Errors
/// It is not there.
pub(crate) fn connect(root: &Path, pod: &str) -> anyhow::Result<UnixStream> {
    let reach = || {
        let directory = File::open(root.join(pod))?;
        UnixStream::connect(session::short_path(&directory, POD_SOCKET))
    };
    reach().with_context(|| format!("cannot reach the pod of container {pod:?}"))
}

/// Removes a state directory, and the cgroups and the way to the interfaces that its record names.
fn remove(directory: &Path) -> io::Result<()> {
    let record = fs::read(directory.join(RECORD)).ok();
    if let Some(record) = record.and_then(|text| serde_json::from_slice::<Record>(&text).ok()) {
        cgroup::remove(&record.cgroups);
        if let Some(path) = &record.network {
            // Whoever comes next to the namespace does the same.
            let _ = network::part(path);
        }
    }
    fs::remove_dir_all(directory)
}

/// Takes the lock that orders the commands which create and collect.
fn order(root: &Path) -> anyhow::Result<File> {
    let failed = || format!("cannot write the state directory {}", root.display());
    let order = File::create(root.join(".lock")).with_context(failed)?;
    retry(|| flock(&order, FlockOperation::LockExclusive)).with_context(failed)?;
    Ok(order)
}

impl Drop for StateDir {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // What cannot be removed now is removed by the next command, which sees the lock free.
            let _order = self.path.parent().map(order);
            let _ = remove(&self.path);
        }
    }
}

/// Writes a file whole or not at all.
///
/// # Errors
/// It cannot be written; an older one is still there then.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let result = File::create(&partial)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&partial, path))
        .with_context(|| format!("cannot write {}", path.display()));
    if result.is_err() {
        let _ = fs::remove_file(&partial);
    }
    result
}

fn lock_new(directory: &Path) -> io::Result<File> {
    let lock = File::create_new(directory.join("lock"))?;
    // Somebody may just be looking whether it is locked.
    retry(|| flock(&lock, FlockOperation::LockExclusive))?;
    Ok(lock)
}

/// Removes the directories of containers that are dead and that nobody is to delete. The caller holds `<root>/.lock`.
fn collect(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let collect = || -> io::Result<()> {
            if entry.file_type()?.is_dir() && is_dead(&entry.path())? && !stays(&entry.path()) {
                remove(&entry.path())?;
            }
            Ok(())
        };
        match collect() {
            // It went by itself meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            result => result?,
        }
    }
    Ok(())
}

/// The pod did not answer in time.
fn is_timeout(error: &anyhow::Error) -> bool {
    let is_timeout = |error: &io::Error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
    error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(is_timeout)
}

/// The record says that somebody is to delete the container.
fn stays(directory: &Path) -> bool {
    let record = fs::read(directory.join(RECORD)).ok();
    record.and_then(|text| serde_json::from_slice::<Record>(&text).ok()).is_some_and(|record| record.stays)
}

fn is_dead(directory: &Path) -> io::Result<bool> {
    match File::open(directory.join("lock")) {
        Ok(lock) => match flock(&lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        },
        // Claims are made under `<root>/.lock`: whoever made this directory died before it made the lock. But
        // a directory that is not ours to begin with is left alone.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(fs::read_dir(directory)?.next().is_none()),
        Err(error) => Err(error),
    }
}

fn retry(mut call: impl FnMut() -> rustix::io::Result<()>) -> rustix::io::Result<()> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("crx-state-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        directory
    }

    #[test]
    fn an_id_is_claimed_once_and_free_afterwards() {
        let root = scratch("claim");
        let first = StateDir::claim(&root, "a").unwrap();
        assert_eq!(fs::metadata(first.path()).unwrap().permissions().mode() & 0o777, 0o700);
        let second = StateDir::claim(&root, "a").err().unwrap();
        assert_eq!(second.to_string(), "container ID \"a\" is in use");
        drop(first);
        assert!(!root.join("a").exists());
        drop(StateDir::claim(&root, "a").unwrap());
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn what_a_dead_container_left_is_collected_by_the_next_claim() {
        let root = scratch("collect");
        for (name, file) in [("dead", "lock"), ("half", ""), ("foreign", "precious")] {
            fs::create_dir_all(root.join(name)).unwrap();
            if !file.is_empty() {
                fs::write(root.join(name).join(file), "").unwrap();
            }
        }
        let alive = StateDir::claim(&root, "alive").unwrap();
        let _other = StateDir::claim(&root, "other").unwrap();
        assert!(!root.join("dead").exists() && !root.join("half").exists());
        assert!(alive.path().exists(), "a live one stays");
        assert!(root.join("foreign/precious").exists(), "what is not ours stays");
        drop(alive);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_container_that_was_made_and_is_not_in_its_pod_any_more_has_stopped() {
        let root = scratch("ending");
        let alive = StateDir::claim(&root, "a").unwrap();
        let mut record = Record {
            id: "a".to_owned(),
            pid: Some(1),
            made: false,
            bundle: PathBuf::new(),
            rootfs: PathBuf::new(),
            created: String::new(),
            annotations: Annotations::new(),
            pod: "a".to_owned(),
            cgroups: Vec::new(),
            network: None,
            stays: false,
            poststart: Vec::new(),
            poststop: Vec::new(),
        };
        for (made, status) in [(false, Status::Creating), (true, Status::Stopped)] {
            record.made = made;
            alive.write(&record).unwrap();
            let container = Container::find(&root, "a").unwrap();
            assert_eq!((container.status(), container.is_alive()), (status, true));
        }
        drop(alive);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_written_leaves_nothing() {
        let root = scratch("atomic");
        fs::create_dir_all(root.join("target/occupied")).unwrap();
        assert!(write_atomically(&root.join("target"), b"x").is_err());
        assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
        fs::remove_dir_all(&root).unwrap();
    }
}
