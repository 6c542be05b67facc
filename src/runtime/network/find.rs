//! What is in a network namespace, as the guest is to have it.

use anyhow::{Context, bail};
use crx_proto::{Interface, Network};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;

use super::netlink::Socket;
use super::{MAX_INTERFACES, address, link, route, sysctl};

/// A namespace's interfaces and what belongs to them. Their windows, queues and offloads are decided when they are joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// As far as it is known.
    pub(crate) network: Network,
    /// For each interface of [`Self::network`] its index in the namespace.
    pub(super) indexes: Vec<u32>,
}

/// Looks at this thread's namespace.
///
/// # Errors
/// Something in it cannot be had in a pod, or the kernel does not say what is there.
pub(super) fn find() -> anyhow::Result<Found> {
    let mut socket = Socket::route().context("cannot open a netlink socket")?;
    let mut found = interfaces(&mut socket)?;
    let number = |index: u32| {
        let position = found.indexes.iter().position(|other| *other == index)?;
        u8::try_from(position).ok()
    };

    // Of all families at once: a kernel without IPv6 would answer with those of IPv4 again.
    let answers = socket.list(&RouteNetlinkMessage::GetRoute(RouteMessage::default()));
    for answer in answers.context("cannot list its routes")? {
        if let RouteNetlinkMessage::NewRoute(message) = answer {
            found.network.routes.extend(route::route(&message, number)?);
        }
    }
    route::sort(&mut found.network.routes);

    let answers = socket.list(&RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()));
    for answer in answers.context("cannot list its neighbours")? {
        if let RouteNetlinkMessage::NewNeighbour(message) = answer
            && let Some(interface) = number(message.header.ifindex)
        {
            found.network.neighbours.extend(address::neighbour(&message, interface));
        }
    }

    let names = found.network.interfaces.iter().map(|interface| interface.name.as_str());
    found.network.sysctl = sysctl::find(names).context("cannot read its parameters below /proc/sys")?;
    Ok(found)
}

/// The indexes of all interfaces of this thread's namespace.
///
/// # Errors
/// The kernel's.
pub(super) fn indexes() -> anyhow::Result<Vec<u32>> {
    let links = Socket::route().and_then(|mut socket| link::all(&mut socket));
    Ok(links.context("cannot list its interfaces")?.into_iter().map(|link| link.index).collect())
}

/// The pod's interfaces with their addresses.
fn interfaces(socket: &mut Socket) -> anyhow::Result<Found> {
    let links = link::all(socket).context("cannot list its interfaces")?;
    let answers = socket.list(&RouteNetlinkMessage::GetAddress(AddressMessage::default()));
    let addresses: Vec<AddressMessage> = answers
        .context("cannot list its addresses")?
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) => Some(message),
            _ => None,
        })
        .collect();

    let mut found = Found::default();
    for link in links {
        let mut own = addresses.iter().filter(|address| address.header.index == link.index).peekable();
        let Some(mac) = link.mac(own.peek().is_some())? else { continue };
        found.indexes.push(link.index);
        found.network.interfaces.push(Interface {
            window: 0,
            name: link.name,
            mac,
            mtu: link.mtu,
            queue_pairs: 0,
            offloads: false,
            addresses: own.filter_map(|message| address::address(message, mac)).collect(),
        });
    }
    let count = found.indexes.len();
    if count > MAX_INTERFACES {
        bail!("it has {count} interfaces; a pod has at most {MAX_INTERFACES}");
    }
    Ok(found)
}
