//! Real containers in namespaces of this machine, with its /usr as their image. They need root, as PID 1 has it.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crx_proto::{
    Capabilities, Cgroup as Limits, Device, DeviceKind, DeviceRule, IdMapping, Mount, Namespace,
    NamespaceKind, Network, Process, ProcessId, Rlimit, Seccomp, SockFilter, TimeOffset, TimeOffsetClock,
    UserMappings, Volume,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, WaitStatus, waitpid};

use super::*;

/// Held by a test while it has children: some tests reap every child of this process.
pub(crate) fn children() -> MutexGuard<'static, ()> {
    static CHILDREN: Mutex<()> = Mutex::new(());
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A share on this machine with an image in it, the same for the containers 1 to 3.
pub(crate) struct Share {
    directory: tempfile::TempDir,
    cgroup: &'static str,
    device_nodes: &'static str,
    id: String,
    _children: MutexGuard<'static, ()>,
}

impl Share {
    /// `None`, with a word about it, where containers cannot be made.
    pub(crate) fn new() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: making containers needs root");
            return None;
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let Some(cgroup) = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")) else {
            eprintln!("skipped: cgroup2 is not mounted");
            return None;
        };
        let cgroup = cgroup.split(' ').nth(1).unwrap().to_owned().leak();
        let directory = tempfile::tempdir().unwrap();
        let rootfs = directory.path().join("1/rootfs");
        fs::create_dir_all(&rootfs).unwrap();
        fs::create_dir(directory.path().join("1/volumes")).unwrap();
        symlink("/usr", directory.path().join("1/volumes/0")).unwrap();
        symlink("1", directory.path().join("2")).unwrap();
        symlink("1", directory.path().join("3")).unwrap();
        for name in ["bin", "lib", "lib64", "sbin"] {
            symlink(format!("usr/{name}"), rootfs.join(name)).unwrap();
        }
        // Root of a user namespace has to be able to go there.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let device_nodes = directory.path().join("devices").to_str().unwrap().to_owned().leak();
        let id = format!("crx-test-{}-{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        Some(Self { directory, cgroup, device_nodes, id, _children: children() })
    }

    /// This machine as a pod.
    pub(crate) fn pod(&self) -> Pod {
        let share = self.directory.path().to_str().unwrap().to_owned().leak();
        Pod::this_machine(self.cgroup, share, self.device_nodes)
    }

    /// A file of the image.
    pub(crate) fn file(&self, path: &str) -> std::path::PathBuf {
        self.directory.path().join("1/rootfs").join(path)
    }

    /// A cgroup that a plan made.
    pub(crate) fn cgroup(&self, id: &str) -> String {
        format!("{}/{id}", self.cgroup)
    }

    /// A plan as `runc spec` would have it, for a shell script.
    pub(crate) fn plan(&self, script: &str) -> Plan {
        let namespace = |kind| Namespace { kind, path: None };
        let char = |path: &str, major, minor| Device {
            path: path.to_owned(),
            kind: DeviceKind::Char,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        };
        Plan {
            id: self.id.clone(),
            namespaces: [NamespaceKind::Pid, NamespaceKind::Mount, NamespaceKind::Cgroup]
                .map(namespace)
                .to_vec(),
            user_mappings: None,
            network: Network::default(),
            time_offsets: Vec::new(),
            hostname: None,
            domainname: None,
            sysctl: Vec::new(),
            cgroup: Limits::default(),
            rootfs_propagation: 0,
            rootfs_readonly: false,
            volumes: vec![Volume { is_directory: true }],
            mounts: vec![
                bind("/usr", 0),
                file_system("/proc", "proc", "", 0),
                file_system("/dev", "tmpfs", "mode=755,size=65536k", libc::MS_NOSUID),
                file_system("/dev/pts", "devpts", "newinstance,ptmxmode=0666,mode=0620", libc::MS_NOSUID),
            ],
            devices: vec![char("/dev/null", 1, 3), char("/dev/zero", 1, 5), char("/dev/tty", 5, 0)],
            masked_paths: Vec::new(),
            readonly_paths: Vec::new(),
            process: Process {
                terminal: None,
                args: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
                env: vec!["PATH=/bin:/usr/bin".to_owned()],
                cwd: "/work/here".to_owned(),
                uid: 0,
                gid: 0,
                additional_gids: Vec::new(),
                umask: None,
                capabilities: all_capabilities(),
                rlimits: Vec::new(),
                no_new_privileges: false,
                oom_score_adj: None,
                io_priority: None,
            },
            seccomp: None,
            start_hooks: Vec::new(),
            state_json: String::new(),
        }
    }

    /// Runs a plan to its end; returns what it wrote to stdout and its exit code.
    fn run(&self, plan: &Plan) -> Result<(String, i32), StartError> {
        let mut pod = self.pod();
        let (stdin, _) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (output, stdout) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let stderr = stdout.try_clone().unwrap();
        let streams = Streams::Pipes { stdin, stdout, stderr };
        let prepared = Prepared::new(plan, true, &mut pod)?;
        let share = pod.share_of(ProcessId(1));
        let (made, error) = if may_share_memory(plan, true) {
            prepared.start(&share, &streams, None)?
        } else {
            let (ours, theirs) = Link::pair()?;
            let (made, error) = prepared.fork(&share, &streams, (&ours, &theirs), false)?;
            drop(theirs);
            if error.is_some() {
                sys::send_signal(made.first.pidfd.as_fd(), 9).unwrap();
            }
            let mut fds = [PollFd::new(&ours, PollFlags::IN)];
            poll(&mut fds, None).unwrap();
            let said = match ours.receive() {
                Said::Failed(error) => Some(error),
                _ => None,
            };
            (made, error.or(said))
        };
        drop(streams);
        let mut text = String::new();
        File::from(output).read_to_string(&mut text).unwrap();
        let status = wait_for(made.first.pid);
        let code = status.exit_status().or(status.terminating_signal().map(|signal| 128 + signal));
        error.map_or(Ok((text, code.unwrap())), Err)
    }
}

