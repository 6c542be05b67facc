//! A network for a pod that needs no rights on the host: pasta(1) of passt carries what the pod sends over sockets of its own.
//!
//! pasta makes a network namespace, for a program that it starts there, and an interface in it, which is joined to a tap like any other
//! (its sibling passt would need no namespace, but takes no frames that the guest leaves to be cut into segments and summed). The program
//! is `cat` on a socket whose other end the VMM process holds: when that is gone, however it went, cat reads the end of it and ends, and pasta
//! with it, and the namespace. What cat says first tells that pasta is ready, and, by the process ID which the kernel adds, where the
//! namespace is.

use std::ffi::OsString;
use std::io::{self, ErrorKind, IoSliceMut, PipeReader, Read, Write};
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt};

use super::publish::{Port, Protocol};
use super::{Joined, Namespace};

/// Where the pod asks for names: pasta passes it on to the host's server. Link-local, so it is nobody else's.
pub(super) const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The pod's interface.
const INTERFACE: &str = "eth0";
/// How long pasta may take to be ready; it needs a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes a network for a pod out of sockets of this thread's namespace, and joins it to a tap as [`Namespace::join`] does.
///
/// # Errors
/// pasta is not there or refuses, or those of [`Namespace::join`].
pub(super) fn passt(ports: &[Port], queue_pairs: u8) -> anyhow::Result<Joined> {
    let mut pasta = Pasta::start(ports)?;
    let namespace = pasta.namespace()?;
    let mut found = namespace.find()?;
    // They are the kernel's own, in which nobody has set anything for this pod.
    found.network.sysctl.clear();
    let mut joined = namespace.join(found, queue_pairs)?;
    joined.held.extend([pasta.socket.into(), pasta.stderr.into()]);
    Ok(joined)
}

/// A pasta; it ends when the socket is closed.
struct Pasta {
    process: Child,
    /// To cat.
    socket: UnixStream,
    stderr: PipeReader,
}

impl Pasta {
    fn start(ports: &[Port]) -> anyhow::Result<Self> {
        let (mut socket, other) = UnixStream::pair()?;
        sockopt::set_socket_passcred(&socket, true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        // For cat to send back.
        socket.write_all(b"?")?;
        let (stderr, writer) = io::pipe()?;
        // Nobody reads what pasta complains of later: that must not stop it.
        fcntl_setfl(&writer, OFlags::NONBLOCK)?;
        let process = Command::new("pasta")
            .args(arguments(ports))
            .stdin(OwnedFd::from(other.try_clone()?))
            .stdout(OwnedFd::from(other))
            .stderr(writer)
            // Ctrl-C is for the container.
            .process_group(0)
            .spawn();
        let process = process.map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                anyhow::anyhow!("--net passt: there is no program pasta; install the package passt")
            }
            _ => anyhow::Error::new(error).context("--net passt: cannot start pasta"),
        })?;
        Ok(Self { process, socket, stderr })
    }

    /// Waits until it is ready; where its namespace is.
    fn namespace(&mut self) -> anyhow::Result<Namespace> {
        match self.hear() {
            Ok(Some(pid)) => Namespace::open(Path::new(&format!("/proc/{pid}/ns/net"))),
            Ok(None) => bail!("--net passt: {}", self.last_words()?),
            Err(error) => {
                // It is stuck, and may not end by itself.
                self.process.kill()?;
                self.process.wait()?;
                Err(error).context("--net passt: pasta does not become ready")
            }
        }
    }

    /// The process that sends the first byte; none if it is gone.
    fn hear(&self) -> anyhow::Result<Option<i32>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(&self.socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::empty())
        });
        let received = match received {
            // Gone before cat has read our byte.
            Err(Errno::CONNRESET) => return Ok(None),
            received => received?,
        };
        if received.bytes == 0 {
            return Ok(None);
        }
        let pid = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.pid.as_raw_nonzero().get()),
            _ => None,
        });
        Ok(Some(pid.context("the kernel does not say who it is")?))
    }

    /// Why it is gone: the last of its lines, but for those on not having a syslog.
    fn last_words(&mut self) -> anyhow::Result<String> {
        let status = self.process.wait()?;
        let mut text = String::new();
        self.stderr.read_to_string(&mut text)?;
        let line = text.lines().rfind(|line| !line.is_empty() && !line.starts_with("Failed to send"));
        Ok(line.map_or_else(|| format!("pasta ended: {status}"), |line| format!("pasta: {line}")))
    }
}

/// pasta's command line.
fn arguments(ports: &[Port]) -> Vec<OsString> {
    let name_server = NAME_SERVER.to_string();
    let mut arguments = vec![
        "--quiet",
        "--stderr",
        // It keeps this user, who has no rights in the user namespace that it makes for itself: as nobody, which it
        // would become for root, it may not open the host's /dev/net/tun.
        "--runas",
        "0",
        "--config-net",
        "--ns-ifname",
        INTERFACE,
        "--dns-forward",
        &name_server,
        // The gateway would be the host with all that listens on its loopback interface.
        "--no-map-gw",
        // Nor is that of the namespace anything to the host, nor the other way round.
        "--tcp-ns",
        "none",
        "--udp-ns",
        "none",
    ]
    .into_iter()
    .map(str::to_owned)
    .collect::<Vec<String>>();
    for (option, protocol) in [("--tcp-ports", Protocol::Tcp), ("--udp-ports", Protocol::Udp)] {
        let of_protocol: Vec<&Port> = ports.iter().filter(|port| port.protocol == protocol).collect();
        if of_protocol.is_empty() {
            arguments.extend([option.to_owned(), "none".to_owned()]);
        }
        for port in of_protocol {
            let address = port.address.map(|address| format!("{address}/")).unwrap_or_default();
            arguments.extend([option.to_owned(), format!("{address}{}:{}", port.host, port.pod)]);
        }
    }
    arguments.extend(["--".to_owned(), "cat".to_owned()]);
    arguments.into_iter().map(OsString::from).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::publish::parse;
    use super::*;

    fn after(ports: &[&str], option: &str) -> Vec<String> {
        let ports: Vec<Port> = ports.iter().flat_map(|ports| parse(ports).unwrap()).collect();
        let words: Vec<String> =
            arguments(&ports).into_iter().map(|word| word.into_string().unwrap()).collect();
        words.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1].clone()).collect()
    }

    #[test]
    fn only_published_ports_are_pastas() {
        let ports = ["8080:80", "192.0.2.1:53:5353/udp", "9000-9001:1-2"];
        assert_eq!(after(&ports, "--tcp-ports"), ["8080:80", "9000:1", "9001:2"]);
        assert_eq!(after(&ports, "--udp-ports"), ["192.0.2.1/53:5353"]);
        for option in ["--tcp-ports", "--udp-ports", "--tcp-ns", "--udp-ns"] {
            assert_eq!(after(&[], option), ["none"]);
        }
        assert_eq!(after(&[], "--"), ["cat"]);
    }
}
