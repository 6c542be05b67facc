//! The driver's commands (virtio 1.2, 5.1.6.5): [`parse`] makes a checked command of bytes, [`Control`] takes them from the
//! control queue and answers. Before: [`super::worker`] of the first pair got a kick.

use std::io::{Read, Write};
use std::sync::Arc;

use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, VIRTIO_NET_CTRL_MAC,
    VIRTIO_NET_CTRL_MAC_ADDR_SET, VIRTIO_NET_CTRL_MAC_TABLE_SET, VIRTIO_NET_CTRL_MQ,
    VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_ALLMULTI,
    VIRTIO_NET_CTRL_RX_PROMISC, VIRTIO_NET_ERR, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_MAC_ADDR,
    VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_MQ, VIRTIO_NET_OK,
};
use virtio_queue::DescriptorChain;

use super::MAX_SEGMENTS;
use super::ring::{Ring, RingError};
use super::shared::Shared;
use crate::{ActiveQueue, ChainLimits, GuestMem, check_chain};

/// The offloads towards the guest; their bits are those of the features (virtio 1.2, 5.1.6.5.6.1).
pub(super) const GUEST_OFFLOADS: u64 = 1 << VIRTIO_NET_F_GUEST_CSUM
    | 1 << VIRTIO_NET_F_GUEST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_TSO6
    | 1 << VIRTIO_NET_F_GUEST_ECN;

/// The longest command is a table of addresses, of which nothing is read; 64 KiB are 10,000.
const LIMITS: ChainLimits =
    ChainLimits { max_segments: MAX_SEGMENTS, max_readable_bytes: 64 << 10, max_writable_bytes: 4096 };

/// Class, command and as much as any command has to say: a le64.
const MAX_COMMAND_BYTES: usize = 10;

/// Commands answered before frames are looked at again.
const MAX_COMMANDS: usize = 16;

/// A command.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    /// Of the receive filter, which lets everything pass.
    Filter,
    Mac([u8; 6]),
    Pairs(usize),
    Offloads(u64),
    /// None of ours, or of a feature that was not negotiated.
    Unknown,
}

/// The command in the first bytes of `readable_bytes`.
fn parse(bytes: &[u8], readable_bytes: usize, features: u64) -> Command {
    let [class, command, data @ ..] = bytes else { return Command::Unknown };
    let has = |feature: u32| features & 1 << feature != 0;
    let data_bytes = readable_bytes - 2;
    match (u32::from(*class), u32::from(*command)) {
        (VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC | VIRTIO_NET_CTRL_RX_ALLMULTI)
            if has(VIRTIO_NET_F_CTRL_RX) && data_bytes == 1 =>
        {
            Command::Filter
        }
        // Two tables, each at least its length.
        (VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET)
            if has(VIRTIO_NET_F_CTRL_RX) && data_bytes >= 8 =>
        {
            Command::Filter
        }
        (VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET) if has(VIRTIO_NET_F_CTRL_MAC_ADDR) => {
            exactly(data, data_bytes).map_or(Command::Unknown, Command::Mac)
        }
        (VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET) if has(VIRTIO_NET_F_MQ) => {
            exactly(data, data_bytes)
                .map_or(Command::Unknown, |pairs| Command::Pairs(u16::from_le_bytes(pairs).into()))
        }
        (VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET)
            if has(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) =>
        {
            exactly(data, data_bytes)
                .map_or(Command::Unknown, |bits| Command::Offloads(u64::from_le_bytes(bits)))
        }
        _ => Command::Unknown,
    }
}

/// All the data, if it has the right length.
fn exactly<const N: usize>(data: &[u8], data_bytes: usize) -> Option<[u8; N]> {
    data.try_into().ok().filter(|_| data_bytes == N)
}

/// The control queue.
pub(super) struct Control<'m> {
    ring: Ring<'m>,
    memory: &'m GuestMem,
    shared: Arc<Shared>,
    features: u64,
}

impl<'m> Control<'m> {
    pub(super) fn new(ring: Ring<'m>, memory: &'m GuestMem, shared: Arc<Shared>, features: u64) -> Self {
        Self { ring, memory, shared, features }
    }