fn wait_for(pid: u32) -> WaitStatus {
    waitpid(Pid::from_raw(pid as i32), WaitOptions::empty()).unwrap().unwrap().1
}

impl Drop for Share {
    fn drop(&mut self) {
        // What a test left running ends, and what has just ended may not have left its cgroup.
        let cgroup = self.cgroup(&self.id);
        let _ = fs::write(format!("{cgroup}/cgroup.kill"), "1");
        while let Err(error) = cgroup::remove(&cgroup)
            && error.raw_os_error() == Some(libc::EBUSY)
        {
            std::thread::yield_now();
        }
    }
}

/// The capabilities of this process: root may lack some in the machine of a test.
fn all_capabilities() -> Capabilities {
    let all = rustix::thread::capabilities(None).unwrap().permitted.bits();
    Capabilities { bounding: all, effective: all, permitted: all, ..Default::default() }
}

fn file_system(destination: &str, fstype: &str, data: &str, flags: u64) -> Mount {
    let kind =
        MountKind::FileSystem { fstype: fstype.to_owned(), source: fstype.to_owned(), data: data.to_owned() };
    mount(destination, kind, flags)
}

fn bind(destination: &str, volume: u32) -> Mount {
    mount(
        destination,
        MountKind::Bind { source: BindSource::Volume(volume), recursive: true },
        libc::MS_RDONLY,
    )
}

fn mount(destination: &str, kind: MountKind, flags: u64) -> Mount {
    Mount {
        index: 7,
        destination: destination.to_owned(),
        kind,
        flags,
        clear_flags: 0,
        propagation: 0,
        recursive_flags: 0,
        recursive_clear_flags: 0,
        copy_up: false,
    }
}

