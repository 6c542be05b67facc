//! Whole pods: the loop in a process of its own, on this machine, and the test as its host. They need root.

mod executed;
mod questions;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use crx_proto::{
    Answer, ExecPlan, ExitStatus, Hook, Namespace, NamespaceKind, Plan, Question, Route, Stage, StreamPorts,
    frame,
};
use rustix::process::{Pid, WaitOptions, getpid, set_child_subreaper, waitpid};

use super::*;
use crate::container::tests::Share;
use crate::sys;

const FIRST: ProcessId = ProcessId(1);
const SECOND: ProcessId = ProcessId(2);
const EXECUTED: ProcessId = ProcessId(10);
/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(120);

/// A pod, seen from its host.
struct TestPod {
    share: Share,
    sockets: tempfile::TempDir,
    control: UnixStream,
    ports: u32,
    pid: u32,
    /// Streams of the first container, if the test does not have them.
    first: Option<Streams>,
}

/// The host's ends of a process's streams, once it has connected them.
struct Streams {
    ports: StreamPorts,
    listeners: Vec<UnixListener>,
}

impl Streams {
    /// The connection of a stream: 0 to 2, or 0 for a terminal.
    fn take(&mut self, number: usize) -> UnixStream {
        let (stream, _) = self.listeners[number].accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Everything written to stdout and stderr.
    fn output(&mut self) -> String {
        let mut text = String::new();
        for number in [1, 2] {
            self.take(number).read_to_string(&mut text).unwrap();
        }
        text
    }
}

impl TestPod {
    /// `None`, with a word about it, where containers cannot be made.
    fn new() -> Option<Self> {
        let share = Share::new()?;
        let sockets = tempfile::tempdir().unwrap();
        let (guest, control) = UnixStream::pair().unwrap();
        control.set_read_timeout(Some(PATIENCE)).unwrap();
        let (pod, directory) = (share.pod(), sockets.path().to_owned());
        let pid = sys::fork(move || {
            let guest = std::os::fd::OwnedFd::from(guest);
            sys::close_others(&[std::os::fd::AsFd::as_fd(&guest)]).unwrap();
            set_child_subreaper(Some(getpid())).unwrap();
            crate::hide_memory();
            let connect = |port: u32| {
                let stream = UnixStream::connect(directory.join(port.to_string()))?;
                stream.set_nonblocking(true)?;
                Ok(stream.into())
            };
            sys::unshare_network().unwrap();
            run(&mut Host::new(guest), pod, Nics::find(), None, &connect);
        });
        Some(Self { share, sockets, control, ports: 0, pid, first: None })
    }

    fn send(&mut self, message: &HostMessage) {
        self.control.write_all(&frame::encode(message).unwrap()).unwrap();
    }

    /// The next message but stages.
    fn hear(&mut self) -> GuestMessage {
        loop {
            match frame::read(&self.control).unwrap() {
                GuestMessage::Stage { .. } => {}
                message => return message,
            }
        }
    }

    /// The stages that are told before the next message, which is `last`.
    fn stages_until(&mut self, last: impl Fn(&GuestMessage) -> bool) -> Vec<(Option<ProcessId>, Stage)> {
        let mut stages = Vec::new();
        loop {
            match frame::read(&self.control).unwrap() {
                GuestMessage::Stage { process, stage, .. } => stages.push((process, stage)),
                message if last(&message) => return stages,
                message => panic!("{message:?} after {stages:?}"),
            }
        }
    }

    fn listen(&mut self, count: u32) -> Vec<UnixListener> {
        let first = self.ports;
        self.ports += count;
        (first..self.ports)
            .map(|port| UnixListener::bind(self.sockets.path().join(port.to_string())).unwrap())
            .collect()
    }

    fn streams(&mut self, terminal: bool) -> Streams {
        let at = self.ports;
        let listeners = self.listen(if terminal { 1 } else { 3 });
        let ports = if terminal {
            StreamPorts::Terminal(at)
        } else {
            StreamPorts::Pipes { stdin: at, stdout: at + 1, stderr: at + 2 }
        };
        Streams { ports, listeners }
    }

    fn create(&mut self, process: ProcessId, start: bool, plan: Plan) -> Streams {
        let streams = self.streams(plan.process.terminal.is_some());
        let owns_pod = process == FIRST;
        let plan = Box::new(plan);
        self.send(&HostMessage::Create { process, owns_pod, start, plan, streams: streams.ports });
        streams
    }

