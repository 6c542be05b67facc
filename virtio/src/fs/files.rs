//! What the guest has open. Before this, OPEN or OPENDIR opened a file of the host; this gives it a number that is
//! never used twice and belongs to one node; READ, WRITE, READDIR and the like find it here.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::request::{RawEntry, raw_entry};
use super::sys;

/// Bytes of directory records taken from the host at once.
const DIRECTORY_BUFFER_BYTES: usize = 32 << 10;

/// An open file or directory.
pub(super) struct Open {
    node: u64,
    what: What,
}

enum What {
    File(OwnedFd),
    Directory(Mutex<Directory>),
}

/// An open directory and what was read of it but not given to the guest yet.
pub(super) struct Directory {
    fd: OwnedFd,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The cookie of the record at `start`.
    position: u64,
}

#[derive(Default)]
struct Table {
    open: HashMap<u64, Arc<Open>>,
    last_id: u64,
}

/// All open files.
pub(super) struct Files {
    table: Mutex<Table>,
    max: usize,
}

impl Open {
    /// The open file, whatever it is.
    pub(super) fn with_fd<T>(&self, work: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        match &self.what {
            What::File(fd) => work(fd.as_fd()),
            What::Directory(directory) => {
                work(directory.lock().unwrap_or_else(PoisonError::into_inner).fd.as_fd())
            }
        }
    }

    /// The regular file.
    pub(super) fn file(&self) -> io::Result<&OwnedFd> {
        match &self.what {
            What::File(fd) => Ok(fd),
            What::Directory(_) => Err(Errno::ISDIR.into()),
        }
    }

    /// The directory.
    pub(super) fn directory(&self) -> io::Result<MutexGuard<'_, Directory>> {
        match &self.what {
            What::File(_) => Err(Errno::NOTDIR.into()),
            What::Directory(directory) => Ok(directory.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

impl Files {
    /// A table of at most `max` open files, so that one guest cannot use all descriptors of the process.
    pub(super) fn new(max: usize) -> Self {
        Self { table: Mutex::default(), max }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more file may be opened.
    pub(super) fn check_room(&self) -> io::Result<()> {
        if self.table().open.len() < self.max { Ok(()) } else { Err(Errno::NFILE.into()) }
    }

    fn add(&self, node: u64, what: What) -> u64 {
        let mut table = self.table();
        table.last_id += 1;
        let id = table.last_id;
        table.open.insert(id, Arc::new(Open { node, what }));
        id
    }

    /// The number of a file just opened.
    pub(super) fn add_file(&self, node: u64, fd: OwnedFd) -> u64 {
        self.add(node, What::File(fd))
    }

    /// The number of a directory just opened.
    pub(super) fn add_directory(&self, node: u64, fd: OwnedFd) -> u64 {
        let directory = Directory { fd, buffer: Vec::new(), start: 0, end: 0, position: 0 };
        self.add(node, What::Directory(Mutex::new(directory)))
    }

    /// The open file `id`, if it is one of `node`.
    pub(super) fn get(&self, id: u64, node: u64) -> io::Result<Arc<Open>> {
        self.table().open.get(&id).filter(|open| open.node == node).map(Arc::clone).ok_or(Errno::BADF.into())
    }

    /// Closes `id`, if it is one of `node`.
    pub(super) fn remove(&self, id: u64, node: u64) -> io::Result<()> {
        let mut table = self.table();
        match table.open.get(&id) {
            Some(open) if open.node == node => {
                let open = table.open.remove(&id);
                drop(table);
                drop(open);
                Ok(())
            }
            _ => Err(Errno::BADF.into()),
        }
    }

    /// Closes everything.
    pub(super) fn clear(&self) {
        let open = std::mem::take(&mut self.table().open);
        drop(open);
    }

    /// Files that are open.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table().open.len()
    }
}

impl Directory {
    /// Gives `take` the records from the cookie `offset` on, until it takes no more.
    pub(super) fn read(
        &mut self,
        offset: u64,
        mut take: impl FnMut(&RawEntry<'_>) -> io::Result<bool>,
    ) -> io::Result<()> {
        if offset != self.position {
            let offset = i64::try_from(offset).map_err(|_| Errno::INVAL)?;
            rustix::fs::seek(&self.fd, SeekFrom::Start(offset as u64))?;
            (self.start, self.end, self.position) = (0, 0, offset as u64);
        }
        self.buffer.resize(DIRECTORY_BUFFER_BYTES, 0);
        loop {
            if self.start == self.end {
                self.end = sys::getdents(self.fd.as_fd(), &mut self.buffer)?;
                self.start = 0;
                if self.end == 0 {
                    return Ok(());
                }
            }
            let entry = raw_entry(&self.buffer[self.start..self.end]).ok_or(Errno::IO)?;
            if !take(&entry)? {
                return Ok(());
            }
            self.position = entry.next;
            self.start += entry.length;
        }
    }
}
