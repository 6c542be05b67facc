//! Credit of one connection (virtio 1.2, 5.10.6.3): how much each side may still send. All counters run freely and
//! wrap; what the guest says is only ever subtracted with saturation, so a lie costs nobody but the guest.

use std::num::Wrapping;

/// Both directions of one connection.
#[derive(Debug)]
pub(super) struct Credit {
    /// Bytes that we hold for the guest at most.
    buf_alloc: u32,
    /// Bytes that came from the guest.
    received: Wrapping<u32>,
    /// Of these, bytes that left for the host's socket: `fwd_cnt`.
    forwarded: Wrapping<u32>,
    /// `fwd_cnt` as the guest last heard it.
    told: Wrapping<u32>,
    guest_buf_alloc: u32,
    guest_forwarded: Wrapping<u32>,
    /// Bytes sent to the guest.
    sent: Wrapping<u32>,
}

impl Credit {
    pub(super) fn new(buf_alloc: u32) -> Self {
        Self {
            buf_alloc,
            received: Wrapping(0),
            forwarded: Wrapping(0),
            told: Wrapping(0),
            guest_buf_alloc: 0,
            guest_forwarded: Wrapping(0),
            sent: Wrapping(0),
        }
    }

    /// What every packet of the guest says about its side.
    pub(super) fn guest_says(&mut self, buf_alloc: u32, fwd_cnt: u32) {
        self.guest_buf_alloc = buf_alloc;
        self.guest_forwarded = Wrapping(fwd_cnt);
    }

    /// Bytes that the guest can take now.
    pub(super) fn for_guest(&self) -> u32 {
        self.guest_buf_alloc.saturating_sub((self.sent - self.guest_forwarded).0)
    }

    pub(super) fn sent(&mut self, bytes: u32) {
        self.sent += bytes;
    }

    /// Counts bytes of the guest; false if they are more than it was granted.
    pub(super) fn receive(&mut self, bytes: u32) -> bool {
        let granted = bytes <= self.buf_alloc.saturating_sub((self.received - self.forwarded).0);
        if granted {
            self.received += bytes;
        }
        granted
    }

    /// Bytes of the guest left our hands.
    pub(super) fn forwarded(&mut self, bytes: u32) {
        self.forwarded += bytes;
    }

    /// The guest should hear of its credit although nothing else is sent: half of it may be used up in its eyes.
    /// Less often would stall it, more often costs it an interrupt each.
    pub(super) fn update_due(&self) -> bool {
        (self.forwarded - self.told).0 >= self.buf_alloc / 2
    }

    /// `buf_alloc` and `fwd_cnt` for a packet that now goes to the guest.
    pub(super) fn tell(&mut self) -> (u32, u32) {
        self.told = self.forwarded;
        (self.buf_alloc, self.forwarded.0)
    }

    pub(super) fn buf_alloc(&self) -> u32 {
        self.buf_alloc
    }
}

#[cfg(test)]
mod tests {
    use super::Credit;

    #[test]
    fn counters_wrap_and_lies_give_nothing() {
        let mut credit = Credit::new(1000);
        credit.guest_says(500, 0);
        credit.sent(400);
        assert_eq!(credit.for_guest(), 100);
        // It claims to have forwarded more than it ever got.
        credit.guest_says(500, 401);
        assert_eq!(credit.for_guest(), 0);
        credit.sent(u32::MAX - 399);
        credit.guest_says(500, u32::MAX - 99);
        assert_eq!(credit.for_guest(), 400);
    }

    #[test]
    fn the_guest_gets_what_it_was_granted_and_no_more() {
        let mut credit = Credit::new(1000);
        assert!(credit.receive(1000));
        assert!(!credit.receive(1));
        credit.forwarded(499);
        assert!(!credit.update_due());
        credit.forwarded(1);
        assert!(credit.update_due());
        assert_eq!(credit.tell(), (1000, 500));
        assert!(!credit.update_due());
        assert!(credit.receive(500));
        assert!(!credit.receive(1));
    }
}