    fn execute(&mut self, process: ProcessId, plan: ExecPlan) -> Streams {
        let streams = self.streams(plan.process.terminal.is_some());
        let plan = Box::new(plan);
        self.send(&HostMessage::Exec { process, container: FIRST, plan, streams: streams.ports });
        streams
    }

    /// A shell script to be executed.
    fn script(&self, script: &str) -> ExecPlan {
        let mut process = self.share.plan(script).process;
        process.cwd = "/".to_owned();
        ExecPlan { process, seccomp: None, cgroup: String::new() }
    }

    fn kill(&mut self, process: ProcessId) {
        self.send(&HostMessage::Signal { process, signal: 9, everybody: false });
    }

    fn ask(&mut self, number: u32, question: Question) {
        self.send(&HostMessage::Ask { number, container: FIRST, question });
    }

    fn expect_created(&mut self, process: ProcessId) -> u32 {
        match self.hear() {
            GuestMessage::Created { process: created, pid } if created == process => pid,
            message => panic!("{message:?}"),
        }
    }

    fn expect_started(&mut self, process: ProcessId) -> u32 {
        let pid = self.expect_created(process);
        assert_eq!(self.hear(), GuestMessage::Started(process));
        pid
    }

    fn expect_exit(&mut self, process: ProcessId, code: u8) {
        let status = ExitStatus::Exited { code };
        assert_eq!(self.hear(), GuestMessage::Exited { process, status });
    }

    fn expect_killed(&mut self, process: ProcessId) {
        let status = ExitStatus::Signaled { signal: 9, out_of_memory: false };
        assert_eq!(self.hear(), GuestMessage::Exited { process, status });
    }

    fn expect_failure(&mut self, process: ProcessId) -> (u8, String) {
        match self.hear() {
            GuestMessage::StartFailed { process: failed, error } if failed == process => {
                (error.exit_code, error.message)
            }
            message => panic!("{message:?}"),
        }
    }

    fn expect_done(&mut self, number: u32) {
        assert_eq!(self.hear(), GuestMessage::Answer { number, answer: Ok(Answer::Done) });
    }

