//! Network namespaces: one that stands for the host, and the pods'.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command as Host;
use std::time::Duration;

use crx_fixture::{Bundle, Command, Running};
use rustix::mount::{UnmountFlags, unmount};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

/// A network namespace, kept by a file.
pub(crate) struct Namespace {
    directory: TempDir,
}

impl Namespace {
    /// A new one, with loopback up.
    pub(crate) fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("netns-").tempdir().unwrap();
        let namespace = Self { directory };
        File::create(namespace.path()).unwrap();
        let made = Host::new("unshare")
            .arg(format!("--net={}", namespace.path().display()))
            .args(["ip", "link", "set", "lo", "up"])
            .status();
        assert!(made.unwrap().success());
        namespace
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("net")
    }

    /// Runs `ip` in it.
    pub(crate) fn ip(&self, words: &str) -> String {
        let inside = format!("--net={}", self.path().display());
        output(Host::new("nsenter").arg(inside).arg("ip").args(words.split_whitespace()))
    }

    /// Runs `work` in it.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            enter(&File::open(self.path()).unwrap());
            work()
        };
        std::thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }

    /// The command that runs a container whose pod has its interfaces.
    pub(crate) fn run(&self, bundle: &Bundle) -> Command {
        self.run_with(bundle, &[])
    }

    /// The same with more options.
    pub(crate) fn run_with(&self, bundle: &Bundle, more: &[&str]) -> Command {
        let option = format!("ns:{}", self.path().display());
        bundle.command_with(&[&["--net", &option], more].concat())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = unmount(self.path(), UnmountFlags::DETACH);
    }
}

/// The namespace that stands for the host: the calling thread, and what it starts, is in it until this is dropped.
pub(crate) struct Place {
    real: File,
    _own: Namespace,
}

impl Place {
    pub(crate) fn enter() -> Self {
        let real = File::open("/proc/thread-self/ns/net").unwrap();
        let own = Namespace::new();
        enter(&File::open(own.path()).unwrap());
        Self { real, _own: own }
    }

    /// A pod's namespace with the interface eth0 and the address 10.66.0.2, the host's being 10.66.0.1.
    pub(crate) fn pod(&self) -> Namespace {
        let pod = Namespace::new();
        self.veth(&pod, "eth0", "v0");
        ip("addr add 10.66.0.1/24 dev v0");
        pod.ip("addr add 10.66.0.2/24 dev eth0");
        pod
    }

    /// Joins a namespace by a veth pair: `name` in the namespace, `other` here.
    pub(crate) fn veth(&self, namespace: &Namespace, name: &str, other: &str) {
        let pid_or_file = namespace.path();
        ip(&format!("link add {other} type veth peer name {name}"));
        // ip(8) takes namespaces by their names below /run/netns or by process: this one is entered to fetch the device.
        move_link(name, &pid_or_file);
        ip(&format!("link set {other} up"));
        namespace.ip(&format!("link set {name} up"));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        enter(&self.real);
    }
}

fn enter(namespace: &File) {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

/// Moves a device to the namespace of a file.
fn move_link(name: &str, path: &Path) {
    let holder =
        Host::new("nsenter").arg(format!("--net={}", path.display())).args(["sleep", "1000"]).spawn();
    let mut holder = holder.unwrap();
    let pid = holder.id();
    // Until it is there.
    let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    while std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap() == own {
        std::thread::sleep(Duration::from_millis(1));
    }
    ip(&format!("link set {name} netns {pid}"));
    holder.kill().unwrap();
    holder.wait().unwrap();
}

/// Runs `ip` on the stand-in for the host.
pub(crate) fn ip(words: &str) -> String {
    output(Host::new("ip").args(words.split_whitespace()))
}

/// Waits for a connection, as long as the pod lives that it has to come from.
pub(crate) fn accept(listener: &TcpListener, running: &mut Running) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    while running.is_running() {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).unwrap();
            return stream;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the pod is gone and has not connected");
}

/// What a command of the host prints.
pub(crate) fn output(command: &mut Host) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {} {}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}
