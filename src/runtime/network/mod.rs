//! The pod's network, on the host's side: a network namespace that CNI, podman or whoever else has prepared is looked
//! at ([`Namespace::find`]), and each of its interfaces is joined to a tap ([`Namespace::join`]), whose descriptors are the
//! other side of the VM's network devices. What the guest has to do comes out as a [`crx_proto::Network`].
//!
//! A frame that comes in on an interface is redirected to its tap before the namespace's own kernel sees it, and the
//! other way round (tc-mirred(8)). So every kind of interface that carries Ethernet frames will do, its address remains its
//! own, and nothing in the namespace is taken apart: whoever made it finds it as it was.
//!
//! Everything goes through netlink sockets of a thread that enters the namespace and ends with its work; the calling thread never
//! changes its namespace.

mod address;
pub(crate) mod dns;
mod find;
mod link;
pub(crate) mod nat;
mod netlink;
mod nftables;
mod passt;
pub(crate) mod publish;
pub(crate) mod rates;
mod redirect;
mod route;
mod sys;
mod sysctl;
mod tap;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod vhost;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::OFlags;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub(crate) use find::Found;

use super::channel::Joint;

/// Interfaces that a pod has at most: one for each of the VM's windows for network devices.
pub(crate) const MAX_INTERFACES: usize = 4;

/// What file systems of namespaces say that they are (NSFS_MAGIC, linux/magic.h).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Where a pod's interfaces come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A network namespace that somebody has prepared.
    Namespace(PathBuf),
    /// The pod's own process's, which its hooks prepare.
    Hooks,
    /// One that is made here, behind the host's address.
    Nat {
        /// Ports of the host that are the pod's.
        ports: Vec<publish::Port>,
        /// What keeps others from taking them ([`publish::reserve`]).
        reserved: Vec<OwnedFd>,
    },
    /// One that passt makes.
    Passt {
        /// Ports of the host that are the pod's.
        ports: Vec<publish::Port>,
    },
}

impl Source {
    /// The namespace of the host, as far as others than the pod may put interfaces into it.
    ///
    /// # Errors
    /// There is no current directory.
    pub(crate) fn path(&self, pid: u32) -> std::io::Result<Option<PathBuf>> {
        Ok(match self {
            Self::Namespace(path) => Some(std::path::absolute(path)?),
            Self::Hooks => Some(of_process(pid)),
            Self::Nat { .. } | Self::Passt { .. } => None,
        })
    }

    /// Whom the pod asks for names, unless that is a matter of whoever prepared its network.
    pub(crate) fn resolver(&self) -> Option<dns::Resolver> {
        match self {
            Self::Namespace(_) | Self::Hooks => None,
            Self::Nat { .. } => Some(dns::Resolver::OfHost),
            Self::Passt { .. } => Some(dns::Resolver::At(passt::NAME_SERVER)),
        }
    }

    /// Refuses what cannot be a pod's, before anything is made for it; unless hooks have yet to prepare it.
    ///
    /// # Errors
    /// Those of [`Namespace::find`].
    pub(crate) fn check(&self, hooks: bool) -> anyhow::Result<()> {
        match self {
            Self::Namespace(path) if !hooks => Namespace::open(path)?.find().map(drop),
            _ => Ok(()),
        }
    }

    /// Makes the network of a pod whose process is `pid`, for its first container.
    ///
    /// # Errors
    /// Those of [`Namespace::find`], [`Namespace::join`], [`nat::nat`] and [`passt::passt`].
    pub(crate) fn join(self, pid: u32, queue_pairs: u8) -> anyhow::Result<Joined> {
        let namespace = match self {
            Self::Namespace(path) => Namespace::open(&path)?,
            Self::Hooks => Namespace::open(&of_process(pid))?,
            Self::Nat { ports, reserved } => {
                let mut joined = nat::nat(&Namespace::own()?, &ports, queue_pairs)?;
                joined.held.extend(reserved);
                return Ok(joined);
            }
            Self::Passt { ports } => return passt::passt(&ports, queue_pairs),
        };
        namespace.join(namespace.find()?, queue_pairs)
    }
}