#[test]
fn a_container_has_its_own_processes_mounts_devices_and_directory() {
    let Some(share) = Share::new() else { return };
    let script = "echo $$; pwd; umask; ls -d /proc/[0-9]* | wc -l; readlink /dev/fd /dev/ptmx; \
                  stat -c '%a %t:%T' /dev/null; grep ' / ' /proc/self/mounts | wc -l; cat /proc/self/cgroup; \
                  touch /usr/x 2>/dev/null || echo read-only; echo to-null > /dev/null; ls /dev/stdout > /dev/null && \
                  echo again > /dev/stdout; exit 3";
    let (output, code) = share.run(&share.plan(script)).unwrap();
    assert_eq!(code, 3, "{output}");
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(&lines[..3], ["1", "/work/here", "0022"]);
    assert_eq!(&lines[4..8], ["/proc/self/fd", "pts/ptmx", "666 1:3", "1"]);
    assert!(lines.contains(&"0::/"), "a cgroup namespace hides where the container is: {output}");
    assert_eq!(&lines[lines.len() - 2..], ["read-only", "again"]);
    assert!(
        !share.directory.path().join("1/rootfs/dev/null").exists(),
        "nodes are made in the container's /dev"
    );
}

#[test]
fn a_program_that_is_missing_is_127() {
    let Some(share) = Share::new() else { return };
    let mut plan = share.plan("");
    plan.process.args = vec!["no-such-program".to_owned()];
    let error = share.run(&plan).unwrap_err();
    assert_eq!(error.exit_code, 127);
    assert_eq!(error.message, "process.args[0]: \"no-such-program\": executable file not found in $PATH");
}

#[test]
fn a_mount_that_fails_names_its_field() {
    let Some(share) = Share::new() else { return };
    let mut plan = share.plan("");
    plan.mounts.push(file_system("/data", "tmpfs", "size=wrong", 0));
    let error = share.run(&plan).unwrap_err();
    assert_eq!(error.message, "mounts[7] (/data): mount tmpfs: Invalid argument");
    plan.mounts.pop();
    plan.mounts.push(file_system("/data", "no-such-type", "", 0));
    assert_eq!(share.run(&plan).unwrap_err().exit_code, 1);
}

#[test]
fn a_user_gets_groups_capabilities_and_streams_that_can_be_opened_again() {
    let Some(share) = Share::new() else { return };
    let script = "id -u; id -g; id -G; grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs' /proc/self/status | cut -f2; \
                  ulimit -n; umask; echo again > /proc/self/fd/1";
    let mut plan = share.plan(script);
    plan.process.uid = 1234;
    plan.process.gid = 55;
    plan.process.additional_gids = vec![7, 8];
    plan.process.umask = Some(0o077);
    plan.process.no_new_privileges = true;
    plan.process.rlimits = vec![Rlimit { resource: libc::RLIMIT_NOFILE, soft: 99, hard: 100 }];
    let some = 1 << 10 | 1 << 5;
    plan.process.capabilities = Capabilities {
        bounding: some | 2,
        effective: some,
        permitted: some,
        inheritable: some,
        ambient: some,
    };
    let (output, code) = share.run(&plan).unwrap();
    assert_eq!(code, 0, "{output}");
    let mask = |bits: u64| format!("{bits:016x}");
    let expected = format!(
        "1234\n55\n55 7 8\n{0}\n{0}\n{0}\n{1}\n{0}\n1\n99\n0077\nagain\n",
        mask(some),
        mask(some | 2)
    );
    assert_eq!(output, expected);
}

