//! Children: every one that ends is reaped, those of the table and orphans alike.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::{WaitOptions, wait};

use crate::sys;

/// Bytes of `struct signalfd_siginfo` (linux/signalfd.h).
const SIGNAL_INFO_BYTES: usize = 128;

/// Tells when children ended.
pub(crate) struct Reaper {
    signals: OwnedFd,
}

impl Reaper {
    /// Begins to listen. Children that ended before are found by the first [`Reaper::reap`].
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { signals: sys::child_signals()? })
    }

    /// Takes the pending signal, after the descriptor polled readable. One stands for any number of children.
    pub(crate) fn acknowledge(&self) {
        // With nothing there the read fails (the descriptor does not block), and that is as good.
        let _ = rustix::io::read(&self.signals, &mut [0; SIGNAL_INFO_BYTES]);
    }

    /// Reaps a child that has ended, if there is one: its process ID and how it ended.
    pub(crate) fn reap(&self) -> Option<(u32, ExitStatus)> {
        let (pid, status) = wait(WaitOptions::NOHANG).ok().flatten()?;
        Some((pid.as_raw_nonzero().get().unsigned_abs(), ExitStatus::from_raw(status.as_raw())))
    }
}

impl AsFd for Reaper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}
