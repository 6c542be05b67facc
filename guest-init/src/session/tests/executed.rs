//! Processes executed in a container.

use crx_proto::{Capabilities, Rlimit, Seccomp, SockFilter, TimeOffset, TimeOffsetClock};

use super::*;

#[test]
fn an_executed_process_is_in_the_container_and_reports_alone() {
    let Some(mut pod) = TestPod::with_idle_container() else { return };
    let script = "cat /proc/1/cmdline | tr '\\0' ' '; pwd; id -u; umask; \
                  grep -c 0::/$ /proc/self/cgroup; ls /proc/self/fd; tr '\\0' ' ' < /proc/self/environ; \
                  cat /proc/self/oom_score_adj; grep -E 'Seccomp:|NoNew|CapEff' /proc/self/status | cut -f2; \
                  ulimit -n; mkdir /dev/made 2>/dev/null || echo denied; exit 7";
    let mut plan = pod.script(script);
    plan.process.cwd = "/dev".to_owned();
    plan.process.uid = 1234;
    plan.process.umask = Some(0o027);
    plan.process.env.push("A=b".to_owned());
    plan.process.oom_score_adj = Some(7);
    plan.process.no_new_privileges = true;
    plan.process.capabilities = Capabilities::default();
    plan.process.rlimits = vec![Rlimit { resource: libc::RLIMIT_NOFILE, soft: 99, hard: 100 }];
    // Load the system call's number; mkdir (83) fails with EPERM, everything else is allowed.
    let program = [(0x20, 0, 0, 0), (0x15, 0, 1, 83), (0x06, 0, 0, 0x0005_0001), (0x06, 0, 0, 0x7fff_0000)];
    let program = program.map(|(code, jt, jf, k)| SockFilter { code, jt, jf, k }).to_vec();
    plan.seccomp = Some(Seccomp { flags: 0, program });
    let mut streams = pod.execute(EXECUTED, plan);
    pod.expect_started(EXECUTED);
    let output = streams.output();
    pod.expect_exit(EXECUTED, 7);
    // PID 1's descriptors are not there; 3 is the directory that ls reads.
    assert_eq!(
        output,
        "sleep 100000 /dev\n1234\n0027\n1\n0\n1\n2\n3\nPATH=/bin:/usr/bin A=b 7\n0000000000000000\n1\n2\n99\ndenied\n"
    );
    pod.ask(1, Question::Resume);
    pod.expect_done(1);
}

#[test]
fn an_executed_process_has_the_namespaces_of_the_first() {
    let Some(mut pod) = TestPod::new() else { return };
    let mut plan = pod.share.plan("exec sleep 100000");
    plan.namespaces.extend([NamespaceKind::Time].map(|kind| Namespace { kind, path: None }));
    let _first = pod.create(FIRST, true, plan);
    pod.expect_started(FIRST);
    let plan = pod.script(
        "for kind in pid mnt cgroup time net uts ipc; do [ \"$(readlink /proc/self/ns/$kind)\" = \
         \"$(readlink /proc/1/ns/$kind)\" ] || echo $kind differs; done",
    );
    let mut streams = pod.execute(EXECUTED, plan);
    pod.expect_started(EXECUTED);
    assert_eq!(streams.output(), "");
    pod.expect_exit(EXECUTED, 0);
}

#[test]
fn a_program_that_cannot_be_executed_fails_only_itself() {
    let Some(mut pod) = TestPod::with_idle_container() else { return };
    std::fs::write(pod.share.file("plain"), "text").unwrap();
    for (program, code) in [("no-such-program", 127), ("/plain", 126)] {
        let mut plan = pod.script("");
        plan.process.args = vec![program.to_owned()];
        let _streams = pod.execute(EXECUTED, plan);
        assert_eq!(pod.expect_failure(EXECUTED).0, code);
    }
    let mut plan = pod.script("");
    plan.process.cwd = "/not/there".to_owned();
    let _streams = pod.execute(EXECUTED, plan);
    let message = "process.cwd: enter /not/there: No such file or directory".to_owned();
    assert_eq!(pod.expect_failure(EXECUTED), (1, message));
}

