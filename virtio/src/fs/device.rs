//! The register half of virtio-fs: features, configuration space, start and stop. Before it, `mod.rs` says what a
//! share is; after it, `worker.rs` owns the queues.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use fuse_backend_rs::api::server::Server;
use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use virtio_bindings::virtio_ids::VIRTIO_ID_FS;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::Queue;

use super::server::CrxFs;
use super::worker::{Running, Worker};
use super::{FsConfig, FsError, TAG_MAX_BYTES};
use crate::{ActivateError, Activation, VirtioDevice};

/// The queue of FORGET and INTERRUPT, and one of requests (virtio 1.2, 5.11.2). 512 entries hold a request of 1 MiB
/// (260) without indirect descriptors, and are half as much for the guest to clear as 1024.
const QUEUE_SIZES: [u16; 2] = [128, 512];

/// struct virtio_fs_config: the tag and the number of request queues (virtio 1.2, 5.11.4).
const CONFIG_BYTES: usize = TAG_MAX_BYTES + 4;

/// Descriptors left to the rest of the process, at most.
const RESERVED_DESCRIPTORS: usize = 1024;

/// fs.nr_open where it cannot be read: the kernel's default.
const NR_OPEN: u64 = 1 << 20;

/// The virtio-fs device.
pub struct Fs {
    config: [u8; CONFIG_BYTES],
    files: Arc<CrxFs>,
    server: Arc<Server<Arc<CrxFs>>>,
    running: Option<Running>,
}

impl Fs {
    /// Opens a share. Nothing is opened by path from then on, so the process may pivot into it.
    ///
    /// # Errors
    /// The tag is not one, or the share or /proc/self/fd cannot be opened.
    pub fn new(config: FsConfig) -> Result<Self, FsError> {
        let limit = raise_descriptor_limit();
        let usable = limit - RESERVED_DESCRIPTORS.min(limit / 4);
        Self::with_descriptors(config, usable / 4 * 3, usable / 4)
    }

    /// As [`Fs::new`], with at most `for_nodes` descriptors for inodes where there is another way, and at most
    /// `open_files` open files.
    pub(super) fn with_descriptors(
        config: FsConfig,
        for_nodes: usize,
        open_files: usize,
    ) -> Result<Self, FsError> {
        let space = config_space(&config.tag)?;
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(&config.root, directory, Mode::empty())
            .map_err(|error| FsError::Root { path: config.root.clone(), source: error.into() })?;
        let files = open_descriptors()
            .map_err(FsError::Descriptors)
            .and_then(|descriptors| {
                CrxFs::new(root, descriptors, for_nodes, open_files)
                    .map_err(|source| FsError::Root { path: config.root, source })
            })
            .map(Arc::new)?;
        let server = Arc::new(Server::new(Arc::clone(&files)));
        Ok(Self { config: space, files, server, running: None })
    }

    /// The file server, for tests that look behind the queue.
    #[cfg(test)]
    pub(super) fn files(&self) -> Arc<CrxFs> {
        Arc::clone(&self.files)
    }
}

impl VirtioDevice for Fs {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_FS
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let known = usize::try_from(offset).ok().and_then(|offset| self.config.get(offset..)).unwrap_or(&[]);
        let length = known.len().min(data.len());
        data[..length].copy_from_slice(&known[..length]);
        data[length..].fill(0);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.stop();
        self.running = Some(Worker::start(activation, Arc::clone(&self.server), Arc::clone(&self.files))?);
        Ok(())
    }

    fn stop(&mut self) -> Vec<Queue> {
        let queues = self.running.take().map(Running::stop).unwrap_or_default();
        self.files.clear();
        queues
    }
}

impl Drop for Fs {
    fn drop(&mut self) {
        self.stop();
    }
}

fn config_space(tag: &str) -> Result<[u8; CONFIG_BYTES], FsError> {
    let bytes = tag.as_bytes();
    if bytes.is_empty() || bytes.len() > TAG_MAX_BYTES || bytes.contains(&0) {
        return Err(FsError::Tag(tag.to_owned()));
    }
    let mut space = [0; CONFIG_BYTES];
    space[..bytes.len()].copy_from_slice(bytes);
    // One request queue, little endian.
    space[TAG_MAX_BYTES] = 1;
    Ok(space)
}

/// Opens the directory of this process's descriptors. As a mount of its own, where the kernel allows one, it has no
/// way up to the rest of procfs, whatever happens to the process later.
fn open_descriptors() -> io::Result<OwnedFd> {
    const PATH: &str = "/proc/self/fd";
    let alone = open_tree(CWD, PATH, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC);
    Ok(alone.or_else(|_| open(PATH, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()))?)
}

/// Raises the limit of open files as far as this process may; returns it.
fn raise_descriptor_limit() -> usize {
    let now = getrlimit(Resource::Nofile);
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(NR_OPEN);
    // With CAP_SYS_RESOURCE beyond the hard limit, else up to it.
    let raised = [
        Rlimit { current: Some(most), maximum: Some(now.maximum.unwrap_or(most).max(most)) },
        Rlimit { current: Some(now.maximum.unwrap_or(most).min(most)), maximum: now.maximum },
    ];
    let _ = raised.into_iter().any(|limit| setrlimit(Resource::Nofile, limit).is_ok());
    getrlimit(Resource::Nofile).current.unwrap_or(most) as usize
}
