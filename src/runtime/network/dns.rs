//! The container's /etc/resolv.conf, where the network is made here: a file of the pod's state directory, mounted read-only.
//! Nothing is written into the image, and what config.json mounts there itself stays.

use std::fs::{self, Permissions};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use crx_oci::Planned;
use crx_proto::{BindSource, Mount, MountKind, Volume};

use crate::runtime::log;

/// Where a container looks for its name servers.
const PLACE: &str = "/etc/resolv.conf";
/// Where systemd-resolved says whom it asks itself (systemd-resolved.service(8)).
const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// Whom a pod asks for names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resolver {
    /// Those whom the host asks, as far as they can be reached by IPv4.
    OfHost,
    /// This address, where somebody passes questions on to those of the host.
    At(Ipv4Addr),
}

impl Resolver {
    /// Writes the pod's resolv.conf.
    ///
    /// # Errors
    /// The host's cannot be read, or this one not be written.
    pub(crate) fn write(self, file: &Path) -> anyhow::Result<()> {
        let text = self.text()?;
        // For every user of the container, whatever our umask.
        let written =
            fs::write(file, text).and_then(|()| fs::set_permissions(file, Permissions::from_mode(0o644)));
        written.with_context(|| format!("cannot write {}", file.display()))
    }

    fn text(self) -> anyhow::Result<String> {
        let host = read(PLACE)?;
        let text = match self {
            Self::At(address) => return Ok(with_servers(&host, &[address])),
            Self::OfHost if servers(&host).any(|address| address.is_loopback()) => {
                match read(BEHIND_RESOLVED)? {
                    text if text.is_empty() => host,
                    text => text,
                }
            }
            Self::OfHost => host,
        };
        let servers = usable(&text);
        if servers.is_empty() {
            log::warning(&format!(
                "{PLACE} of the host names no server that a pod could reach by IPv4; it will know no names unless config.json mounts a file there"
            ));
        }
        Ok(with_servers(&text, &servers))
    }
}

/// A file's text; nothing if it is not there.
fn read(path: &str) -> anyhow::Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        text => text.with_context(|| format!("cannot read {path} of the host")),
    }
}

/// The servers of a resolv.conf (resolv.conf(5)).
fn servers(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == "nameserver")?;
        words.next()?.parse().ok()
    })
}

/// Those that are somewhere else than on the host's loopback interface.
fn usable(text: &str) -> Vec<Ipv4Addr> {
    let usable = |address| match address {
        IpAddr::V4(address) if !address.is_loopback() && !address.is_unspecified() => Some(address),
        _ => None,
    };
    servers(text).filter_map(usable).collect()
}

/// What a resolv.conf says beside its servers, with these.
fn with_servers(text: &str, servers: &[Ipv4Addr]) -> String {
    let kept = |line: &&str| {
        matches!(line.split_whitespace().next(), Some("search" | "domain" | "options" | "sortlist"))
    };
    let servers = servers.iter().map(|address| format!("nameserver {address}"));
    let lines = servers.chain(text.lines().filter(kept).map(str::to_owned));
    lines.map(|line| line + "\n").collect()
}

/// Adds the mount of `file` to a container, unless config.json has one there or on the directory.
pub(crate) fn mount(planned: &mut Planned, file: PathBuf) {
    let plan = &mut planned.plan;
    if plan.mounts.iter().any(|mount| matches!(mount.destination.as_str(), PLACE | "/etc")) {
        return;
    }
    let number = plan.volumes.len() as u32;
    plan.volumes.push(Volume { is_directory: false });
    planned.volumes.push(file);
    plan.mounts.push(Mount {
        index: plan.mounts.len() as u32,
        destination: PLACE.to_owned(),
        kind: MountKind::Bind { source: BindSource::Volume(number), recursive: false },
        flags: libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
        clear_flags: 0,
        propagation: 0,
        recursive_flags: 0,
        recursive_clear_flags: 0,
        copy_up: false,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "# Made by somebody\nsearch example.org\nnameserver 127.0.0.53\nnameserver\t192.0.2.53\n\
                        nameserver fd00::53\nnameserver fe80::1%eth0\nnameserver ::1\nnameserver nonsense\noptions edns0\n";

    #[test]
    fn servers_that_a_pod_can_reach_are_kept() {
        assert_eq!(usable(HOST), [Ipv4Addr::new(192, 0, 2, 53)]);
        assert_eq!(usable("nameserver 127.0.0.1\n nameserver 0.0.0.0\n"), [] as [Ipv4Addr; 0]);
        assert!(servers(HOST).any(|address| address.is_loopback()));
    }

    #[test]
    fn what_is_said_beside_servers_stays() {
        let servers = [Ipv4Addr::new(169, 254, 1, 1)];
        assert_eq!(
            with_servers(HOST, &servers),
            "nameserver 169.254.1.1\nsearch example.org\noptions edns0\n"
        );
        assert_eq!(with_servers("", &[]), "");
    }
}
