//! Where templates are kept: a directory for each, named by its key.
//!
//! ```text
//! lock            held by whoever makes or removes templates
//! KEY/state       header and state (crx_vmm::Snapshot)
//! KEY/memory      the guest's memory, sparse
//! KEY/made-of     what the key is of, for people
//! KEY/checked     in which boot of the host, and of which memory file, the content was found good; its
//!                 modification time is that of the last use
//! .build.PID/     one that is being made; whoever has the lock removes those of others
//! ```
//! The content is checked once in each boot of the host, and when the file changed; header, state and size at every launch.

use std::fs::{self, DirBuilder, File, FileTimes};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, bail};
use crx_vmm::{Header, Snapshot};
use rustix::fs::{FlockOperation, flock};

use super::Template;
use super::key::{Key, NAME_CHARACTERS, identity_of};
use crate::runtime::{log, state};

/// Most bytes of the disk that a store takes, unless its caller says otherwise.
pub(crate) const DEFAULT_LIMIT_MIB: u64 = 1024;

/// Most bytes that are read of a state; it has some 12 KiB.
const MAX_STATE_BYTES: u64 = 1 << 20;

const LOCK: &str = "lock";
const STATE: &str = "state";
const MEMORY: &str = "memory";
const MADE_OF: &str = "made-of";
const CHECKED: &str = "checked";
const UNFINISHED: &str = ".build.";

/// The templates of one user.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    path: PathBuf,
    limit_bytes: u64,
}

/// A template as `crx template list` shows it.
pub(crate) struct Entry {
    /// Name of its key.
    pub(crate) name: String,
    /// What it was made of.
    pub(crate) made_of: String,
    /// Its header, or why there is none.
    pub(crate) header: anyhow::Result<Header>,
    /// What it takes of the disk.
    pub(crate) disk_bytes: u64,
    /// When a pod was last made of it.
    pub(crate) used: SystemTime,
}

impl Store {
    /// The store of this user, or the one that the caller names.
    pub(crate) fn new(path: Option<&Path>, limit_mib: u64) -> Self {
        let path = path.map_or_else(default_path, Path::to_path_buf);
        Self { path, limit_bytes: limit_mib << 20 }
    }

    /// Its directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn directory(&self, key: &Key) -> PathBuf {
        self.path.join(key.name())
    }

    /// The template of a key, if it is there and good; one that is damaged counts as none, with a warning.
    ///
    /// # Errors
    /// The store is not to be trusted.
    pub(crate) fn find(&self, key: &Key) -> anyhow::Result<Option<Template>> {
        if !self.path.exists() {
            return Ok(None);
        }
        self.check_owner()?;
        Ok(open(&self.directory(key), key).unwrap_or_else(|error| {
            log::warning(&format!("template {}: {error:#}; it is made again", key.name()));
            None
        }))
    }

    /// Makes the store if it is not there, and takes its lock. What was left unfinished is removed.
    pub(crate) fn lock(&self) -> anyhow::Result<File> {
        let failed = || format!("template store {}", self.path.display());
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path).with_context(failed)?;
        self.check_owner()?;
        let lock = File::create(self.path.join(LOCK)).with_context(failed)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            log::debug("waiting for another crx that makes a template");
            flock(&lock, FlockOperation::LockExclusive).with_context(failed)?;
        }
        for entry in fs::read_dir(&self.path).with_context(failed)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(lock)
    }

    /// A guest is only as trustworthy as who can write its memory.
    fn check_owner(&self) -> anyhow::Result<()> {
        let metadata =
            self.path.metadata().with_context(|| format!("template store {}", self.path.display()))?;
        let own = metadata.uid() == rustix::process::geteuid().as_raw();
        if !own || metadata.mode() & 0o022 != 0 {
            bail!(
                "template store {}: others than this user can write it; chown and chmod it",
                self.path.display()
            );
        }
        Ok(())
    }

    /// A new directory for a template that is being made. The caller holds the lock.
    pub(super) fn begin(&self) -> anyhow::Result<Unfinished> {
        let path = self.path.join(format!("{UNFINISHED}{}", std::process::id()));
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Unfinished { path, finished: false })
    }

    /// A template is there under its key; others make room for it. The caller holds the lock.
    pub(super) fn finish(&self, mut unfinished: Unfinished, key: &Key, state: &[u8]) -> anyhow::Result<()> {
        let path = &unfinished.path;
        let failed = || format!("cannot write {}", path.display());
        fs::write(path.join(STATE), state).with_context(failed)?;
        fs::write(path.join(MADE_OF), key.text()).with_context(failed)?;
        let memory = File::open(path.join(MEMORY)).with_context(failed)?;
        fs::write(path.join(CHECKED), mark(&memory)?).with_context(failed)?;
        let directory = self.directory(key);
        // One that was not good; nobody else is here.
        self.discard(&directory)?;
        fs::rename(path, &directory).with_context(failed)?;
        unfinished.finished = true;
        self.evict(&key.name())
    }

    /// Removes the templates that were not used for the longest time until the rest is within the limit.
    fn evict(&self, keep: &str) -> anyhow::Result<()> {
        let mut entries = self.entries()?;
        entries.sort_by_key(|entry| entry.used);
        let mut total: u64 = entries.iter().map(|entry| entry.disk_bytes).sum();
        for entry in entries.iter().filter(|entry| entry.name != keep) {
            if total <= self.limit_bytes {
                break;
            }
            log::debug(&format!("template {} makes room", entry.name));
            self.discard(&self.path.join(&entry.name))?;
            total -= entry.disk_bytes;
        }
        Ok(())
    }

    /// Removes a template; pods that run from it keep its files until they end.
    fn discard(&self, directory: &Path) -> anyhow::Result<()> {
        let gone = self.path.join(format!("{UNFINISHED}gone.{}", std::process::id()));
        match fs::rename(directory, &gone) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed.and_then(|()| fs::remove_dir_all(&gone)),
        }
        .with_context(|| format!("cannot remove {}", directory.display()))
    }

    /// All templates.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) fn entries(&self) -> anyhow::Result<Vec<Entry>> {
        let failed = || format!("template store {}", self.path.display());
        let listed = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            listed => listed.with_context(failed)?,
        };
        let mut entries = Vec::new();
        for entry in listed {
            let entry = entry.with_context(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_name(&name) {
                entries.push(describe(name, &entry.path()));
            }
        }
        entries.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(entries)
    }

    /// Removes a template.
    ///
    /// # Errors
    /// There is none of this name, or it cannot be removed.
    pub(crate) fn remove(&self, name: &str) -> anyhow::Result<()> {
        let _lock = self.lock()?;
        self.discard(&self.named(name)?)
    }

    /// Checks all of a template, whatever was checked before.
    ///
    /// # Errors
    /// There is none of this name, or it is not as it was written.
    pub(crate) fn verify(&self, name: &str) -> anyhow::Result<()> {
        let directory = self.named(name)?;
        let (snapshot, memory) = read(&directory)?;
        snapshot.check_content(&memory).context(MEMORY)
    }

    fn named(&self, name: &str) -> anyhow::Result<PathBuf> {
        if !self.entries()?.iter().any(|entry| entry.name == name) {
            bail!("there is no template {name:?} in {}; crx template list shows all", self.path.display());
        }
        Ok(self.path.join(name))
    }
}