/// The network namespace of a process.
fn of_process(pid: u32) -> PathBuf {
    format!("/proc/{pid}/ns/net").into()
}

/// A network namespace of the host, held by a descriptor.
#[derive(Debug)]
pub(crate) struct Namespace {
    file: File,
    path: PathBuf,
}

/// A network namespace's interfaces joined to taps.
#[derive(Debug)]
pub(crate) struct Joined {
    /// What the guest is to make of its devices.
    pub(crate) network: crx_proto::Network,
    /// For each interface of [`Self::network`] its index in the namespace.
    pub(crate) indexes: Vec<u32>,
    /// And a descriptor for each queue pair, none for one that the pod has already. The tap is gone when they are closed.
    pub(crate) taps: Vec<Vec<OwnedFd>>,
    /// What else has to stay open as long as the pod lives.
    pub(crate) held: Vec<OwnedFd>,
}

impl Joined {
    /// As it goes to the VMM process: the network, what there is for each of its interfaces, and the descriptors.
    pub(crate) fn into_parts(self) -> (crx_proto::Network, Vec<Joint>, Vec<OwnedFd>) {
        let Self { network, indexes, taps, held } = self;
        let (mut joints, mut descriptors) = (Vec::new(), Vec::new());
        for (index, taps) in indexes.into_iter().zip(taps) {
            let vhosts = vhost::open(taps.len());
            joints.push(Joint { index, taps: taps.len() as u8, vhosts: vhosts.len() as u8 });
            descriptors.extend(taps.into_iter().chain(vhosts));
        }
        descriptors.extend(held);
        (network, joints, descriptors)
    }
}

