//! Children: every one that ends is reaped, the container's own and orphans alike.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{WaitOptions, WaitStatus, wait};

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

    /// Reaps every child that has ended; returns how `first` did, if it is among them.
    pub(crate) fn reap(&self, first: u32) -> Option<WaitStatus> {
        let mut status_of_first = None;
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid.as_raw_nonzero().get().unsigned_abs() == first {
                status_of_first = Some(status);
            }
        }
        status_of_first
    }
}

impl AsFd for Reaper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}
