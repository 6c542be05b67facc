//! Routes of the main table, from the kernel's messages.

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::bail;
use crx_proto::Route;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType, RouteVia,
};

use super::super::log;

/// The route, unless the guest's kernel makes it itself, from addresses or from what a router says, or it leads
/// out of an interface that is not the pod's. `interface` finds an interface's number by its index.
///
/// # Errors
/// It is of a sort that a pod cannot have.
pub(super) fn route(
    message: &RouteMessage,
    interface: impl Fn(u32) -> Option<u8>,
) -> anyhow::Result<Option<Route>> {
    let header = &message.header;
    let of_main_table = header.table == RouteHeader::RT_TABLE_MAIN;
    let made_by_kernel =
        matches!(header.protocol, RouteProtocol::Kernel | RouteProtocol::Ra | RouteProtocol::IcmpRedirect);
    if !of_main_table || made_by_kernel || header.flags.contains(RouteFlags::Cloned) {
        return Ok(None);
    }
    let destination = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return Ok(None),
    };
    let with_interface = match header.kind {
        RouteType::Unicast => true,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw => false,
        _ => return Ok(None),
    };
    let mut route = Route {
        destination,
        prefix_bits: header.destination_prefix_length,
        kind: header.kind.into(),
        gateway: None,
        onlink: header.flags.contains(RouteFlags::Onlink),
        interface: None,
        source: None,
        metric: None,
        scope: header.scope.into(),
    };
    let mut out = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                route.destination = ip(address).unwrap_or(route.destination)
            }
            RouteAttribute::Gateway(address) => route.gateway = ip(address),
            RouteAttribute::Via(RouteVia::Inet(address)) => route.gateway = Some((*address).into()),
            RouteAttribute::Via(RouteVia::Inet6(address)) => route.gateway = Some((*address).into()),
            RouteAttribute::PrefSource(address) => route.source = ip(address),
            RouteAttribute::Priority(metric) => route.metric = Some(*metric),
            RouteAttribute::Oif(index) => out = Some(*index),
            _ => {}
        }
    }
    let (to, bits) = (route.destination, route.prefix_bits);
    if let Some(condition) = unsupported(message) {
        bail!("the route to {to}/{bits} has {condition}; that is not supported in a pod");
    }
    if let Some(lost) = lost(message) {
        log::warning(&format!("the route to {to}/{bits} has {lost}; a pod does not get that"));
    }
    if with_interface {
        route.interface = out.and_then(interface);
        if route.interface.is_none() {
            return Ok(None);
        }
    }
    Ok(Some(route))
}

/// What is special about a route, if packets would go elsewhere without it.
fn unsupported(message: &RouteMessage) -> Option<&'static str> {
    let tos = (message.header.tos != 0).then_some("a type of service");
    tos.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::MultiPath(_) => Some("several gateways"),
            RouteAttribute::Source(_) => Some("a condition on the source address"),
            RouteAttribute::Encap(_) => Some("an encapsulation"),
            _ => None,
        })
    })
}

/// What only tunes a connection: largest packet, window.
fn lost(message: &RouteMessage) -> Option<String> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) if !metrics.is_empty() => Some(format!("{metrics:?}")),
        _ => None,
    })
}

/// Brings routes into an order in which the kernel takes them: a gateway must be reachable when its route comes, and by a
/// route of a narrower scope (fib_check_nh, net/ipv4/fib_semantics.c).
pub(super) fn sort(routes: &mut [Route]) {
    routes.sort_by_key(|route| (route.gateway.is_some() && !route.onlink, Reverse(route.scope)));
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use netlink_packet_route::route::RouteMetric;

    use super::*;

    fn default_route() -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![RouteAttribute::Oif(7)];
        message
    }

    #[test]
    fn a_route_out_of_an_interface_that_is_not_the_pod_s_is_left_out() {
        let numbers = |index| (index == 7).then_some(1);
        assert_eq!(route(&default_route(), numbers).unwrap().unwrap().interface, Some(1));
        assert_eq!(route(&default_route(), |_| None).unwrap(), None);
    }

    #[test]
    fn routes_that_the_guest_s_kernel_makes_or_that_are_of_other_tables_are_left_out() {
        let with = |change: fn(&mut RouteHeader)| {
            let mut message = default_route();
            change(&mut message.header);
            route(&message, |_| Some(0)).unwrap()
        };
        assert_eq!(with(|header| header.protocol = RouteProtocol::Kernel), None);
        assert_eq!(with(|header| header.protocol = RouteProtocol::Ra), None);
        assert_eq!(with(|header| header.table = 100), None);
        assert_eq!(with(|header| header.kind = RouteType::Multicast), None);
    }

    #[test]
    fn what_of_a_route_gets_lost_is_known() {
        let mut message = default_route();
        assert_eq!(lost(&message), None);
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400)]));
        assert!(lost(&message).unwrap().contains("1400"));
    }
}
