//! One table of nftables, by netlink (linux/netfilter/nf_tables.h): a pod's packets leave the host under the host's address, and what
//! comes to the published ports goes to the pod.
//!
//! A few messages do not need a library: `nftables` runs the program nft, `nftnl` binds libnftnl, `rustables` is under the
//! GPL, and `netlink-packet-netfilter` has no tables.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLA_F_NESTED, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL,
    NetlinkDeserializable, NetlinkHeader, NetlinkSerializable,
};

use super::netlink::Socket;
use super::publish::{Port, Protocol};

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
/// Length of `struct nfgenmsg`.
const HEADER: usize = 4;

/// A chain: its name and type, its hook (NF_INET_*, linux/netfilter.h), its priority (NF_IP_PRI_*, linux/netfilter_ipv4.h).
struct Chain(&'static str, &'static str, u32, i32);

/// What leaves the host.
const POSTROUTING: Chain = Chain("postrouting", "nat", 4, 100);
/// What comes to the host, before anything else looks at it.
const INCOMING: Chain = Chain("incoming", "filter", 0, -300);
/// What comes to the host, before it is routed.
const PREROUTING: Chain = Chain("prerouting", "nat", 0, -100);
/// What the host itself sends.
const OUTPUT: Chain = Chain("output", "nat", 3, -100);

/// The pod, as its table sees it.
pub(super) struct Pod<'a> {
    pub(super) address: Ipv4Addr,
    /// Index of the host's interface to it.
    pub(super) interface: u32,
    pub(super) ports: &'a [Port],
}

/// Makes a table `name` in this thread's namespace for a pod. It is gone when the descriptor is closed in every process that
/// has it.
///
/// # Errors
/// EEXIST: there is such a table; others of the kernel.
pub(super) fn table(name: &str, pod: &Pod<'_>) -> io::Result<OwnedFd> {
    let mut socket = Socket::netfilter()?;
    let new = NLM_F_CREATE | NLM_F_EXCL;
    let mut messages = vec![
        (Message::batch(BATCH_BEGIN), 0),
        (Message::new(NEW_TABLE, vec![text(1, name), number(2, OWNED)]), new),
    ];
    for (chain, rules) in chains(pod) {
        messages.push((Message::new(NEW_CHAIN, new_chain(name, &chain)), new));
        for rule in rules {
            messages.push((Message::new(NEW_RULE, new_rule(name, &chain, rule)), new | NLM_F_APPEND));
        }
    }
    messages.push((Message::batch(BATCH_END), 0));
    socket.batch(messages)?;
    Ok(socket.into_fd())
}

