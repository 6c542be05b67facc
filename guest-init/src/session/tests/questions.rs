//! Questions about containers, and signals to all of their processes.

use super::*;

fn processes(pod: &mut TestPod, number: u32) -> Vec<crx_proto::ProcessInfo> {
    pod.ask(number, Question::Processes);
    match pod.hear() {
        GuestMessage::Answer { number: answered, answer: Ok(Answer::Processes(processes)) } => {
            assert_eq!(answered, number);
            processes
        }
        message => panic!("{message:?}"),
    }
}

#[test]
fn a_paused_container_stands_still_until_it_is_resumed_or_killed() {
    for killed in [false, true] {
        let Some(mut pod) = TestPod::new() else { return };
        let plan = pod.share.plan("while read line; do echo $line; done; exit 8");
        let mut streams = pod.create(FIRST, true, plan);
        pod.expect_started(FIRST);
        pod.ask(1, Question::Pause);
        pod.expect_done(1);
        let plan = pod.script("");
        let _executed = pod.execute(EXECUTED, plan);
        assert_eq!(pod.expect_failure(EXECUTED).1, "process: the container is paused");
        streams.take(0).write_all(b"line\n").unwrap();
        if killed {
            pod.kill(FIRST);
            assert_eq!(streams.output(), "");
            pod.expect_killed(FIRST);
        } else {
            pod.ask(2, Question::Resume);
            pod.expect_done(2);
            assert_eq!(streams.output(), "line\n");
            pod.expect_exit(FIRST, 8);
        }
    }
}

#[test]
fn the_processes_are_those_of_the_container_and_below() {
    let Some(mut pod) = TestPod::with_idle_container() else { return };
    let mut plan = pod.script("exec sleep 100002");
    plan.cgroup = "below".to_owned();
    plan.process.uid = 77;
    let _executed = pod.execute(EXECUTED, plan);
    let pid = pod.expect_started(EXECUTED);
    let mut found = processes(&mut pod, 1);
    // Until both shells have executed it.
    while !found.iter().all(|process| process.command.starts_with("sleep ")) {
        found = processes(&mut pod, 1);
    }
    let commands: Vec<&str> = found.iter().map(|process| process.command.as_str()).collect();
    assert_eq!(commands, ["sleep 100000", "sleep 100002"]);
    assert_eq!((found[1].pid, found[1].uid, found[1].parent_pid), (pid, 77, pod.pid));
    pod.send(&HostMessage::Signal { process: EXECUTED, signal: 9, everybody: false });
    pod.expect_killed(EXECUTED);
    assert_eq!(processes(&mut pod, 2).len(), 1);
}

#[test]
fn everybody_gets_a_signal() {
    let Some(mut pod) = TestPod::new() else { return };
    let script = "trap 'echo first; exit 1' TERM; (trap 'echo second; exit' TERM; echo ready; while :; do sleep 0.1; done) & \
                  wait; wait";
    let plan = pod.share.plan(script);
    let mut streams = pod.create(FIRST, true, plan);
    pod.expect_started(FIRST);
    let mut stdout = streams.take(1);
    let mut ready = [0; 6];
    stdout.read_exact(&mut ready).unwrap();
    pod.send(&HostMessage::Signal { process: FIRST, signal: 15, everybody: true });
    let mut text = String::new();
    stdout.read_to_string(&mut text).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    // The kernel may end the second with the first before it has said anything.
    assert!(lines == ["first", "second"] || lines == ["first"], "{text}");
    pod.expect_exit(FIRST, 1);

    let plan =
        Plan { id: format!("{}-killed", pod.share.plan("").id), ..pod.share.plan("sleep 100000 & wait") };
    let _streams = pod.create(SECOND, true, plan);
    pod.expect_started(SECOND);
    pod.send(&HostMessage::Signal { process: SECOND, signal: 9, everybody: true });
    pod.expect_killed(SECOND);
}

#[test]
fn usage_is_what_the_cgroup_has() {
    let Some(mut pod) = TestPod::with_idle_container() else { return };
    pod.ask(1, Question::Usage);
    let GuestMessage::Answer { number: 1, answer: Ok(Answer::Usage(files)) } = pod.hear() else { panic!() };
    let (_, text) = files.iter().find(|(name, _)| name == "cpu.stat").unwrap();
    assert!(text.starts_with("usage_usec "), "{text}");
}

#[test]
fn an_update_that_the_kernel_refuses_names_its_field() {
    let Some(mut pod) = TestPod::with_idle_container() else { return };
    let unified = vec![("cgroup.max.depth".to_owned(), "3".to_owned())];
    pod.ask(1, Question::Update(Box::new(crx_proto::Cgroup { unified, ..Default::default() })));
    pod.expect_done(1);
    let id = pod.share.plan("").id;
    let depth = std::fs::read_to_string(pod.share.cgroup(&format!("{id}/cgroup.max.depth"))).unwrap();
    assert_eq!(depth, "3\n");
    let unified = vec![("cgroup.max.depth".to_owned(), "deep".to_owned())];
    pod.ask(2, Question::Update(Box::new(crx_proto::Cgroup { unified, ..Default::default() })));
    let GuestMessage::Answer { number: 2, answer: Err(message) } = pod.hear() else { panic!() };
    assert_eq!(
        message,
        "linux.resources.unified[\"cgroup.max.depth\"]: write \"deep\" to cgroup.max.depth: Invalid argument"
    );
}