#[test]
fn a_created_container_takes_processes_and_one_that_has_ended_does_not() {
    let Some(mut pod) = TestPod::new() else { return };
    let plan = pod.share.plan("");
    let _first = pod.create(FIRST, false, plan);
    pod.expect_created(FIRST);
    let plan = pod.script("ls -d /proc/[0-9]* | wc -l");
    let mut streams = pod.execute(EXECUTED, plan);
    pod.expect_started(EXECUTED);
    assert_eq!(streams.output(), "4\n", "the first, the shell, ls and wc");
    pod.expect_exit(EXECUTED, 0);
    pod.kill(FIRST);
    pod.expect_killed(FIRST);
    let plan = pod.script("");
    let _streams = pod.execute(EXECUTED, plan);
    assert_eq!(pod.expect_failure(EXECUTED), (1, "process: the container has ended".to_owned()));
}

#[test]
fn the_end_of_a_container_ends_what_was_executed_in_it() {
    for own_pid in [true, false] {
        let Some(mut pod) = TestPod::new() else { return };
        let mut plan = pod.share.plan("exec sleep 100000");
        if !own_pid {
            plan.namespaces.retain(|namespace| namespace.kind != NamespaceKind::Pid);
        }
        let _first = pod.create(FIRST, true, plan);
        pod.expect_started(FIRST);
        let plan = pod.script("exec sleep 100001");
        let _streams = pod.execute(EXECUTED, plan);
        pod.expect_started(EXECUTED);
        pod.kill(FIRST);
        pod.expect_killed(EXECUTED);
        pod.expect_killed(FIRST);
    }
}

#[test]
fn a_process_in_the_background_does_not_hold_the_report() {
    let Some(mut pod) = TestPod::with_idle_container() else { return };
    let plan = pod.script("sleep 100000 & echo done; exit 2");
    let mut streams = pod.execute(EXECUTED, plan);
    pod.expect_started(EXECUTED);
    assert_eq!(streams.output(), "done\n");
    pod.expect_exit(EXECUTED, 2);
}

#[test]
fn an_executed_process_has_its_own_terminal_and_a_cgroup_below() {
    let Some(mut pod) = TestPod::with_idle_container() else { return };
    let mut plan =
        pod.script("tty; stty size; cat /proc/self/cgroup | grep 0::; read line; stty size; exit 3");
    plan.process.terminal = Some((20, 60));
    plan.cgroup = "below/it".to_owned();
    let mut streams = pod.execute(EXECUTED, plan);
    pod.expect_started(EXECUTED);
    let mut terminal = streams.take(0);
    let mut text = String::new();
    while !text.contains("0::/below/it\r\n") {
        let mut byte = [0];
        terminal.read_exact(&mut byte).unwrap();
        text.push(byte[0].into());
    }
    assert_eq!(text, "/dev/pts/0\r\n20 60\r\n0::/below/it\r\n");
    pod.send(&HostMessage::Resize { process: EXECUTED, rows: 30, columns: 70 });
    pod.ask(1, Question::Resume);
    pod.expect_done(1);
    terminal.write_all(b"\n").unwrap();
    text.clear();
    terminal.read_to_string(&mut text).unwrap();
    assert_eq!(text, "\r\n30 70\r\n");
    pod.expect_exit(EXECUTED, 3);
    let mut plan = pod.script("");
    plan.cgroup = "../other".to_owned();
    let _streams = pod.execute(EXECUTED, plan);
    assert_eq!(pod.expect_failure(EXECUTED).1, "cgroup: ../other is not below the container's");
}