    pub(super) fn into_active(self) -> ActiveQueue {
        self.ring.into_active()
    }

    pub(super) fn interrupt_due(&mut self) -> Result<bool, RingError> {
        self.ring.interrupt_due()
    }

    /// Answers commands; false if there may be more.
    pub(super) fn answer(&mut self) -> Result<bool, RingError> {
        for _ in 0..MAX_COMMANDS {
            let Some(chain) = self.ring.pop()? else {
                if self.ring.ask_for_kick()? {
                    continue;
                }
                return Ok(true);
            };
            let head = chain.head_index();
            let Some(done) = self.carry_out(self.read(&chain)?) else {
                // The device is being stopped: whoever has the queue next answers.
                self.ring.unpop(1);
                return Ok(true);
            };
            let ack = if done { VIRTIO_NET_OK } else { VIRTIO_NET_ERR } as u8;
            let mut writer = chain.writer(self.memory)?;
            writer.write_all(&[ack]).map_err(|_| RingError::Chain(head))?;
            self.ring.finish(&[(head, 1)])?;
        }
        Ok(false)
    }

    fn read(&self, chain: &DescriptorChain<&'m GuestMem>) -> Result<Command, RingError> {
        let broken = || RingError::Chain(chain.head_index());
        let bytes = check_chain(chain, LIMITS).map_err(|_| broken())?;
        if bytes.writable == 0 {
            return Err(broken());
        }
        let mut command = [0; MAX_COMMAND_BYTES];
        let readable_bytes = bytes.readable as usize;
        let command = &mut command[..readable_bytes.min(MAX_COMMAND_BYTES)];
        chain.clone().reader(self.memory)?.read_exact(command).map_err(|_| broken())?;
        Ok(parse(command, readable_bytes, self.features))
    }

    /// Whether it was done; `None` if the device is being stopped.
    fn carry_out(&self, command: Command) -> Option<bool> {
        match command {
            Command::Filter => Some(true),
            Command::Mac(mac) => self.shared.set_mac(mac).map(|()| true),
            Command::Pairs(pairs) => self.shared.set_pairs(pairs),
            Command::Offloads(offloads) => self.shared.set_offloads(offloads),
            Command::Unknown => Some(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(bytes: &[u8]) -> Command {
        parse(&bytes[..bytes.len().min(MAX_COMMAND_BYTES)], bytes.len(), u64::MAX)
    }

    #[test]
    fn commands_are_known_by_class_number_and_length() {
        assert_eq!(command(&[0, 0, 1]), Command::Filter);
        assert_eq!(command(&[0, 1, 0]), Command::Filter);
        assert_eq!(command(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Command::Filter);
        assert_eq!(command(&[1, 1, 2, 3, 4, 5, 6, 7]), Command::Mac([2, 3, 4, 5, 6, 7]));
        assert_eq!(command(&[4, 0, 3, 0]), Command::Pairs(3));
        assert_eq!(command(&[5, 0, 2, 0, 0, 0, 0, 0, 0, 1]), Command::Offloads(1 << 56 | 2));
    }

    #[test]
    fn everything_else_is_unknown() {
        let others: [&[u8]; 13] = [
            &[],
            &[0],
            &[0, 0],
            &[0, 0, 1, 1],
            &[0, 2, 1],
            &[1, 0, 0, 0, 0, 0],
            &[1, 1, 2, 3, 4, 5, 6],
            &[1, 1, 2, 3, 4, 5, 6, 7, 8],
            &[2, 0, 1, 0],
            &[4, 0, 1],
            &[4, 1, 1, 0],
            &[5, 0, 1, 0, 0, 0, 0, 0, 0],
            &[5, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        ];
        for bytes in others {
            assert_eq!(command(bytes), Command::Unknown, "{bytes:?}");
        }
    }

    #[test]
    fn commands_of_features_that_were_not_negotiated_are_unknown() {
        for bytes in [&[0, 0, 1][..], &[1, 1, 2, 3, 4, 5, 6, 7], &[4, 0, 1, 0]] {
            assert_eq!(parse(bytes, bytes.len(), 0), Command::Unknown);
        }
    }
}
