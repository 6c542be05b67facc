//! Interfaces: which of a namespace's are the pod's.

use std::io;

use anyhow::bail;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType,
    LinkMessage,
};

use super::netlink::Socket;
use super::tap;

/// What is said of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    /// Its number in the namespace.
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mtu: u32,
    up: bool,
    loopback: bool,
    /// It carries Ethernet frames.
    ethernet: bool,
    address: Vec<u8>,
    kind: Option<InfoKind>,
    /// The device of the host that it is.
    hardware: Option<String>,
    /// It belongs to a bridge or a bond, which has its frames.
    has_master: bool,
    /// The interface below it.
    lower: Option<u32>,
    /// The interface below it is in another namespace.
    lower_elsewhere: bool,
}

impl Link {
    /// Reads the kernel's message.
    pub(super) fn new(message: LinkMessage) -> Self {
        let header = message.header;
        let mut link = Self {
            index: header.index,
            up: header.flags.contains(LinkFlags::Up),
            loopback: header.flags.contains(LinkFlags::Loopback),
            ethernet: header.link_layer_type == LinkLayerType::Ether,
            ..Self::default()
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Address(address) => link.address = address,
                LinkAttribute::Controller(_) => link.has_master = true,
                LinkAttribute::Link(lower) => link.lower = Some(lower),
                LinkAttribute::LinkNetNsId(_) => link.lower_elsewhere = true,
                LinkAttribute::ParentDevName(device) => link.hardware = Some(device),
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.into_iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link
    }

    /// The loopback interface, or one of our taps.
    pub(super) fn is_of_every_pod(&self) -> bool {
        self.loopback || self.name.starts_with(tap::PREFIX) && self.kind == Some(InfoKind::Tun)
    }

    /// It is our tap of the interface with this index.
    pub(super) fn is_tap_of(&self, index: u32) -> bool {
        self.kind == Some(InfoKind::Tun) && self.name == tap::name(index)
    }

    /// Its hardware address if the interface is the pod's, nothing if it is nobody's: the loopback interface, which every pod
    /// has of its own; our taps; ports of a bridge or bond; and what is down and has no address, as the tunnels which the kernel
    /// puts into every namespace are.
    ///
    /// # Errors
    /// It is the pod's and cannot be had in a VM.
    pub(super) fn mac(&self, has_addresses: bool) -> anyhow::Result<Option<[u8; 6]>> {
        let name = &self.name;
        if self.is_of_every_pod() || self.has_master {
            return Ok(None);
        }
        // Older kernels do not name the device, but what they name no kind for is one.
        if self.hardware.is_some() || self.kind.is_none() {
            let device = self.hardware.as_ref().map(|device| format!(" ({device})")).unwrap_or_default();
            bail!(
                "interface {name} is a device of the host's hardware{device}; moving one into a pod is not supported"
            );
        }
        if !self.up {
            if has_addresses {
                bail!("interface {name} has addresses but is down; it must be set up before the pod starts");
            }
            return Ok(None);
        }
        let mac = <[u8; 6]>::try_from(self.address.as_slice()).ok();
        let Some(mac) = mac.filter(|mac| self.ethernet && *mac != [0; 6]) else {
            bail!(
                "interface {name} has no hardware address; only interfaces with Ethernet frames are supported"
            );
        };
        // What comes in on the lower one would go to its own tap and never reach this one.
        let pair = matches!(self.kind, Some(InfoKind::Veth | InfoKind::Netkit));
        if self.lower.is_some() && !self.lower_elsewhere && !pair {
            bail!(
                "interface {name} is stacked on another of the same network namespace; that is not supported"
            );
        }
        Ok(Some(mac))
    }
}

/// All interfaces of this thread's namespace, by their index.
///
/// # Errors
/// The kernel's.
pub(super) fn all(socket: &mut Socket) -> io::Result<Vec<Link>> {
    let answers = socket.list(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let links = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(message) => Some(Link::new(message)),
        _ => None,
    });
    let mut links: Vec<Link> = links.collect();
    links.sort_by_key(|link| link.index);
    Ok(links)
}

