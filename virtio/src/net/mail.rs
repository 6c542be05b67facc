//! What the workers of a device are told by [`super::shared`].

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::shared::Gates;
use super::tap::Tap;
use super::vhost::Vhost;

/// What a worker works for.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) tap: Arc<Tap>,
    /// The tap's frames come here, too.
    pub(super) receives: bool,
    /// Who is to carry them, if it is not the worker.
    pub(super) vhost: Option<Arc<Vhost>>,
    pub(super) gates: Arc<Gates>,
}

#[derive(Default)]
struct Mail {
    stop: bool,
    link: Option<Link>,
}

/// What a worker is told.
pub(super) struct Mailbox {
    mail: Mutex<Mail>,
    pub(super) bell: EventFd,
}

impl Mailbox {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { mail: Mutex::default(), bell: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)? })
    }

    /// Has the worker end.
    pub(super) fn stop(&self) {
        self.put(|mail| mail.stop = true);
    }

    /// Gives it a tap, or none.
    pub(super) fn link(&self, link: Option<Link>) {
        self.put(|mail| mail.link = link);
    }

    fn put(&self, change: impl FnOnce(&mut Mail)) {
        change(&mut self.mail.lock().unwrap_or_else(PoisonError::into_inner));
        // The counter would be full after 2^64 letters.
        let _ = self.bell.write(1);
    }

    /// The link as it is now; an error if the worker is to end.
    pub(super) fn read(&self) -> Result<Option<Link>, Stop> {
        let mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        if mail.stop { Err(Stop) } else { Ok(mail.link.clone()) }
    }
}

/// The worker is to end.
pub(super) struct Stop;