impl Namespace {
    /// Opens the network namespace at `path`.
    ///
    /// # Errors
    /// Nothing is there, or it is no network namespace.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        // Opening whatever else is there must not wait for anybody.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)
            .with_context(|| format!("network namespace {shown}: cannot open it"))?;
        let statfs =
            rustix::fs::fstatfs(&file).with_context(|| format!("network namespace {shown}: statfs"))?;
        if statfs.f_type != NSFS_MAGIC {
            bail!("network namespace {shown}: this is no namespace; was it unmounted?");
        }
        if !sys::is_network_namespace(file.as_fd()).with_context(|| format!("{shown}: NS_GET_NSTYPE"))? {
            bail!("network namespace {shown}: this is a namespace of another kind");
        }
        Ok(Self { file, path: path.to_owned() })
    }

    /// The network namespace of this thread: the host's.
    ///
    /// # Errors
    /// There is no /proc.
    pub(crate) fn own() -> anyhow::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// A new one, with a loopback interface that is down. It is gone when nothing holds it open.
    ///
    /// # Errors
    /// This process has not the rights, or there are too many.
    fn new_empty() -> anyhow::Result<Self> {
        // Made by a thread, which leaves it behind.
        let made = std::thread::spawn(|| {
            crate::sys::unshare_network().context("unshare")?;
            Self::own()
        });
        let made = made.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let Self { file, .. } = made.context("cannot make a network namespace for the pod")?;
        Ok(Self { file, path: "of the pod".into() })
    }

    /// Looks at everything in the namespace that a pod in its place has to have.
    ///
    /// # Errors
    /// Something in it cannot be had in a pod, or the kernel does not say what is there.
    pub(crate) fn find(&self) -> anyhow::Result<Found> {
        self.within(|| find::find(None))
    }

    /// Looks again, for a pod that has some of the interfaces: at those, and at those with one of these names (without any: at all).
    /// Of kernel parameters only those of new interfaces are found.
    ///
    /// # Errors
    /// As [`Self::find`]; or there is no such interface.
    pub(crate) fn find_later(&self, names: &[String]) -> anyhow::Result<Found> {
        self.within(|| find::find(Some(names)))
    }

    /// True if an interface is there that [`Self::find_later`] would look at and no pod has. Asks for one list.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn has_new(&self) -> anyhow::Result<bool> {
        self.within(find::has_new)
    }

    /// The interfaces but for loopback and our taps: index and name.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn names(&self) -> anyhow::Result<Vec<(u32, String)>> {
        self.within(find::names)
    }

    /// Joins each interface that was found, and that the pod does not have, to a new tap with `queue_pairs` queues in each direction.
    /// Joinings of a pod that is gone are replaced.
    ///
    /// # Errors
    /// An interface has vanished, is joined to another pod, or the kernel refuses; nothing is joined then.
    pub(crate) fn join(&self, found: Found, queue_pairs: u8) -> anyhow::Result<Joined> {
        self.within(|| {
            let Found { mut network, indexes, joined } = found;
            let mut taps = Vec::new();
            for ((interface, index), joined) in network.interfaces.iter_mut().zip(&indexes).zip(&joined) {
                interface.queue_pairs = queue_pairs;
                interface.offloads = true;
                if *joined {
                    taps.push(Vec::new());
                    continue;
                }
                match join_one(interface, *index) {
                    Ok(tap) => taps.push(tap),
                    Err(error) => {
                        let new = indexes.iter().zip(&taps).filter(|(_, taps)| !taps.is_empty());
                        let new: Vec<u32> = new.map(|(index, _)| *index).collect();
                        drop(taps);
                        // What is joined to a tap that is gone would swallow every frame.
                        for index in new {
                            let _ = redirect::remove_stale(index);
                        }
                        return Err(error);
                    }
                }
            }
            Ok(Joined { network, indexes, taps, held: Vec::new() })
        })
    }

    /// Takes back what was joined just now to taps that the pod has not taken, or that it closes.
    ///
    /// # Errors
    /// The kernel's, but an interface may be gone.
    pub(crate) fn part_from(&self, joints: &[Joint]) -> anyhow::Result<()> {
        self.within(|| {
            for joint in joints.iter().filter(|joint| joint.taps > 0) {
                redirect::remove(joint.index).context("cannot part an interface from its tap")?;
            }
            Ok(())
        })
    }

    /// Runs `work` in a thread of its own that is in the namespace.
    fn within<T: Send>(&self, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        let place = || format!("network namespace {}", self.path.display());
        let inside = || {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| "cannot enter it")?;
            work()
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("crx-netns".to_owned());
            let thread = thread.spawn_scoped(scope, inside).context("cannot start a thread")?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
        .with_context(place)
    }
}

/// Frees the interfaces of a namespace from the taps of a pod that is gone. A namespace that is gone too is fine.
///
/// # Errors
/// The path is something else than a network namespace, or the kernel refuses.
pub(crate) fn part(path: &Path) -> anyhow::Result<()> {
    let namespace = match Namespace::open(path) {
        // Its file may be there still when it is no mount any more.
        Err(_) if !is_namespace(path) => return Ok(()),
        opened => opened?,
    };
    namespace.within(|| {
        for index in find::indexes()? {
            redirect::remove_stale(index).context("cannot part an interface from its tap")?;
        }
        Ok(())
    })
}

fn is_namespace(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type == NSFS_MAGIC)
}

/// Joins one interface to a tap.
fn join_one(interface: &crx_proto::Interface, index: u32) -> anyhow::Result<Vec<OwnedFd>> {
    let name = &interface.name;
    let explained = |error: io::Error| match error.raw_os_error() {
        Some(libc::ENODEV) => anyhow::anyhow!("interface {name} has vanished"),
        _ => anyhow::Error::new(error).context(format!("interface {name} cannot be joined to a tap")),
    };
    redirect::remove_stale(index).map_err(explained)?;
    let tap = tap::Tap::new(index, interface.queue_pairs, interface.mtu)?;
    let redirected = redirect::add(tap.index, index).and_then(|()| redirect::add(index, tap.index));
    match redirected {
        Ok(()) => Ok(tap.queues),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
            bail!(
                "interface {name} has an ingress qdisc already: another pod uses it, or somebody has set it up"
            )
        }
        Err(error) => Err(explained(error)),
    }
}