#[test]
fn paths_are_masked_and_read_only() {
    let Some(share) = Share::new() else { return };
    let script = "cat /proc/version | wc -c; ls -A /proc/tty | wc -l; echo 1 > /proc/sys/vm/drop_caches || echo denied; \
                  touch /x || echo denied; touch /dev/x || echo denied; echo ok > /work/file && cat /work/file";
    let mut plan = share.plan(script);
    plan.masked_paths = vec!["/proc/version".into(), "/proc/tty".into(), "/proc/not-there".into()];
    plan.readonly_paths = vec!["/proc/sys".into(), "/not/there".into()];
    plan.rootfs_readonly = true;
    plan.mounts[2].flags |= libc::MS_RDONLY;
    plan.mounts.push(file_system("/work", "tmpfs", "", 0));
    plan.process.cwd = "/work".to_owned();
    let (output, _) = share.run(&plan).unwrap();
    let lines: Vec<&str> =
        output.lines().filter(|line| !line.contains("sh:") && !line.contains("touch:")).collect();
    assert_eq!(lines, ["0", "0", "denied", "denied", "denied", "ok"], "{output}");
}

#[test]
fn a_tmpfs_can_start_with_what_it_covers() {
    let Some(share) = Share::new() else { return };
    fs::create_dir_all(share.directory.path().join("1/rootfs/etc/sub")).unwrap();
    fs::write(share.directory.path().join("1/rootfs/etc/sub/file"), "content\n").unwrap();
    let mut plan = share.plan("cat /etc/sub/file; echo changed > /etc/sub/file; cat /etc/sub/file");
    plan.mounts.push(Mount { copy_up: true, ..file_system("/etc", "tmpfs", "", 0) });
    assert_eq!(share.run(&plan).unwrap().0, "content\nchanged\n");
    assert_eq!(
        fs::read_to_string(share.directory.path().join("1/rootfs/etc/sub/file")).unwrap(),
        "content\n"
    );
}

#[test]
fn the_device_program_decides_after_the_nodes_were_made() {
    let Some(share) = Share::new() else { return };
    let script =
        "head -c 1 /dev/zero | wc -c; mknod /dev/other c 1 7 || echo denied; cat /dev/null || echo denied";
    let mut plan = share.plan(script);
    let rule = |allow, minor, access| DeviceRule { allow, kind: None, major: None, minor, access };
    plan.cgroup.devices = vec![rule(false, None, 7), rule(true, Some(5), 6)];
    let (output, _) = share.run(&plan).unwrap();
    let lines: Vec<&str> = output.lines().filter(|line| !line.contains(':')).collect();
    assert_eq!(lines, ["1", "denied", "denied"], "{output}");
}

#[test]
fn a_seccomp_filter_is_installed_with_and_without_no_new_privileges() {
    let Some(share) = Share::new() else { return };
    // Load the system call's number; mkdir (83) fails with EPERM, everything else is allowed.
    let program = [(0x20, 0, 0, 0), (0x15, 0, 1, 83), (0x06, 0, 0, 0x0005_0001), (0x06, 0, 0, 0x7fff_0000)];
    let program = program.map(|(code, jt, jf, k)| SockFilter { code, jt, jf, k }).to_vec();
    for no_new_privileges in [false, true] {
        let mut plan = share.plan("mkdir /made 2>/dev/null || echo denied");
        plan.seccomp = Some(Seccomp { flags: 0, program: program.clone() });
        plan.process.no_new_privileges = no_new_privileges;
        plan.process.cwd = "/".to_owned();
        assert_eq!(share.run(&plan).unwrap().0, "denied\n");
        rustix::fs::rmdir(share.cgroup(&share.id)).unwrap();
    }
}

/// The plan in a user namespace, with an image that belongs to its root.
pub(crate) fn in_user_namespace(share: &Share, mut plan: Plan) -> Plan {
    let map = |pod| vec![IdMapping { container: 0, pod, size: 65536 }];
    plan.user_mappings = Some(UserMappings { uids: map(100_000), gids: map(200_000) });
    for kind in [NamespaceKind::User, NamespaceKind::Network, NamespaceKind::Ipc, NamespaceKind::Uts] {
        plan.namespaces.push(Namespace { kind, path: None });
    }
    chown(share.file(""), Some(100_000), Some(200_000)).unwrap();
    plan
}