#[test]
fn a_container_without_namespaces_is_joined_by_its_root() {
    let Some(mut pod) = TestPod::new() else { return };
    let mut plan = pod.share.plan("exec sleep 100000");
    plan.namespaces.clear();
    plan.mounts.clear();
    plan.devices.clear();
    // Without a mount namespace nothing can be mounted, and the image has to be there without: copies of what a
    // shell needs.
    let rootfs = pod.share.file("");
    for name in ["bin", "lib", "lib64"] {
        std::fs::create_dir_all(rootfs.join("usr").join(name)).unwrap();
    }
    let programs = ["/bin/sh", "/bin/sleep"];
    let needed = std::process::Command::new("ldd").args(programs).output().unwrap();
    let needed = String::from_utf8(needed.stdout).unwrap();
    let libraries = needed.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':'));
    for path in libraries.chain(programs) {
        let target = rootfs.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(path, target).unwrap();
    }
    plan.process.cwd = "/".to_owned();
    let _first = pod.create(FIRST, true, plan);
    pod.expect_started(FIRST);
    let plan = pod.script("pwd; exit 4");
    let mut streams = pod.execute(EXECUTED, plan);
    pod.expect_started(EXECUTED);
    assert_eq!(streams.output(), "/\n");
    pod.expect_exit(EXECUTED, 4);
    pod.kill(FIRST);
    pod.expect_killed(FIRST);
}

#[test]
fn a_user_namespace_is_joined_too() {
    let Some(mut pod) = TestPod::new() else { return };
    let plan = crate::container::tests::in_user_namespace(&pod.share, pod.share.plan("exec sleep 100000"));
    let _first = pod.create(FIRST, false, plan);
    let pid = pod.expect_created(FIRST);
    pod.send(&HostMessage::Start(FIRST));
    assert_eq!(pod.hear(), GuestMessage::Started(FIRST));
    assert!(std::fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap().contains("100000"));
    let mut plan = pod.script(
        "for kind in user pid net mnt; do [ $(readlink /proc/self/ns/$kind) = $(readlink /proc/1/ns/$kind) ] || \
         echo $kind differs; done; id -u; id -g; echo again > /proc/self/fd/1; touch /made; stat -c %u /made",
    );
    plan.process.capabilities.bounding = u64::MAX;
    let mut streams = pod.execute(EXECUTED, plan);
    pod.expect_started(EXECUTED);
    assert_eq!(streams.output(), "0\n0\nagain\n0\n");
    pod.expect_exit(EXECUTED, 0);
    pod.kill(FIRST);
    pod.expect_killed(FIRST);
}

#[test]
fn hooks_run_in_the_container_between_start_and_its_program() {
    let Some(mut pod) = TestPod::new() else { return };
    let hook = |script: &str| Hook {
        path: "/bin/sh".to_owned(),
        args: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec!["PATH=/bin".to_owned()],
        timeout_s: Some(100),
    };
    let mut plan = pod.share.plan("cat /seen; exit 6");
    plan.start_hooks = vec![hook("{ cat; echo; readlink /proc/self/ns/mnt; } > /seen")];
    plan.state_json = r#"{"status":"created"}"#.to_owned();
    let mut streams = pod.create(FIRST, false, plan.clone());
    let pid = pod.expect_created(FIRST);
    let namespace = std::fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    assert!(!pod.share.file("seen").exists(), "it waits for the start");
    pod.send(&HostMessage::Start(FIRST));
    assert_eq!(pod.hear(), GuestMessage::Started(FIRST));
    assert_eq!(streams.output(), format!("{}\n{}\n", plan.state_json, namespace.display()));
    pod.expect_exit(FIRST, 6);

    plan.id = format!("{}-hooks", plan.id);
    plan.start_hooks.push(hook("echo why >&2; exit 9"));
    for start in [true, false] {
        let mut streams = pod.create(SECOND, start, plan.clone());
        if !start {
            pod.expect_created(SECOND);
            pod.send(&HostMessage::Start(SECOND));
        }
        assert_eq!(streams.output(), "why\n");
        let message = "hooks.startContainer[1] (/bin/sh): it failed: exit status: 9".to_owned();
        assert_eq!(pod.expect_failure(SECOND), (1, message));
    }
}

