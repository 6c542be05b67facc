//! Kernel parameters of a namespace that whoever prepared it may have set for its interfaces, as CNI's tuning plugin,
//! Calico and Cilium do.
//!
//! What decides about packets and addresses is taken; what decides how quickly something is asked again, or is a matter of the
//! host's memory, is not: the guest's kernel is another one. `all` stands beside the interfaces because most of IPv4's
//! count for an interface if they are set for either.

use std::io;

/// Parameters of net/ipv4/conf/INTERFACE and what they are in a guest (Documentation/networking/ip-sysctl.rst).
const IPV4: [(&str, &str); 6] = [
    ("forwarding", "0"),
    ("rp_filter", "0"),
    ("arp_ignore", "0"),
    ("arp_announce", "0"),
    ("accept_local", "0"),
    ("proxy_arp", "0"),
];
/// Parameters of net/ipv6/conf/INTERFACE.
const IPV6: [(&str, &str); 5] =
    [("disable_ipv6", "0"), ("forwarding", "0"), ("accept_ra", "1"), ("accept_dad", "1"), ("autoconf", "1")];
/// Those of net/ipv6/conf/all that count for more than `all`.
const IPV6_ALL: [(&str, &str); 2] = [("disable_ipv6", "0"), ("forwarding", "0")];
/// Parameters of the namespace: who may open which sockets.
const WHOLE: [(&str, &str); 2] =
    [("net/ipv4/ip_unprivileged_port_start", "1024"), ("net/ipv4/ping_group_range", "1\t0")];

/// The parameters of this thread's namespace that a guest does not have anyway, those of all interfaces first: setting them sets
/// the others.
///
/// # Errors
/// One cannot be read.
pub(super) fn find<'a>(interfaces: impl Iterator<Item = &'a str>) -> io::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut look = |name: String, in_guest: &str| match std::fs::read_to_string(format!("/proc/sys/{name}")) {
        Ok(value) if value.trim() != in_guest => {
            found.push((name, value.trim().to_owned()));
            Ok(())
        }
        Ok(_) => Ok(()),
        // A host without IPv6, or an older kernel.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    for (name, in_guest) in WHOLE {
        look(name.to_owned(), in_guest)?;
    }
    let all = std::iter::once(("all", IPV6_ALL.as_slice()));
    for (interface, ipv6) in all.chain(interfaces.map(|interface| (interface, IPV6.as_slice()))) {
        for (name, in_guest) in IPV4 {
            look(format!("net/ipv4/conf/{interface}/{name}"), in_guest)?;
        }
        for (name, in_guest) in ipv6 {
            look(format!("net/ipv6/conf/{interface}/{name}"), in_guest)?;
        }
    }
    Ok(found)
}
