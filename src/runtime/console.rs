//! The terminal of a detached container: a pair on the host, whose master goes to whoever waits on the console socket
//! (conmon, containerd), as runc sends it. The pod's own terminal has the line discipline; this one passes bytes.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::Context;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use super::channel;

/// Opens a terminal, sends its master over the socket at `path`, and returns its other side.
///
/// # Errors
/// The host has no terminals left, or nobody waits there.
pub(crate) fn open_and_send(path: &Path) -> anyhow::Result<OwnedFd> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let open = || {
        let master = openpt(flags)?;
        unlockpt(&master)?;
        let terminal = ioctl_tiocgptpeer(&master, flags)?;
        let mut mode = tcgetattr(&terminal)?;
        mode.make_raw();
        tcsetattr(&terminal, OptionalActions::Now, &mode)?;
        let name = ptsname(&master, Vec::new())?;
        rustix::io::Result::Ok((master, terminal, name))
    };
    let (master, terminal, name) = open().context("cannot open a terminal")?;
    let socket = UnixStream::connect(path)
        .with_context(|| format!("--console-socket {}: nobody listens there", path.display()))?;
    channel::send_descriptor(&socket, name.to_bytes(), master.as_fd())
        .with_context(|| format!("--console-socket {}", path.display()))?;
    Ok(terminal)
}
