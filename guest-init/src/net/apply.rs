//! Sets up what a plan says of the pod's network.

use std::fmt::Display;
use std::net::IpAddr;
use std::os::fd::AsFd;

use crx_proto::{Interface, Network, StartError};
use rustix::io::Errno;

use super::names::renames;
use super::netlink::{Requests, Socket};
use super::nics::{Nic, Nics};
use super::requests::{About, Link, LinkLocal};
use crate::failure::{failed, refused};
use crate::mounts::Pod;
use crate::sys::{EthtoolCommand, ethtool};

/// Longest name of a network device, in bytes: IFNAMSIZ of linux/if.h without the nul byte.
const MAX_NAME_BYTES: usize = 15;

/// With a smaller MTU a device has no IPv6 (RFC 8200, section 5; IPV6_MIN_MTU).
const LEAST_IPV6_MTU: u32 = 1280;

/// Sets the pod's network up, from its own network namespace: new interfaces, and what others that are set up have got since. A
/// device of the boot that is none is taken away.
pub(crate) fn apply(
    network: &Network,
    nics: &mut Result<Nics, StartError>,
    pod: &mut Pod,
) -> Result<(), StartError> {
    let nics = match nics {
        Ok(nics) => nics,
        Err(_) if *network == Network::default() => return Ok(()),
        Err(error) => return Err(error.clone()),
    };
    if *network != Network::default() {
        check(network)?;
        let done = take_and_apply(network, nics, pod);
        if done.is_err() {
            // The first error is the one that counts.
            let _ = nics.remove_new(&network.interfaces);
        }
        done?;
    }
    nics.remove_untaken()
}

fn take_and_apply(network: &Network, nics: &mut Nics, pod: &mut Pod) -> Result<(), StartError> {
    let devices = nics.take(&network.interfaces)?;
    if !network.sysctl.is_empty() {
        pod.need_proc().map_err(|error| failed("network", "mount proc", error))?;
    }
    apply_to(&devices, network, &nics.socket)?;
    nics.keep(&network.interfaces, devices);
    Ok(())
}

/// Refuses what the kernel would not be asked, or would misunderstand.
fn check(network: &Network) -> Result<(), StartError> {
    let name = |number: u8| network.interfaces.get(usize::from(number)).map(|interface| &interface.name);
    for (at, interface) in network.interfaces.iter().enumerate() {
        let refuse = |what: &dyn Display| refused(about_interface(interface), what);
        if !is_name(&interface.name) {
            return Err(refuse(&format_args!(
                "no name of a network device: it has 1 to {MAX_NAME_BYTES} bytes, without / : % and white space"
            )));
        }
        let before = &network.interfaces[..at];
        if before.iter().any(|other| other.name == interface.name || other.window == interface.window) {
            return Err(refuse(&"another interface has its name or its device"));
        }
        for address in &interface.addresses {
            if address.peer.is_some_and(|peer| peer.is_ipv6() != address.ip.is_ipv6()) {
                let (ip, bits) = (address.ip, address.prefix_bits);
                return Err(refuse(&format_args!("address {ip}/{bits}: its peer is of another family")));
            }
        }
    }
    for (number, route) in network.routes.iter().enumerate() {
        let refuse = |what: &str| refused("network", format_args!("{}: {what}", route_name(network, number)));
        if route.interface.is_some_and(|interface| name(interface).is_none()) {
            return Err(refuse("there is no such interface"));
        }
        if route.source.is_some_and(|source| source.is_ipv6() != route.destination.is_ipv6()) {
            return Err(refuse("its source is of another family"));
        }
    }
    match network.neighbours.iter().find(|neighbour| name(neighbour.interface).is_none()) {
        Some(neighbour) => {
            Err(refused("network", format_args!("neighbour {}: there is no such interface", neighbour.ip)))
        }
        None => Ok(()),
    }
}

/// The kernel takes it as a name (dev_valid_name of net/core/dev.c), and not as a pattern of names.
fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name
            .bytes()
            .any(|byte| matches!(byte, b'/' | b':' | b'%' | 0 | 0x0b) || byte.is_ascii_whitespace())
}

/// Sets devices up as the interfaces of the network. New ones are down; /proc is mounted if there are kernel parameters.
pub(crate) fn apply_to(devices: &[Nic], network: &Network, socket: &Socket) -> Result<(), StartError> {
    for (device, interface) in devices.iter().zip(&network.interfaces).filter(|(device, _)| !device.is_set_up)
    {
        set_features(device, interface, socket)?;
    }
    let send = |requests: Requests<About>| {
        requests.send(socket).map_err(|(about, error)| failure(network, about, error))
    };
    let mut requests = Requests::new();
    rename(&mut requests, devices, network);
    if !network.sysctl.is_empty() {
        send(std::mem::replace(&mut requests, Requests::new()))?;
        set_parameters(&network.sysctl)?;
    }
    set_up(&mut requests, devices, network);
    add_routes(&mut requests, devices, network);
    if devices.iter().any(|device| device.is_set_up) {
        // Most of it is there.
        requests.replace();
    }
    send(requests)
}

