//! The pod's network devices: which is behind which virtio-mmio window of the VM.
//!
//! Those of the boot are found before the pod's moment, so that a pod made of a template does not look for them. A device
//! that was plugged in later has no driver yet: nothing was in its window when the kernel looked.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crx_proto::{Interface, StartError};
use rustix::fs::{Dir, Mode, OFlags, openat, readlinkat};
use rustix::io::{Errno, write};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use rustix::net::netdevice::name_to_index;

use super::netlink::{Requests, Socket};
use super::requests::{Link, LinkLocal};
use crate::failure::{failed, refused};
use crate::sys::{EthtoolCommand, ethtool};

/// Below a sysfs: a symbolic link for each network device, to its directory among all devices.
const NETWORK_DEVICES: &CStr = c"class/net";
/// Below a sysfs: takes the name of a device that the driver of the windows is to look at again.
const BIND: &CStr = c"bus/platform/drivers/virtio-mmio/bind";
/// And the name of one that it is to leave.
const UNBIND: &CStr = c"bus/platform/drivers/virtio-mmio/unbind";
/// A window's name among all devices, before its number.
const WINDOW: &str = "virtio-mmio.";

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nic {
    /// The kernel's number of it.
    pub(crate) index: u32,
    /// Its name as it was found.
    pub(crate) name: String,
    /// Queue pairs that the driver uses.
    pub(crate) queue_pairs: u32,
    /// It is an interface of the pod already.
    pub(crate) is_set_up: bool,
}

/// What it takes to find network devices and to set them up.
pub(crate) struct Nics {
    pub(crate) socket: Socket,
    sysfs: OwnedFd,
    /// Those of the boot that have not been taken yet, with their windows.
    found: Vec<(u8, Nic)>,
    /// Those that are set up, likewise.
    ready: Vec<(u8, Nic)>,
}

impl Nics {
    /// Finds those that are there.
    pub(crate) fn find() -> Result<Self, StartError> {
        // Nowhere attached, so that no container's mount namespace copies it.
        let sysfs = fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC)
            .and_then(|sysfs| fsconfig_create(&sysfs).map(|()| sysfs))
            .and_then(|sysfs| fsmount(sysfs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()))
            .map_err(|error| failed("network", "mount sysfs", error))?;
        let socket = Socket::new().map_err(|error| failed("network", "open a netlink socket", error))?;
        let look = || -> io::Result<Vec<_>> {
            let nics = nics_in(sysfs.as_fd())?;
            nics.into_iter().map(|(window, name)| Ok((window, raised(&socket, name)?))).collect()
        };
        let found = look().map_err(|error| failed("network", "look for network devices", error))?;
        Ok(Self { socket, sysfs, found, ready: Vec::new() })
    }

    /// The devices of the interfaces.
    pub(crate) fn take(&mut self, interfaces: &[Interface]) -> Result<Vec<Nic>, StartError> {
        let known = |nics: &Self, window| {
            nics.found
                .iter()
                .chain(&nics.ready)
                .find(|(other, _)| *other == window)
                .map(|(_, nic)| nic.clone())
        };
        let fail = |interface: &Interface, action, error: io::Error| {
            failed(format_args!("network: interface {}", interface.name), action, error)
        };
        let (mut look, mut later) = (false, Vec::new());
        for interface in interfaces.iter().filter(|interface| known(self, interface.window).is_none()) {
            let window = interface.window;
            tell(self.sysfs.as_fd(), BIND, window)
                .map_err(|error| fail(interface, format!("bind {WINDOW}{window}"), error.into()))?;
            look = true;
        }
        if look {
            later = nics_in(self.sysfs.as_fd())
                .map_err(|error| failed("network", "look for network devices", error))?;
        }
        let mut take = |interface: &Interface| {
            let window = interface.window;
            if let Some(nic) = known(self, window) {
                self.found.retain(|(other, _)| *other != window);
                return Ok(nic);
            }
            let Some(at) = later.iter().position(|(other, _)| *other == window) else {
                let field = format_args!("network: interface {}", interface.name);
                return Err(refused(field, format_args!("{WINDOW}{window} is no free network device")));
            };
            let name = later.swap_remove(at).1;
            raised(&self.socket, name)
                .map_err(|error| fail(interface, "look at its device".to_owned(), error))
        };
        interfaces.iter().map(&mut take).collect()
    }

    /// These devices are the interfaces now.
    pub(crate) fn keep(&mut self, interfaces: &[Interface], devices: Vec<Nic>) {
        for (interface, nic) in interfaces.iter().zip(devices).filter(|(_, nic)| !nic.is_set_up) {
            self.ready.push((interface.window, Nic { is_set_up: true, ..nic }));
        }
    }

    /// Takes the devices of new interfaces away again, which could not be set up.
    pub(crate) fn remove_new(&mut self, interfaces: &[Interface]) -> Result<(), StartError> {
        let is_ready = |window| self.ready.iter().any(|(other, _)| *other == window);
        let new = interfaces.iter().map(|interface| interface.window).filter(|window| !is_ready(*window));
        self.remove(&new.collect::<Vec<_>>())
    }

    /// Takes the devices of the boot away that nobody has taken: they would be interfaces that lead nowhere.
    pub(crate) fn remove_untaken(&mut self) -> Result<(), StartError> {
        let untaken: Vec<u8> = self.found.drain(..).map(|(window, _)| window).collect();
        self.remove(&untaken)
    }

    fn remove(&self, windows: &[u8]) -> Result<(), StartError> {
        windows.iter().try_for_each(|window| {
            tell(self.sysfs.as_fd(), UNBIND, *window)
                .map_err(|error| failed("network", format_args!("unbind {WINDOW}{window}"), error))
        })
    }
}