    /// The first container, which runs until it is killed.
    fn with_idle_container() -> Option<Self> {
        let mut pod = Self::new()?;
        let plan = pod.share.plan("exec sleep 100000");
        let streams = pod.create(FIRST, true, plan);
        pod.expect_started(FIRST);
        pod.first = Some(streams);
        Some(pod)
    }
}

impl Drop for TestPod {
    fn drop(&mut self) {
        let _ = self.control.write_all(&frame::encode(&HostMessage::PowerOff).unwrap());
        let status = waitpid(Pid::from_raw(self.pid as i32), WaitOptions::empty()).unwrap().unwrap().1;
        if !std::thread::panicking() {
            assert_eq!(status.exit_status(), Some(0), "the loop itself does not fail");
        }
    }
}

#[test]
fn containers_come_and_go_and_their_ids_come_again() {
    let Some(mut pod) = TestPod::with_idle_container() else { return };
    for code in [3, 4] {
        let mut plan = pod.share.plan(&format!("echo second {code}; exit {code}"));
        plan.id = format!("{}-again", plan.id);
        let cgroup = pod.share.cgroup(&plan.id);
        let mut streams = pod.create(SECOND, true, plan);
        pod.expect_started(SECOND);
        assert_eq!(streams.output(), format!("second {code}\n"));
        pod.expect_exit(SECOND, code);
        // The next answer comes after everything that belongs to the end.
        pod.ask(code.into(), Question::Resume);
        pod.expect_done(code.into());
        assert!(!std::path::Path::new(&cgroup).exists());
    }
    pod.kill(FIRST);
    pod.expect_killed(FIRST);
}

#[test]
fn a_created_container_waits_for_its_start() {
    let Some(mut pod) = TestPod::new() else { return };
    let plan = pod.share.plan("echo ran > /ran; cat; exit 5");
    let mut streams = pod.create(FIRST, false, plan);
    let pid = pod.expect_created(FIRST);
    let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(cgroup.trim_end().ends_with(&format!("0::/{}", pod.share.plan("").id)), "{cgroup}");
    assert!(!pod.share.file("ran").exists());
    pod.send(&HostMessage::Start(FIRST));
    assert_eq!(pod.hear(), GuestMessage::Started(FIRST));
    let mut stdin = streams.take(0);
    stdin.write_all(b"input").unwrap();
    drop(stdin);
    assert_eq!(streams.output(), "input");
    pod.expect_exit(FIRST, 5);
    assert!(pod.share.file("ran").exists());
}

#[test]
fn every_container_tells_its_stages() {
    let Some(mut pod) = TestPod::with_idle_container() else { return };
    let mut plan = pod.share.plan("exit 0");
    plan.id = format!("{}-second", plan.id);
    let _streams = pod.create(SECOND, false, plan);
    let of_second = |stages: &[Stage]| stages.iter().map(|stage| (Some(SECOND), *stage)).collect::<Vec<_>>();
    assert_eq!(
        pod.stages_until(|message| matches!(message, GuestMessage::Created { process: SECOND, .. })),
        of_second(&[Stage::Planned, Stage::Shared, Stage::Cgroup, Stage::Cloned, Stage::Made])
    );
    pod.send(&HostMessage::Start(SECOND));
    assert_eq!(
        pod.stages_until(|message| *message == GuestMessage::Started(SECOND)),
        of_second(&[Stage::Executed])
    );
    assert_eq!(
        pod.stages_until(|message| matches!(message, GuestMessage::Exited { process: SECOND, .. })),
        of_second(&[Stage::Ended])
    );
    // What is executed in a container has none.
    let plan = pod.script("exit 0");
    let _streams = pod.execute(EXECUTED, plan);
    let news: [fn(&GuestMessage) -> bool; 3] = [
        |message| matches!(message, GuestMessage::Created { .. }),
        |message| matches!(message, GuestMessage::Started(_)),
        |message| matches!(message, GuestMessage::Exited { .. }),
    ];
    for last in news {
        assert_eq!(pod.stages_until(last), []);
    }
}

#[test]
fn a_program_that_cannot_be_executed_fails_the_create() {
    let Some(mut pod) = TestPod::new() else { return };
    std::fs::write(pod.share.file("plain"), "text").unwrap();
    for (process, start, program, code) in [
        (FIRST, false, "no-such-program", 127),
        (SECOND, true, "no-such-program", 127),
        (SECOND, false, "/plain", 126),
        (SECOND, true, "/plain", 126),
    ] {
        let mut plan = pod.share.plan("");
        plan.process.args = vec![program.to_owned()];
        let cgroup = pod.share.cgroup(&plan.id);
        let _streams = pod.create(process, start, plan);
        assert_eq!(pod.expect_failure(process).0, code);
        assert!(!std::path::Path::new(&cgroup).exists(), "nothing is left");
    }
}

#[test]
fn a_container_can_be_killed_before_it_is_started() {
    let Some(mut pod) = TestPod::new() else { return };
    let plan = pod.share.plan("echo ran");
    let mut streams = pod.create(FIRST, false, plan);
    pod.expect_created(FIRST);
    pod.kill(FIRST);
    assert_eq!(streams.output(), "");
    pod.expect_killed(FIRST);
    pod.send(&HostMessage::Start(FIRST));
    pod.ask(1, Question::Usage);
    let answer = Err("the container has ended".to_owned());
    assert_eq!(pod.hear(), GuestMessage::Answer { number: 1, answer });
}

#[test]
fn a_waiting_container_holds_nothing_of_another() {
    let Some(mut pod) = TestPod::new() else { return };
    let plan = pod.share.plan("cat; ls /proc/1/fd; exit 1");
    let mut streams = pod.create(FIRST, true, plan);
    pod.expect_started(FIRST);
    let mut plan = pod.share.plan("ls /proc/self/fd");
    plan.id = format!("{}-waiting", plan.id);
    let mut waiting = pod.create(SECOND, false, plan);
    pod.expect_created(SECOND);
    drop(streams.take(0));
    assert_eq!(
        streams.output(),
        "0\n1\n2\n",
        "the end of stdin arrives, and no descriptor of PID 1 is there"
    );
    pod.expect_exit(FIRST, 1);
    pod.send(&HostMessage::Start(SECOND));
    assert_eq!(pod.hear(), GuestMessage::Started(SECOND));
    // 3 is the directory that ls reads.
    assert_eq!(waiting.output(), "0\n1\n2\n3\n");
    pod.expect_exit(SECOND, 0);
}

#[test]
fn a_terminal_that_is_created_first_is_relayed_and_resized() {
    let Some(mut pod) = TestPod::new() else { return };
    let mut plan = pod.share.plan("stty size; read line; stty size; tty");
    plan.process.terminal = Some((24, 80));
    let mut streams = pod.create(FIRST, false, plan);
    pod.expect_created(FIRST);
    pod.send(&HostMessage::Start(FIRST));
    assert_eq!(pod.hear(), GuestMessage::Started(FIRST));
    let mut terminal = streams.take(0);
    let mut size = [0; 7];
    terminal.read_exact(&mut size).unwrap();
    assert_eq!(&size, b"24 80\r\n");
    pod.send(&HostMessage::Resize { process: FIRST, rows: 33, columns: 77 });
    // Answered after the resize.
    pod.ask(1, Question::Resume);
    pod.expect_done(1);
    terminal.write_all(b"x\n").unwrap();
    let mut rest = String::new();
    terminal.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "x\r\n33 77\r\n/dev/pts/0\r\n");
    pod.expect_exit(FIRST, 0);
}