#[test]
fn a_user_namespace_owns_the_others_and_its_root_is_nobody_outside() {
    let Some(share) = Share::new() else { return };
    let script = "echo $$; id -u; cat /proc/self/uid_map /proc/self/gid_map; touch /file; stat -c %u:%g /file /usr /dev/zero; \
                  mount -t tmpfs none /work && echo mounts; hostname inside && hostname; head -c1 /dev/zero | wc -c; \
                  mknod /node c 1 3 2>/dev/null || echo no nodes; ulimit -Hn; cat /proc/self/oom_score_adj; \
                  echo again > /proc/self/fd/1; cat /sys/class/net/lo/flags; cat /proc/sys/net/ipv4/ip_forward";
    let mut plan = in_user_namespace(&share, share.plan(script));
    plan.mounts.push(file_system("/sys", "sysfs", "", libc::MS_RDONLY));
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap();
    plan.process.rlimits = vec![Rlimit { resource: libc::RLIMIT_NOFILE, soft: 64, hard }];
    plan.process.oom_score_adj = Some(5);
    plan.process.capabilities.bounding = u64::MAX;
    plan.sysctl = vec![("net.ipv4.ip_forward".to_owned(), "1".to_owned())];
    let rule = |allow, minor, access| DeviceRule { allow, kind: None, major: None, minor, access };
    plan.cgroup.devices = vec![rule(false, None, 7), rule(true, Some(3), 6), rule(true, Some(5), 6)];
    let (output, code) = share.run(&plan).unwrap();
    assert_eq!(code, 0, "{output}");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
    let expected = format!(
        "1|0|0 100000 65536|0 200000 65536|0:0|65534:65534|0:0|mounts|inside|1|no nodes|{hard}|5|again|0x9|1"
    );
    assert_eq!(output.lines().map(words).collect::<Vec<_>>().join("|"), expected);
    let file = fs::metadata(share.file("file")).unwrap();
    assert_eq!((file.uid(), file.gid()), (100_000, 200_000));
    assert_eq!(fs::read_dir(share.device_nodes).unwrap().count(), 0, "no name of a node is left in the pod");
}

#[test]
fn what_fails_in_a_user_namespace_is_told_as_elsewhere() {
    let Some(share) = Share::new() else { return };
    let mut plan = in_user_namespace(&share, share.plan(""));
    plan.process.args = vec!["no-such-program".to_owned()];
    let error = share.run(&plan).unwrap_err();
    assert_eq!(error.exit_code, 127);
    assert_eq!(error.message, "process.args[0]: \"no-such-program\": executable file not found in $PATH");
}

#[test]
fn mappings_that_the_kernel_refuses_name_their_field() {
    let Some(share) = Share::new() else { return };
    let mut plan = in_user_namespace(&share, share.plan(""));
    let mappings = plan.user_mappings.as_mut().unwrap();
    mappings.gids.push(mappings.gids[0]);
    let error = share.run(&plan).unwrap_err();
    assert_eq!(error.message, "linux.gidMappings: map: Invalid argument");
}