#[test]
fn a_process_on_its_way_to_its_program_shows_nothing_to_its_equals() {
    let Some(mut pod) = TestPod::new() else { return };
    let mut plan = pod.share.plan("exec sleep 100000");
    // Whoever has CAP_SYS_PTRACE, CAP_PERFMON or CAP_SYS_ADMIN of the pod may look into every process.
    let powers = [19, 38, 21].iter().fold(0, |set, bit| set | 1_u64 << bit);
    let all = plan.process.capabilities.permitted & !powers;
    let capabilities = Capabilities { bounding: all, effective: all, permitted: all, ..Default::default() };
    plan.process.capabilities = capabilities;
    let _first = pod.create(FIRST, false, plan);
    pod.expect_created(FIRST);
    let look = "cat /proc/1/environ; readlink /proc/1/fd/0; true < /proc/1/mem && echo memory; id -u";
    let run = |pod: &mut TestPod| {
        let mut plan = pod.script(&format!("({look}) 2>/dev/null"));
        plan.process.capabilities = capabilities;
        let mut streams = pod.execute(EXECUTED, plan);
        pod.expect_started(EXECUTED);
        let output = streams.output();
        pod.expect_exit(EXECUTED, 0);
        output
    };
    assert_eq!(run(&mut pod), "0\n", "it waits at the gate");
    pod.send(&HostMessage::Start(FIRST));
    assert_eq!(pod.hear(), GuestMessage::Started(FIRST));
    let output = run(&mut pod);
    assert!(output.contains("PATH=") && output.contains("pipe:") && output.contains("memory"), "{output}");
}

#[test]
fn a_user_namespace_with_clocks_of_its_own_is_made_and_executed_in() {
    let Some(mut pod) = TestPod::new() else { return };
    let plan = pod.share.plan("cat /proc/self/oom_score_adj /proc/self/timens_offsets; exec sleep 100000");
    let mut plan = crate::container::tests::in_user_namespace(&pod.share, plan);
    plan.namespaces.push(Namespace { kind: NamespaceKind::Time, path: None });
    plan.time_offsets = vec![TimeOffset { clock: TimeOffsetClock::Monotonic, seconds: 1000, nanoseconds: 5 }];
    plan.process.oom_score_adj = Some(5);
    plan.process.additional_gids = vec![7];
    let mut streams = pod.create(FIRST, true, plan);
    pod.expect_started(FIRST);
    let mut output = [0; 64];
    let mut stdout = streams.take(1);
    let mut text = String::new();
    while text.lines().count() < 3 {
        let got = stdout.read(&mut output).unwrap();
        assert!(got > 0, "{text}");
        text.push_str(std::str::from_utf8(&output[..got]).unwrap());
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words[..4], ["5", "monotonic", "1000", "5"], "{text}");
    let mut plan = pod.script("id -u; cat /proc/self/oom_score_adj");
    plan.process.oom_score_adj = Some(7);
    let mut streams = pod.execute(EXECUTED, plan);
    pod.expect_started(EXECUTED);
    assert_eq!(streams.output(), "0\n7\n");
    pod.expect_exit(EXECUTED, 0);
}

#[test]
fn output_that_nobody_reads_does_not_hide_the_end_of_the_container() {
    for terminal in [None, Some((24, 80))] {
        let Some(mut pod) = TestPod::with_idle_container() else { return };
        let mut plan = pod.script("exec yes");
        plan.process.terminal = terminal;
        let mut streams = pod.execute(EXECUTED, plan);
        pod.expect_started(EXECUTED);
        let output = streams.take(if terminal.is_some() { 0 } else { 1 });
        // Until nothing more arrives.
        let (mut arrived, mut same) = (0, 0);
        while same < 20 {
            std::thread::sleep(Duration::from_millis(5));
            let now = rustix::io::ioctl_fionread(&output).unwrap();
            same = if now == arrived && now > 0 { same + 1 } else { 0 };
            arrived = now;
        }
        pod.kill(FIRST);
        // Where PID 1 was slow everything fits after all, and the executed one is told first.
        let first = pod.hear();
        let has_room = matches!(first, GuestMessage::Exited { process: EXECUTED, .. });
        let first = if has_room { pod.hear() } else { first };
        assert!(matches!(first, GuestMessage::Exited { process: FIRST, .. }), "{first:?}");
        // Its own end is told once somebody has read everything, or has gone.
        drop(output);
        if !has_room {
            let second = pod.hear();
            assert!(matches!(second, GuestMessage::Exited { process: EXECUTED, .. }), "{second:?}");
        }
    }
}
