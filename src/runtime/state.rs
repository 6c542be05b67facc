//! The state directory of a container: the claim on its ID, and what other commands may know of it.
//!
//! `<root>/<id>/` holds `lock`, locked by everybody who keeps the container alive (the command and its VMM
//! child share one open file), and `state.json`. A directory whose lock nobody holds is what a killed container left:
//! the next command removes it. `<root>/.lock` orders the commands that create and collect.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};

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

/// A claimed ID; dropping it gives the ID back and leaves nothing.
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
        fs::create_dir_all(root).with_context(failed)?;
        let order = File::create(root.join(".lock")).with_context(failed)?;
        retry(|| flock(&order, FlockOperation::LockExclusive)).with_context(failed)?;
        collect(root).with_context(failed)?;
        let path = root.join(id);
        match fs::create_dir(&path) {
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

    /// Writes `state.json`, whole or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&self, state: &serde_json::Value) -> anyhow::Result<()> {
        write_atomically(&self.path.join("state.json"), format!("{state:#}\n").as_bytes())
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next command, which sees the lock free.
        let _ = fs::remove_dir_all(&self.path);
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
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    Ok(lock)
}

/// Removes the directories whose containers are dead. The caller holds `<root>/.lock`.
fn collect(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && is_dead(&entry.path())? {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn is_dead(directory: &Path) -> io::Result<bool> {
    match File::open(directory.join("lock")) {
        Ok(lock) => match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
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
    fn a_file_that_cannot_be_written_leaves_nothing() {
        let root = scratch("atomic");
        fs::create_dir_all(root.join("target/occupied")).unwrap();
        assert!(write_atomically(&root.join("target"), b"x").is_err());
        assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
        fs::remove_dir_all(&root).unwrap();
    }
}