#[test]
fn a_later_container_gets_namespaces_of_its_own() {
    let Some(mut pod) = TestPod::with_idle_container() else { return };
    let here = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let mut plan = pod.share.plan(
        "cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_default_ttl \
         /proc/sys/kernel/msgmax; grep -c : /proc/net/dev; test -e /proc/net/if_inet6 && cut -c 32 /proc/net/if_inet6",
    );
    plan.id = format!("{}-apart", plan.id);
    plan.hostname = Some("other".to_owned());
    plan.domainname = Some("domain".to_owned());
    plan.sysctl = vec![
        ("net.ipv4.ip_default_ttl".to_owned(), "77".to_owned()),
        ("kernel.msgmax".to_owned(), "4321".to_owned()),
    ];
    plan.namespaces.extend(
        [NamespaceKind::Network, NamespaceKind::Ipc, NamespaceKind::Uts]
            .map(|kind| Namespace { kind, path: None }),
    );
    let mut streams = pod.create(SECOND, true, plan);
    pod.expect_started(SECOND);
    let output = streams.output();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(&lines[..5], ["other", "domain", "77", "4321", "1"], "{output}");
    // This machine has IPv6 if its own lo has an address: then the new one has ::1 too, and nothing else.
    let has_ipv6 = std::fs::read_to_string("/proc/net/if_inet6").is_ok_and(|text| !text.is_empty());
    assert_eq!(&lines[5..], if has_ipv6 { &["1"][..] } else { &[] }, "{output}");
    pod.expect_exit(SECOND, 0);
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), here);
}

#[test]
fn the_network_of_a_plan_is_there_when_its_process_runs() {
    let Some(mut pod) = TestPod::new() else { return };
    let mut plan = pod.share.plan("cat /proc/net/route /proc/sys/net/ipv4/conf/lo/tag");
    plan.network.routes = vec![Route {
        destination: [10, 2, 3, 0].into(),
        prefix_bits: 24,
        kind: libc::RTN_UNREACHABLE,
        gateway: None,
        onlink: false,
        interface: None,
        source: None,
        metric: Some(7),
        scope: 0,
    }];
    plan.network.sysctl = vec![("net/ipv4/conf/lo/tag".to_owned(), "77".to_owned())];
    let mut again = plan.clone();
    let mut streams = pod.create(FIRST, true, plan);
    pod.expect_started(FIRST);
    let output = streams.output();
    let fields: Vec<&str> = output.split_ascii_whitespace().skip(11).collect();
    assert_eq!(fields, ["*", "0003020A", "00000000", "0201", "0", "0", "7", "00FFFFFF", "0", "0", "0", "77"]);
    pod.expect_exit(FIRST, 0);
    again.id = format!("{}-again", again.id);
    let _streams = pod.create(SECOND, true, again);
    let line = "network: route to 10.2.3.0/24: File exists";
    assert_eq!(pod.expect_failure(SECOND), (1, line.to_owned()));
}