/// A rule's expressions: names and attributes.
type Rule = Vec<(&'static str, Vec<DefaultNla>)>;

/// The chains with their rules, in words of nft(8).
fn chains(pod: &Pod<'_>) -> Vec<(Chain, Vec<Rule>)> {
    // ip saddr POD masquerade. So a pod reaches its own published ports too: the answer goes through the host.
    let mut leaving = vec![[source(&pod.address.octets()), vec![masquerade()]].concat()];
    if pod.ports.is_empty() {
        return vec![(POSTROUTING, leaving)];
    }
    // oif CRX-NAT ip saddr 127.0.0.0/8 masquerade: the host reaches published ports at 127.0.0.1 too.
    leaving.push([interface(META_OIF, pod.interface), source(&[127]), vec![masquerade()]].concat());
    // iif CRX-NAT ip daddr 127.0.0.0/8 drop: for the rule before, that interface may carry such addresses; the pod itself
    // has no business with what listens there on the host.
    let forged = [interface(META_IIF, pod.interface), destination(&[127]), vec![drop_it()]].concat();
    let published = || pod.ports.iter().map(|port| to_pod(pod.address, port)).collect();
    vec![(POSTROUTING, leaving), (INCOMING, vec![forged]), (PREROUTING, published()), (OUTPUT, published())]
}

/// `ip daddr ADDRESS tcp dport HOST dnat to POD:PORT`; without an address `fib daddr type local` instead of it.
fn to_pod(pod: Ipv4Addr, port: &Port) -> Rule {
    let at_host = match port.address {
        Some(address) => destination(&address.octets()),
        // NFTA_FIB_*: to register 1, the kind of address (3), of the destination (2); RTN_LOCAL is 2.
        None => vec![("fib", vec![number(1, 1), number(2, 3), number(3, 2)]), equal(&2_u32.to_ne_bytes())],
    };
    let protocol = match port.protocol {
        Protocol::Tcp => libc::IPPROTO_TCP,
        Protocol::Udp => libc::IPPROTO_UDP,
    };
    let of_port = vec![
        meta(META_L4PROTO),
        equal(&[protocol as u8]),
        // Of the transport header (2), from byte 2: the destination's port.
        payload(2, 2, 2),
        equal(&port.host.to_be_bytes()),
    ];
    // NFTA_NAT_*: the destination (1), IPv4, address in register 1, port in register 2.
    let family = number(2, libc::NFPROTO_IPV4 as u32);
    let nat = vec![number(1, 1), family, number(3, 1), number(5, 2)];
    let translated = vec![immediate(1, &pod.octets()), immediate(2, &port.pod.to_be_bytes()), ("nat", nat)];
    [at_host, of_port, translated].concat()
}

/// NFT_META_IIF, NFT_META_OIF, NFT_META_L4PROTO.
const META_IIF: u32 = 4;
const META_OIF: u32 = 5;
const META_L4PROTO: u32 = 16;

/// NFTA_META_*: to register 1.
fn meta(key: u32) -> (&'static str, Vec<DefaultNla>) {
    ("meta", vec![number(1, 1), number(2, key)])
}

fn interface(key: u32, index: u32) -> Rule {
    vec![meta(key), equal(&index.to_ne_bytes())]
}

/// The source address begins with these bytes.
fn source(bytes: &[u8]) -> Rule {
    vec![payload(1, 12, bytes.len() as u32), equal(bytes)]
}

/// The destination address begins with these bytes.
fn destination(bytes: &[u8]) -> Rule {
    vec![payload(1, 16, bytes.len() as u32), equal(bytes)]
}

/// NFTA_PAYLOAD_*: to register 1, of the network header (1) or the transport header (2), from `offset`, so many bytes.
fn payload(base: u32, offset: u32, bytes: u32) -> (&'static str, Vec<DefaultNla>) {
    ("payload", vec![number(1, 1), number(2, base), number(3, offset), number(4, bytes)])
}

/// NFTA_CMP_*: register 1 is equal (0) to the value.
fn equal(value: &[u8]) -> (&'static str, Vec<DefaultNla>) {
    ("cmp", vec![number(1, 1), number(2, 0), nested(3, vec![DefaultNla::new(1, value.to_vec())])])
}

/// NFTA_IMMEDIATE_*.
fn immediate(register: u32, value: &[u8]) -> (&'static str, Vec<DefaultNla>) {
    ("immediate", vec![number(1, register), nested(2, vec![DefaultNla::new(1, value.to_vec())])])
}

/// The same for the verdict (register 0; NFTA_DATA_VERDICT, NFTA_VERDICT_CODE): NF_DROP.
fn drop_it() -> (&'static str, Vec<DefaultNla>) {
    ("immediate", vec![number(1, 0), nested(2, vec![nested(2, vec![number(1, libc::NF_DROP as u32)])])])
}

fn masquerade() -> (&'static str, Vec<DefaultNla>) {
    ("masq", Vec::new())
}

/// NFTA_CHAIN_* of a base chain.
fn new_chain(table: &str, Chain(name, kind, hook, priority): &Chain) -> Vec<DefaultNla> {
    let hook = vec![number(1, *hook), number(2, priority.cast_unsigned())];
    vec![text(1, table), text(3, name), nested(4, hook), text(7, kind)]
}

/// NFTA_RULE_*, with NFTA_LIST_ELEM of NFTA_EXPR_NAME and NFTA_EXPR_DATA.
fn new_rule(table: &str, Chain(chain, ..): &Chain, expressions: Rule) -> Vec<DefaultNla> {
    let expressions =
        expressions.into_iter().map(|(name, data)| nested(1, vec![text(1, name), nested(2, data)])).collect();
    vec![text(1, table), text(2, chain), nested(4, expressions)]
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