/// The index of the interface with this name.
///
/// # Errors
/// There is none, or the kernel's.
pub(super) fn index_of(socket: &mut Socket, name: &str) -> io::Result<u32> {
    let link = all(socket)?.into_iter().find(|link| link.name == name);
    link.map(|link| link.index).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
}

/// Keeps the interface from having addresses of its own and from greeting its neighbours. A kernel without IPv6 has nothing
/// to say.
///
/// # Errors
/// The kernel's.
pub(super) fn silence(socket: &mut Socket, index: u32) -> io::Result<()> {
    let silent = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    match change(socket, index, LinkFlags::empty(), vec![LinkAttribute::AfSpecUnspec(vec![silent])]) {
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Ok(()),
        done => done,
    }
}

/// Sets the interface's largest packet, in bytes.
///
/// # Errors
/// The kernel's.
pub(super) fn set_mtu(socket: &mut Socket, index: u32, mtu: u32) -> io::Result<()> {
    change(socket, index, LinkFlags::empty(), vec![LinkAttribute::Mtu(mtu)])
}

/// Sets the interface up.
///
/// # Errors
/// The kernel's.
pub(super) fn up(socket: &mut Socket, index: u32) -> io::Result<()> {
    change(socket, index, LinkFlags::Up, Vec::new())
}

fn change(
    socket: &mut Socket,
    index: u32,
    flags: LinkFlags,
    attributes: Vec<LinkAttribute>,
) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = flags;
    message.header.change_mask = flags;
    message.attributes = attributes;
    socket.request(RouteNetlinkMessage::SetLink(message), 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn veth() -> Link {
        Link {
            name: "eth0".to_owned(),
            up: true,
            ethernet: true,
            address: vec![2, 0, 0, 0, 0, 1],
            kind: Some(InfoKind::Veth),
            lower: Some(1),
            ..Link::default()
        }
    }

    fn refused(link: &Link) -> String {
        link.mac(true).unwrap_err().to_string()
    }

    #[test]
    fn both_ends_of_a_pair_may_be_in_one_namespace() {
        assert_eq!(veth().mac(true).unwrap(), Some([2, 0, 0, 0, 0, 1]));
    }

    #[test]
    fn hardware_is_refused_by_name_also_when_it_is_down() {
        let named = Link { hardware: Some("0000:3b:00.1".to_owned()), kind: None, up: false, ..veth() };
        assert!(refused(&named).contains("interface eth0") && refused(&named).contains("0000:3b:00.1"));
        // A virtual function of a driver with a kind is one too.
        assert!(
            refused(&Link { kind: Some(InfoKind::Other("vdev".to_owned())), ..named }).contains("hardware")
        );
        assert!(refused(&Link { kind: None, ..veth() }).contains("hardware"));
    }

    #[test]
    fn what_carries_no_ethernet_frames_is_refused() {
        assert!(refused(&Link { ethernet: false, ..veth() }).contains("no hardware address"));
        assert!(refused(&Link { address: vec![], ..veth() }).contains("no hardware address"));
        assert!(refused(&Link { address: vec![0; 6], ..veth() }).contains("no hardware address"));
    }

    #[test]
    fn an_interface_on_another_of_the_namespace_is_refused() {
        let vlan = Link { kind: Some(InfoKind::Vlan), ..veth() };
        assert!(refused(&vlan).contains("stacked"));
        assert!(Link { lower_elsewhere: true, ..vlan }.mac(true).unwrap().is_some());
    }

    #[test]
    fn the_kernel_s_own_tunnels_are_nobody_s_and_a_down_interface_with_addresses_is_an_error() {
        let tunnel = Link { kind: Some(InfoKind::GreTap), address: vec![0; 6], up: false, ..veth() };
        assert_eq!(tunnel.mac(false).unwrap(), None);
        assert!(refused(&tunnel).contains("is down"));
    }
}
