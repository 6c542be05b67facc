//! vhost-net of the host's kernel, which moves frames between taps and a VM's network devices if the host has it.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;

use crate::runtime::log;

const DEVICE: &str = "/dev/vhost-net";

/// Opens it once for each of a tap's queue pairs. None if the host has it not, or not for this user: the pod moves its frames
/// by itself then, and more slowly.
pub(super) fn open(queue_pairs: usize) -> Vec<OwnedFd> {
    let opened = |_| OpenOptions::new().read(true).write(true).open(DEVICE).map(OwnedFd::from);
    (0..queue_pairs).map(opened).collect::<Result<_, _>>().unwrap_or_else(|error| {
        log::debug(&format!("{DEVICE} cannot be opened, the pod moves its frames by itself: {error}"));
        Vec::new()
    })
}
