//! Ports of the host behind which are ports of a pod: `--publish`.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use anyhow::bail;

/// Most ports of a pod: each is a descriptor, which have to fit into one message beside those of its files.
const MAX_PORTS: usize = 64;

/// A protocol that has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

/// A port of the host, and the pod's behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    /// The only address of the host at which it is; none for all.
    pub(super) address: Option<Ipv4Addr>,
    pub(super) host: u16,
    pub(super) pod: u16,
    pub(super) protocol: Protocol,
}

/// As --publish has it.
impl fmt::Display for Port {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.address {
            write!(formatter, "{address}:")?;
        }
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(formatter, "{}:{}/{protocol}", self.host, self.pod)
    }
}

impl Port {
    /// It is reached at 127.0.0.1 too, or only there.
    pub(super) fn is_on_loopback(&self) -> bool {
        self.address.is_none_or(|address| address.is_loopback())
    }

    /// Takes the port on the host. It is bound for TCP, and listened on, although the pod's packets never come to this socket: so
    /// another program that wants the port is told that it is taken, `ss` shows it, and a connection that is still about to end does not keep it.
    fn reserve(&self) -> io::Result<OwnedFd> {
        let place = SocketAddrV4::new(self.address.unwrap_or(Ipv4Addr::UNSPECIFIED), self.host);
        match self.protocol {
            Protocol::Tcp => TcpListener::bind(place).map(OwnedFd::from),
            Protocol::Udp => UdpSocket::bind(place).map(OwnedFd::from),
        }
    }
}

/// Reads `[HOSTIP:]HOST:POD[/tcp|/udp]`, where both ports may be ranges of the same length.
///
/// # Errors
/// Why it is none, for people.
pub(crate) fn parse(text: &str) -> Result<Vec<Port>, String> {
    let (ports, protocol) = match text.split_once('/') {
        None => (text, Protocol::Tcp),
        Some((ports, "tcp")) => (ports, Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some((_, other)) => return Err(format!("protocol {other:?}: must be tcp or udp")),
    };
    let form = || "must be [HOSTIP:]HOST:POD[/tcp|/udp]".to_owned();
    let (address, ports) = match ports.matches(':').count() {
        1 => (None, ports),
        2 => {
            let (address, ports) = ports.split_once(':').ok_or_else(form)?;
            let parsed = address.parse().map_err(|_| format!("{address:?} is no IPv4 address"))?;
            // As if it were not there.
            (Some(parsed).filter(|address: &Ipv4Addr| !address.is_unspecified()), ports)
        }
        _ if text.contains('[') => return Err("only IPv4 addresses are possible".to_owned()),
        _ => return Err(form()),
    };
    let (host, pod) = ports.split_once(':').ok_or_else(form)?;
    let ((host, host_last), (pod, pod_last)) = (range(host)?, range(pod)?);
    if host_last - host != pod_last - pod {
        return Err("the ranges of ports are not equally long".to_owned());
    }
    Ok((host..=host_last)
        .zip(pod..=pod_last)
        .map(|(host, pod)| Port { address, host, pod, protocol })
        .collect())
}

/// First and last of `PORT` or `FIRST-LAST`.
fn range(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| text.parse().ok().filter(|port| *port > 0);
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err(format!("{text:?} is no port: 1 to 65535, or FIRST-LAST")),
    }
}

/// Takes ports of this thread's namespace. They are taken until the descriptors are closed.
///
/// # Errors
/// They are too many, one is taken already, or it is not this user's.
pub(crate) fn reserve(ports: &[Port]) -> anyhow::Result<Vec<OwnedFd>> {
    if ports.len() > MAX_PORTS {
        bail!("--publish: {} ports; a pod can have at most {MAX_PORTS}", ports.len());
    }
    let reserve = |port: &Port| {
        port.reserve().map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => anyhow::anyhow!(
                "--publish {port}: the port is taken, by another pod or a program (ss -lnp names it); choose another"
            ),
            ErrorKind::AddrNotAvailable => {
                anyhow::anyhow!("--publish {port}: no interface of the host has this address")
            }
            ErrorKind::PermissionDenied => anyhow::anyhow!(
                "--publish {port}: this user may not have it (net.ipv4.ip_unprivileged_port_start); choose one above 1023"
            ),
            _ => anyhow::Error::new(error).context(format!("--publish {port}: cannot take the port")),
        })
    };
    ports.iter().map(reserve).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parsed(text: &str) -> Vec<String> {
        parse(text).unwrap().iter().map(Port::to_string).collect()
    }

    #[test]
    fn ports_are_read() {
        assert_eq!(parsed("8080:80"), ["8080:80/tcp"]);
        assert_eq!(parsed("0.0.0.0:8080:80/tcp"), ["8080:80/tcp"]);
        assert_eq!(parsed("192.0.2.1:53:5353/udp"), ["192.0.2.1:53:5353/udp"]);
        assert_eq!(parsed("8000-8002:80-82"), ["8000:80/tcp", "8001:81/tcp", "8002:82/tcp"]);
        assert_eq!(parsed("65535:65535"), ["65535:65535/tcp"]);
    }

    #[test]
    fn what_are_no_ports_is_refused_with_the_reason() {
        for (text, why) in [
            ("80", "must be [HOSTIP:]HOST:POD"),
            ("", "must be [HOSTIP:]HOST:POD"),
            ("0:80", "\"0\" is no port"),
            ("80:65536", "\"65536\" is no port"),
            ("80:", "\"\" is no port"),
            ("81-80:81-80", "\"81-80\" is no port"),
            ("80-81:80", "not equally long"),
            ("80:80/sctp", "protocol \"sctp\""),
            ("localhost:80:80", "\"localhost\" is no IPv4 address"),
            ("[::1]:80:80", "only IPv4"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_port_that_is_taken_is_named_and_free_again_afterwards() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = listener.local_addr().unwrap().port();
        let ports = parse(&format!("{number}:80")).unwrap();
        let error = reserve(&ports).unwrap_err().to_string();
        assert!(error.starts_with(&format!("--publish {number}:80/tcp: the port is taken")), "{error}");
        drop(listener);
        let reserved = reserve(&ports).unwrap();
        assert!(TcpListener::bind(("127.0.0.1", number)).is_err());
        assert!(reserve(&ports).is_err());
        drop(reserved);
        drop(reserve(&ports).unwrap());
        let udp = parse(&format!("127.0.0.1:{number}:80/udp")).unwrap();
        let _first = reserve(&udp).unwrap();
        assert!(reserve(&udp).unwrap_err().to_string().contains("the port is taken"));
    }

    #[test]
    fn addresses_of_others_and_too_many_ports_are_refused() {
        let error = reserve(&parse("192.0.2.77:9:9").unwrap()).unwrap_err().to_string();
        assert!(error.contains("no interface of the host has this address"), "{error}");
        let error = reserve(&parse("10000-10064:1-65").unwrap()).unwrap_err().to_string();
        assert!(error.contains("65 ports; a pod can have at most 64"), "{error}");
    }
}
