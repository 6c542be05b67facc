//! Questions that PID 1 has not answered yet.

use std::collections::BTreeMap;

use crx_proto::ProcessId;

use super::hear::ClientId;

/// A question on its way.
pub(super) struct Asked {
    pub(super) client: ClientId,
    /// Of which container.
    pub(super) container: ProcessId,
    /// What the answer makes of the container.
    pub(super) paused: Option<bool>,
    /// Windows of network devices that lose their taps again if the answer is no.
    pub(super) plugged: Vec<u8>,
}

/// All of them, by number.
#[derive(Default)]
pub(super) struct Questions {
    asked: BTreeMap<u32, Asked>,
    last: u32,
}

impl Questions {
    /// Gives a question its number.
    pub(super) fn add(&mut self, asked: Asked) -> u32 {
        self.last += 1;
        self.asked.insert(self.last, asked);
        self.last
    }

    /// The question that was answered, if anybody waits for that.
    pub(super) fn take(&mut self, number: u32) -> Option<Asked> {
        self.asked.remove(&number)
    }

    /// A client is gone. What it asked for is done all the same: whether that pauses the container, or where a tap is, matters to
    /// others.
    pub(super) fn forget(&mut self, client: ClientId) {
        let matters = |asked: &Asked| asked.paused.is_some() || !asked.plugged.is_empty();
        self.asked.retain(|_, asked| asked.client != client || matters(asked));
    }
}