/// The directory of a template that is being made; dropped before it is finished, it goes.
pub(super) struct Unfinished {
    path: PathBuf,
    finished: bool,
}

impl Unfinished {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file for the memory.
    pub(super) fn memory(&self) -> io::Result<File> {
        File::options().read(true).write(true).create_new(true).open(self.path.join(MEMORY))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn default_path() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/crx/templates");
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    cache.or_else(home).unwrap_or_else(std::env::temp_dir).join("crx/templates")
}

/// Something in the store is a template: others may be there, such as a file system's lost+found.
fn is_name(name: &str) -> bool {
    name.len() == NAME_CHARACTERS && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Opens a template; `None` if it is not there.
fn open(directory: &Path, key: &Key) -> anyhow::Result<Option<Template>> {
    let state = match File::open(directory.join(STATE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.context(STATE)?,
    };
    let bytes = state_bytes(&state)?;
    if Header::parse(&bytes).context(STATE)?.label != key.label() {
        bail!("it was made of something else");
    }
    let snapshot = Snapshot::from_bytes(&bytes).context(STATE)?;
    let memory = File::open(directory.join(MEMORY)).context(MEMORY)?;
    snapshot.check_size(&memory).context(MEMORY)?;
    let mark = mark(&memory)?;
    let checked = directory.join(CHECKED);
    if fs::read_to_string(&checked).is_ok_and(|checked| checked == mark) {
        // The time of the last use: losing it costs nothing but a better choice.
        let now = FileTimes::new().set_modified(SystemTime::now());
        let _ = File::open(&checked).and_then(|file| file.set_times(now));
    } else {
        snapshot.check_content(&memory).context(MEMORY)?;
        // A store that cannot be written is checked at every launch.
        let _ = state::write_atomically(&checked, mark.as_bytes());
    }
    Ok(Some(Template { state, memory }))
}

/// What `checked` says when the content of a memory file has been checked.
fn mark(memory: &File) -> anyhow::Result<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("boot_id")?;
    Ok(format!("boot {}{}\n", boot, identity_of(&memory.metadata().context(MEMORY)?)))
}

/// Reads the state of a template.
pub(crate) fn snapshot(state: &File) -> anyhow::Result<Snapshot> {
    Snapshot::from_bytes(&state_bytes(state)?).context(STATE)
}

fn state_bytes(state: &File) -> anyhow::Result<Vec<u8>> {
    let size = state.metadata().context(STATE)?.len().min(MAX_STATE_BYTES);
    let mut bytes = vec![0; size as usize];
    // Not where the last reader of this open file stopped.
    state.read_exact_at(&mut bytes, 0).context(STATE)?;
    Ok(bytes)
}

fn read(directory: &Path) -> anyhow::Result<(Snapshot, File)> {
    let state = File::open(directory.join(STATE)).context(STATE)?;
    Ok((snapshot(&state)?, File::open(directory.join(MEMORY)).context(MEMORY)?))
}

fn describe(name: String, directory: &Path) -> Entry {
    let header =
        fs::read(directory.join(STATE)).context(STATE).and_then(|bytes| Header::parse(&bytes).context(STATE));
    let files = [STATE, MEMORY, MADE_OF, CHECKED].map(|file| directory.join(file).metadata());
    let disk_bytes = files.iter().flatten().map(|file| file.blocks() * 512).sum();
    let used = files[3].as_ref().ok().and_then(|file| file.modified().ok()).unwrap_or(SystemTime::UNIX_EPOCH);
    let made_of = fs::read_to_string(directory.join(MADE_OF)).unwrap_or_default();
    Entry { name, made_of, header, disk_bytes, used }
}
