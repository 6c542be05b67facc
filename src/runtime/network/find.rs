//! What is in a network namespace, as the guest is to have it.

use anyhow::{Context, bail};
use crx_proto::{Interface, Network};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;

use super::link::Link;
use super::netlink::Socket;
use super::{MAX_INTERFACES, address, link, route, sysctl};

/// A namespace's interfaces and what belongs to them. Their windows, queues and offloads are decided when they are joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// As far as it is known.
    pub(crate) network: Network,
    /// For each interface of [`Self::network`] its index in the namespace.
    pub(super) indexes: Vec<u32>,
    /// And whether the pod has it already.
    pub(super) joined: Vec<bool>,
}

/// Looks at this thread's namespace. `later`: for a pod that has some of the interfaces, at those and at the ones with these
/// names, or at all.
///
/// # Errors
/// Something in it cannot be had in a pod, or the kernel does not say what is there.
pub(super) fn find(later: Option<&[String]>) -> anyhow::Result<Found> {
    let mut socket = Socket::route().context("cannot open a netlink socket")?;
    let mut found = interfaces(&mut socket, later)?;
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
    if later.is_some() {
        let interfaces = found.network.interfaces.iter().zip(&found.joined);
        let new: Vec<String> = interfaces
            .filter(|(_, joined)| !**joined)
            .map(|(interface, _)| format!("/conf/{}/", interface.name))
            .collect();
        found.network.sysctl.retain(|(name, _)| new.iter().any(|new| name.contains(new)));
    }
    Ok(found)
}

/// An interface of this thread's namespace is one for a pod, as far as that can be seen without its addresses, and no pod has it.
///
/// # Errors
/// The kernel's.
pub(super) fn has_new() -> anyhow::Result<bool> {
    let links = links()?;
    let is_new = |link: &Link| !is_joined(&links, link) && !matches!(link.mac(false), Ok(None));
    Ok(links.iter().any(is_new))
}

/// Index and name of each interface of this thread's namespace but for loopback and our taps.
///
/// # Errors
/// The kernel's.
pub(super) fn names() -> anyhow::Result<Vec<(u32, String)>> {
    let links = links()?.into_iter().filter(|link| !link.is_of_every_pod());
    Ok(links.map(|link| (link.index, link.name)).collect())
}

/// The indexes of all interfaces of this thread's namespace.
///
/// # Errors
/// The kernel's.
pub(super) fn indexes() -> anyhow::Result<Vec<u32>> {
    Ok(links()?.into_iter().map(|link| link.index).collect())
}

fn links() -> anyhow::Result<Vec<Link>> {
    let links = Socket::route().and_then(|mut socket| link::all(&mut socket));
    links.context("cannot list its interfaces")
}

/// A pod has it: its tap is there.
fn is_joined(links: &[Link], link: &Link) -> bool {
    links.iter().any(|other| other.is_tap_of(link.index))
}

/// The pod's interfaces with their addresses.
fn interfaces(socket: &mut Socket, later: Option<&[String]>) -> anyhow::Result<Found> {
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

    let named = later.unwrap_or_default();
    if let Some(name) = named.iter().find(|name| links.iter().all(|link| link.name != **name)) {
        bail!("there is no interface {name}");
    }
    let mut found = Found::default();
    for link in &links {
        let joined = later.is_some() && is_joined(&links, link);
        let is_named = named.contains(&link.name);
        if !joined && !is_named && !named.is_empty() {
            continue;
        }
        let mut own = addresses.iter().filter(|address| address.header.index == link.index).peekable();
        let mac = match link.mac(own.peek().is_some()) {
            Ok(Some(mac)) => mac,
            // What the pod has of it stays, whatever it has become.
            Ok(None) | Err(_) if joined => continue,
            Ok(None) if is_named => bail!(
                "interface {} is none for a pod: loopback, a port of a bridge, a tap of crx, or down; set it up",
                link.name
            ),
            Ok(None) => continue,
            Err(error) => return Err(error),
        };
        found.indexes.push(link.index);
        found.joined.push(joined);
        found.network.interfaces.push(Interface {
            window: 0,
            name: link.name.clone(),
            mac,
            mtu: link.mtu,
            queue_pairs: 0,
            offloads: false,
            addresses: own.filter_map(address::address).collect(),
        });
    }
    let count = found.indexes.len();
    if count > MAX_INTERFACES {
        bail!("it has {count} interfaces; a pod has at most {MAX_INTERFACES}");
    }
    Ok(found)
}
