//! One table of nftables, by netlink (linux/netfilter/nf_tables.h): a pod's packets leave the host under the host's address.
//!
//! Three messages do not need a library: `nftables` runs the program nft, `nftnl` binds libnftnl, `rustables` is under the
//! GPL, and `netlink-packet-netfilter` has no tables.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLA_F_NESTED, NLM_F_CREATE, NLM_F_EXCL, NetlinkDeserializable,
    NetlinkHeader, NetlinkSerializable,
};

use super::netlink::Socket;

/// Begin and end of messages that count all or not at all (NFNL_MSG_BATCH_*, linux/netfilter/nfnetlink.h).
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// NFNL_SUBSYS_NFTABLES: upper half of the types of the other messages.
const NFTABLES: u16 = 10;
/// NFT_MSG_NEWTABLE, NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE.
const NEW_TABLE: u16 = NFTABLES << 8;
const NEW_CHAIN: u16 = NFTABLES << 8 | 3;
const NEW_RULE: u16 = NFTABLES << 8 | 6;
/// NFT_TABLE_F_OWNER: the table goes when the socket that made it is closed. Linux 5.12.
const OWNED: u32 = 2;
/// NF_INET_POST_ROUTING and NF_IP_PRI_NAT_SRC (linux/netfilter.h, linux/netfilter_ipv4.h).
const POST_ROUTING: u32 = 4;
const PRIORITY_NAT_SOURCE: u32 = 100;
/// Length of `struct nfgenmsg`.
const HEADER: usize = 4;
/// The only chain of the table.
const CHAIN: &str = "postrouting";

/// Makes a table `name` in this thread's namespace: packets from `source` get the address of the interface on which they leave.
/// It is gone when the descriptor is closed in every process that has it.
///
/// # Errors
/// EEXIST: there is such a table; others of the kernel.
pub(super) fn masquerade(name: &str, source: Ipv4Addr) -> io::Result<OwnedFd> {
    let mut socket = Socket::netfilter()?;
    let new = NLM_F_CREATE | NLM_F_EXCL;
    let messages = vec![
        (Message::batch(BATCH_BEGIN), 0),
        (Message::new(NEW_TABLE, vec![text(1, name), number(2, OWNED)]), new),
        (Message::new(NEW_CHAIN, chain(name)), new),
        (Message::new(NEW_RULE, rule(name, source)), new),
        (Message::batch(BATCH_END), 0),
    ];
    socket.batch(messages)?;
    Ok(socket.into_fd())
}

/// NFTA_CHAIN_*: a base chain that sees what leaves the host.
fn chain(table: &str) -> Vec<DefaultNla> {
    let hook = vec![number(1, POST_ROUTING), number(2, PRIORITY_NAT_SOURCE)];
    vec![text(1, table), text(3, CHAIN), nested(4, hook), text(7, "nat")]
}

/// NFTA_RULE_*: `ip saddr SOURCE masquerade`.
fn rule(table: &str, source: Ipv4Addr) -> Vec<DefaultNla> {
    // NFTA_PAYLOAD_*: to register 1, of the network header (1), from byte 12, 4 bytes: the source address.
    let load = vec![number(1, 1), number(2, 1), number(3, 12), number(4, 4)];
    // NFTA_CMP_*: register 1 is equal (0) to the value.
    let value = nested(3, vec![DefaultNla::new(1, source.octets().to_vec())]);
    let compare = vec![number(1, 1), number(2, 0), value];
    let expressions = [("payload", load), ("cmp", compare), ("masq", Vec::new())];
    // NFTA_LIST_ELEM of NFTA_EXPR_NAME and NFTA_EXPR_DATA.
    let expressions =
        expressions.into_iter().map(|(name, data)| nested(1, vec![text(1, name), nested(2, data)])).collect();
    vec![text(1, table), text(2, CHAIN), nested(4, expressions)]
}

fn text(kind: u16, text: &str) -> DefaultNla {
    DefaultNla::new(kind, text.bytes().chain([0]).collect())
}

/// Numbers of this protocol are big-endian.
fn number(kind: u16, number: u32) -> DefaultNla {
    DefaultNla::new(kind, number.to_be_bytes().to_vec())
}

fn nested(kind: u16, attributes: Vec<DefaultNla>) -> DefaultNla {
    let mut bytes = vec![0; attributes.as_slice().buffer_len()];
    attributes.as_slice().emit(&mut bytes);
    DefaultNla::new(kind | NLA_F_NESTED, bytes)
}

/// A message of nfnetlink.
#[derive(Clone, Debug)]
pub(super) struct Message {
    kind: u16,
    family: u8,
    resource: u16,
    attributes: Vec<DefaultNla>,
}

impl Message {
    fn new(kind: u16, attributes: Vec<DefaultNla>) -> Self {
        Self { kind, family: libc::NFPROTO_IPV4 as u8, resource: 0, attributes }
    }

    fn batch(kind: u16) -> Self {
        Self { kind, family: libc::AF_UNSPEC as u8, resource: NFTABLES, attributes: Vec::new() }
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        HEADER + self.attributes.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let [high, low] = self.resource.to_be_bytes();
        buffer[..HEADER].copy_from_slice(&[self.family, 0, high, low]);
        self.attributes.as_slice().emit(&mut buffer[HEADER..]);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    /// Nothing of what the kernel says beside acknowledgements is of interest.
    fn deserialize(header: &NetlinkHeader, _: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { kind: header.message_type, family: 0, resource: 0, attributes: Vec::new() })
    }
}
