//! virtio-fs: a directory of the host as a file system of the guest (virtio 1.2, 5.11). Before this, the VMM bound a
//! pod's root file system and volumes into one directory, the share; this device serves it; the guest's PID 1 mounts
//! it under its tag.
//!
//! A request's way through the files of this folder:
//! `device.rs` (registers, start and stop) -> `worker.rs` (queues) -> the library's `Server` (decodes FUSE) ->
//! `server.rs`, `changes.rs`, `xattr.rs` (the operations), which use `request.rs` (what a guest may say), `nodes.rs`
//! and `files.rs` (what it has), `attributes.rs` and `sys.rs`.
//!
//! # What the guest may cache
//! The share has a directory for each container, named by its number: `1/rootfs`, `1/volumes/0`, ...
//! - In the `rootfs` of a container only the guest writes: names, attributes, missing names, directory listings and
//!   file contents for a day. What the host changes there while the container is there may stay unseen, and so may what
//!   is written by way of a volume in which it lies. Containers whose root is the same directory see each
//!   other's writes at once (see `nodes.rs`).
//! - Everywhere else, volumes above all, host and guest write: names and attributes for one second, contents until
//!   the file's size changes or it is opened again after a change (as with NFS: who opens a file after the host
//!   closed it sees what the host wrote).
//!
//! Writes go to the host at once. fsync waits for the host's disk; sync of the whole file system does not, the
//! host's kernel writes back in its own time. Locks (flock, POSIX) are kept by the guest's kernel: they work between the
//! containers of a pod, and do not reach the host or another pod that has the same volume.
//!
//! # What cannot be reached
//! Anything that is not in the share: names are single components and never `.` or `..`, symbolic links are never
//! followed by the host, only regular files and directories are opened, nodes and handles are looked up by numbers
//! that are never used twice. A directory that the host moves out of the share stays reachable as far as the guest
//! already knew it, without a way up from there.
//!
//! # Descriptors
//! An inode that the guest knows costs a descriptor, see `nodes.rs` for what happens when they run out. [`Fs::new`]
//! raises RLIMIT_NOFILE as far as it may, and opens all that is ever opened by an absolute path: the process can
//! pivot into the share afterwards.
//!
//! DAX is to come: FUSE_SETUPMAPPING would go to `server.rs`, the window to the transport as a shared memory region.

mod attributes;
mod changes;
mod device;
mod files;
mod nodes;
mod request;
mod server;
mod sys;
#[cfg(test)]
mod tests;
mod worker;
mod xattr;

use std::io;
use std::path::PathBuf;

pub use device::Fs;

/// Longest tag: the field of the configuration space (virtio 1.2, 5.11.4).
const TAG_MAX_BYTES: usize = 36;

/// What to serve.
#[derive(Clone, Debug)]
pub struct FsConfig {
    /// The name that the guest mounts.
    pub tag: String,
    /// The share. Its path is used once, by [`Fs::new`].
    pub root: PathBuf,
}

/// Why a share cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// The tag does not fit into the configuration space.
    #[error("the virtio-fs tag {0:?} must have 1 to 36 bytes and no NUL")]
    Tag(String),
    /// The share cannot be opened.
    #[error("cannot open the share {path}")]
    Root {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// procfs is needed once, to open the directory of descriptors.
    #[error("cannot open /proc/self/fd (the share must be opened while /proc is there)")]
    Descriptors(#[source] io::Error),
}