#[test]
fn a_time_namespace_has_clocks_of_its_own() {
    let Some(share) = Share::new() else { return };
    let plain = share.run(&share.plan("cat /proc/uptime")).unwrap().0;
    rustix::fs::rmdir(share.cgroup(&share.id)).unwrap();
    let mut plan = share.plan("cat /proc/self/timens_offsets /proc/uptime");
    plan.namespaces.push(Namespace { kind: NamespaceKind::Time, path: None });
    let offset = |clock, seconds| TimeOffset { clock, seconds, nanoseconds: 5 };
    plan.time_offsets =
        vec![offset(TimeOffsetClock::Monotonic, 1000), offset(TimeOffsetClock::Boottime, 2_000_000)];
    let (output, code) = share.run(&plan).unwrap();
    assert_eq!(code, 0, "{output}");
    let words: Vec<&str> = output.split_whitespace().collect();
    assert_eq!(words[..6], ["monotonic", "1000", "5", "boottime", "2000000", "5"], "{output}");
    let seconds = |text: &str| text.split('.').next().unwrap().parse::<u64>().unwrap();
    assert!(seconds(words[6]) >= seconds(&plain) + 2_000_000, "{plain} then {output}");
    plan.time_offsets = vec![offset(TimeOffsetClock::Boottime, i64::MIN)];
    rustix::fs::rmdir(share.cgroup(&share.id)).unwrap();
    let error = share.run(&plan).unwrap_err();
    assert_eq!(error.message, "linux.timeOffsets: set: Numerical result out of range");
}

#[test]
fn memory_is_shared_only_with_what_no_other_container_sees() {
    let Some(share) = Share::new() else { return };
    let mut plan = share.plan("");
    assert!(may_share_memory(&plan, true) && may_share_memory(&plan, false));
    plan.namespaces[0].path = Some("/proc/self/ns/pid".to_owned());
    assert!(!may_share_memory(&plan, true) && !may_share_memory(&plan, false));
    // The pod's PID namespace: the first container is alone in it.
    plan.namespaces.remove(0);
    assert!(may_share_memory(&plan, true) && !may_share_memory(&plan, false));
}

#[test]
fn namespaces_by_path_are_joined() {
    let Some(share) = Share::new() else { return };
    let mut plan = share.plan("for kind in pid net; do readlink /proc/self/ns/$kind; done");
    // Not the time namespace: a process with threads, as this one, cannot join one.
    let kinds = [(NamespaceKind::Pid, "pid"), (NamespaceKind::Network, "net"), (NamespaceKind::Uts, "uts")];
    let by_path = |(kind, name)| Namespace { kind, path: Some(format!("/proc/self/ns/{name}")) };
    plan.namespaces.retain(|namespace| namespace.kind == NamespaceKind::Mount);
    plan.namespaces.extend(kinds.map(by_path));
    let (output, code) = share.run(&plan).unwrap();
    assert_eq!(code, 0, "{output}");
    let own = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display().to_string();
    assert_eq!(output, format!("{}\n{}\n", own("pid"), own("net")));
}

#[test]
fn a_namespace_that_a_pod_cannot_give_is_refused() {
    let Some(share) = Share::new() else { return };
    let mut plan = share.plan("");
    let path = Some("/proc/self/ns/user".to_owned());
    plan.namespaces.push(Namespace { kind: NamespaceKind::User, path });
    let error = share.run(&plan).unwrap_err();
    assert_eq!(
        error.message,
        "linux.namespaces[3]: a container of a pod cannot have the user namespace of another"
    );
}

#[test]
fn a_terminal_is_the_containers_console() {
    let Some(share) = Share::new() else { return };
    let mut plan =
        share.plan("tty; stty size; test -c /dev/console && echo console; test -t 0 && echo input");
    plan.process.terminal = Some((33, 77));
    let pod = share.pod();
    let (ours, theirs) = Link::pair().unwrap();
    let prepared = Prepared::new(&plan, true, &mut share.pod()).unwrap();
    let directory = pod.share_of(ProcessId(1));
    let (made, error) = prepared.start(&directory, &Streams::Terminal, Some(&theirs)).unwrap();
    assert_eq!(error, None);
    let Said::Terminal(master) = ours.receive() else { panic!("no terminal") };
    let mut master = File::from(master);
    let mut text = Vec::new();
    // A terminal ends with EIO, not with an end of file.
    let _ = master.read_to_end(&mut text);
    assert_eq!(String::from_utf8_lossy(&text), "/dev/pts/0\r\n33 77\r\nconsole\r\ninput\r\n");
    wait_for(made.first.pid);
}