/// Sets what the driver is to use of its device, while nothing is on its way.
fn set_features(device: &Nic, interface: &Interface, socket: &Socket) -> Result<(), StartError> {
    let set = |action: &dyn Display, command, values| {
        ethtool(socket.fd().as_fd(), &device.name, command, values)
            .map_err(|error| failed(about_interface(interface), action, error))
    };
    let wanted = u32::from(interface.queue_pairs);
    if wanted != device.queue_pairs {
        let action = format!("use {wanted} queue pairs");
        let [.., other, _] = set(&action, EthtoolCommand::GetChannels, [0; 8])?;
        set(&action, EthtoolCommand::SetChannels, [0, 0, 0, 0, 0, 0, other, wanted])?;
    }
    if !interface.offloads {
        let value = [0; 8];
        set(&"send without segmentation offload", EthtoolCommand::SetTso, value)?;
        set(&"send without checksum offload", EthtoolCommand::SetTxChecksum, value)?;
    }
    Ok(())
}

/// Gives the devices the names of the interfaces.
fn rename(requests: &mut Requests<About>, devices: &[Nic], network: &Network) {
    let new: Vec<usize> = (0..devices.len()).filter(|number| !devices[*number].is_set_up).collect();
    let names: Vec<_> = new
        .iter()
        .map(|number| (&devices[*number], &network.interfaces[*number]))
        .map(|(device, interface)| (interface.window, device.name.as_str(), interface.name.as_str()))
        .collect();
    for (number, name) in renames(&names) {
        let link = Link { name: Some(&name), ..Link::default() };
        requests.set_link(About::Interface(new[number]), devices[new[number]].index, link);
    }
}

/// Makes the interfaces ready for packets, with their addresses.
fn set_up(requests: &mut Requests<About>, devices: &[Nic], network: &Network) {
    for (number, (device, interface)) in devices.iter().zip(&network.interfaces).enumerate() {
        if !device.is_set_up {
            let (mac, mtu) = (Some(interface.mac), Some(interface.mtu));
            // What the interface has comes with its addresses; what the pod makes of it later is as everywhere.
            let link_local = (interface.mtu >= LEAST_IPV6_MTU).then_some(LinkLocal::OfMac);
            let link = Link { name: None, mac, mtu, link_local, up: true };
            requests.set_link(About::Interface(number), device.index, link);
        }
        for (at, address) in interface.addresses.iter().enumerate() {
            requests.add_address(About::Address(number, at), device.index, address);
        }
    }
}

fn add_routes(requests: &mut Requests<About>, devices: &[Nic], network: &Network) {
    let index = |interface: u8| devices.get(usize::from(interface)).map(|device| device.index);
    for (number, route) in network.routes.iter().enumerate() {
        requests.add_route(About::Route(number), route.interface.and_then(index), route);
    }
    for (number, neighbour) in network.neighbours.iter().enumerate() {
        // `check` has seen that there is one; the kernel refuses 0.
        let index = index(neighbour.interface).unwrap_or(0);
        requests.add_neighbour(About::Neighbour(number), index, neighbour);
    }
}

fn set_parameters(parameters: &[(String, String)]) -> Result<(), StartError> {
    for (name, value) in parameters {
        let path = format!("/proc/sys/{name}");
        std::fs::write(&path, value)
            .map_err(|error| failed("network", format_args!("write {path}"), error))?;
    }
    Ok(())
}

fn about_interface(interface: &Interface) -> String {
    format!("network: interface {}", interface.name)
}

fn route_name(network: &Network, number: usize) -> String {
    let route = &network.routes[number];
    let gateway = |ip: IpAddr| format!(" via {ip}");
    format!(
        "route to {}/{}{}",
        route.destination,
        route.prefix_bits,
        route.gateway.map(gateway).unwrap_or_default()
    )
}

/// What the kernel would not do.
fn failure(network: &Network, about: About, error: Errno) -> StartError {
    match about {
        About::Interface(number) => failed(about_interface(&network.interfaces[number]), "set it up", error),
        About::Address(number, at) => {
            let interface = &network.interfaces[number];
            let address = &interface.addresses[at];
            let action = format_args!("address {}/{}", address.ip, address.prefix_bits);
            failed(about_interface(interface), action, error)
        }
        About::Route(number) => failed("network", route_name(network, number), error),
        About::Neighbour(number) => {
            failed("network", format_args!("neighbour {}", network.neighbours[number].ip), error)
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