/// The device with this name, up: of what an interface needs this takes longest, and in a template it is done. It gets no
/// address, as nothing of it is the pod's yet.
pub(crate) fn raised(socket: &Socket, name: String) -> io::Result<Nic> {
    let nic = nic(socket, name)?;
    let mut requests = Requests::new();
    requests.set_link((), nic.index, Link { link_local: Some(LinkLocal::None), ..Link::default() });
    requests.set_link((), nic.index, Link { up: true, ..Link::default() });
    requests.send(socket).map_err(|((), error)| io::Error::from(error))?;
    Ok(nic)
}

/// What there is to know of the device with this name.
pub(crate) fn nic(socket: &Socket, name: String) -> io::Result<Nic> {
    let index = name_to_index(socket.fd(), &name)?;
    let queue_pairs = match ethtool(socket.fd().as_fd(), &name, EthtoolCommand::GetChannels, [0; 8]) {
        // A driver with queues of one direction only has no pairs.
        Ok([.., pairs]) => pairs.max(1),
        // Its driver knows no number of queue pairs but one.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => 1,
        Err(error) => return Err(error),
    };
    Ok(Nic { index, name, queue_pairs, is_set_up: false })
}

/// Has the driver look at a window or leave it. Whether it has it, or has not, already does not matter.
fn tell(sysfs: BorrowedFd<'_>, what: &CStr, window: u8) -> rustix::io::Result<()> {
    let file = openat(sysfs, what, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    match write(&file, format!("{WINDOW}{window}").as_bytes()) {
        Ok(_) | Err(Errno::BUSY | Errno::NODEV) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The network devices behind windows: the number of the window and the device's name.
fn nics_in(sysfs: BorrowedFd<'_>) -> io::Result<Vec<(u8, String)>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut directory = Dir::new(openat(sysfs, NETWORK_DEVICES, flags, Mode::empty())?)?;
    let mut nics = Vec::new();
    while let Some(entry) = directory.read() {
        let entry = entry?;
        let (Ok(name), true) = (entry.file_name().to_str(), !is_virtual(entry.file_name())) else { continue };
        let name = name.to_owned();
        let target = readlinkat(directory.fd()?, entry.file_name(), Vec::with_capacity(128))?;
        nics.extend(target.to_str().ok().and_then(window_in).map(|window| (window, name)));
    }
    Ok(nics)
}

/// Not a network device's name, or that of one in every network namespace.
fn is_virtual(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b".." | b"lo")
}

/// The number of the window in the path of a device that is behind one.
fn window_in(path: &str) -> Option<u8> {
    path.split('/').find_map(|part| part.strip_prefix(WINDOW))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A directory like a sysfs, with network devices `name`, `path`.
    fn sysfs(devices: &[(&str, &str)]) -> (tempfile::TempDir, OwnedFd) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("class/net")).unwrap();
        for (name, path) in devices {
            symlink(path, directory.path().join("class/net").join(name)).unwrap();
        }
        let fd = fs::File::open(directory.path()).unwrap().into();
        (directory, fd)
    }

    #[test]
    fn a_network_device_is_known_by_the_window_in_its_path() {
        let (_directory, sysfs) = sysfs(&[
            ("eth0", "../../devices/virtio-mmio-cmdline/virtio-mmio.3/virtio3/net/eth0"),
            ("eth1", "../../devices/platform/virtio-mmio.17/virtio4/net/eth1"),
            ("veth", "../../devices/virtual/net/veth"),
            ("wide", "../../devices/platform/virtio-mmio.256/virtio5/net/wide"),
            ("lo", "../../devices/virtual/net/lo"),
        ]);
        let mut nics = nics_in(sysfs.as_fd()).unwrap();
        nics.sort();
        assert_eq!(nics, [(3, "eth0".to_owned()), (17, "eth1".to_owned())]);
    }

    #[test]
    fn the_driver_is_told_which_window_to_look_at() {
        let (directory, sysfs) = sysfs(&[]);
        assert_eq!(tell(sysfs.as_fd(), BIND, 4), Err(Errno::NOENT));
        let driver = directory.path().join("bus/platform/drivers/virtio-mmio");
        fs::create_dir_all(&driver).unwrap();
        fs::write(driver.join("bind"), "").unwrap();
        tell(sysfs.as_fd(), BIND, 4).unwrap();
        assert_eq!(fs::read_to_string(driver.join("bind")).unwrap(), "virtio-mmio.4");
    }

    #[test]
    fn a_window_without_a_network_device_is_an_error_of_its_interface() {
        let (directory, sysfs) = sysfs(&[]);
        let mut nics = Nics { socket: Socket::new().unwrap(), sysfs, found: Vec::new(), ready: Vec::new() };
        let interface = crate::net::apply::tests::interface(4, "net1");
        let error = nics.take(std::slice::from_ref(&interface)).unwrap_err();
        assert_eq!(error.message, "network: interface net1: bind virtio-mmio.4: No such file or directory");
        let driver = directory.path().join("bus/platform/drivers/virtio-mmio");
        fs::create_dir_all(&driver).unwrap();
        fs::write(driver.join("bind"), "").unwrap();
        let error = nics.take(&[interface]).unwrap_err();
        assert_eq!(error.message, "network: interface net1: virtio-mmio.4 is no free network device");
    }

    /// Devices of the boot, behind these windows.
    fn found(sysfs: OwnedFd, windows: &[u8]) -> Nics {
        let nic = |window: &u8| {
            let name = format!("eth{window}");
            (*window, Nic { index: u32::from(*window), name, queue_pairs: 1, is_set_up: false })
        };
        let found = windows.iter().map(nic).collect();
        Nics { socket: Socket::new().unwrap(), sysfs, found, ready: Vec::new() }
    }

    #[test]
    fn a_device_is_taken_without_looking_and_known_when_it_was_kept() {
        let (_directory, sysfs) = sysfs(&[]);
        let mut nics = found(sysfs, &[3]);
        let interface = [crate::net::apply::tests::interface(3, "eth0")];
        let devices = nics.take(&interface).unwrap();
        assert_eq!((devices[0].index, devices[0].is_set_up), (3, false));
        assert!(nics.take(&interface).is_err());
        nics.keep(&interface, devices);
        assert!(nics.take(&interface).unwrap()[0].is_set_up);
    }

    #[test]
    fn devices_that_are_no_interfaces_are_taken_away_and_others_stay() {
        let (directory, sysfs) = sysfs(&[]);
        let driver = directory.path().join("bus/platform/drivers/virtio-mmio");
        fs::create_dir_all(&driver).unwrap();
        fs::write(driver.join("unbind"), "").unwrap();
        let told = || fs::read_to_string(driver.join("unbind")).unwrap();
        let mut nics = found(sysfs, &[3, 4]);
        let [first, second] = [3, 5].map(|window| crate::net::apply::tests::interface(window, "eth0"));
        let devices = nics.take(std::slice::from_ref(&first)).unwrap();
        nics.keep(std::slice::from_ref(&first), devices);
        nics.remove_untaken().unwrap();
        assert_eq!(told(), "virtio-mmio.4");
        nics.remove_untaken().unwrap();
        nics.remove_new(&[first, second]).unwrap();
        assert_eq!(told(), "virtio-mmio.5");
    }
}
