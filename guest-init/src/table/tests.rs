//! Lives of processes that are not real: only their links and streams are.

use rustix::event::poll;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::*;

const ID: ProcessId = ProcessId(7);

/// An executed process, and its end of the link.
fn process(phase: Phase) -> (Process, Link) {
    let (ours, theirs) = Link::pair().unwrap();
    let pid = std::process::id();
    let pidfd = pidfd_open(Pid::from_raw(pid as i32).unwrap(), PidfdFlags::empty()).unwrap();
    let kind = Kind::Executed(ProcessId(1));
    (Process::new(Child { pid, pidfd }, kind, Relays::Closed, Some(ours), phase), theirs)
}

fn created() -> GuestMessage {
    GuestMessage::Created { process: ID, pid: std::process::id() }
}

/// What waitpid(2) says of an exit with `code`.
fn exited(code: i32) -> ExitStatus {
    ExitStatus::from_raw(code << 8)
}

#[test]
fn a_process_that_waits_is_created_then_started() {
    let (mut process, theirs) = process(Phase::Making);
    assert!(process.listen(ID).is_empty());
    assert!(!process.open_gate(), "it is not there yet");
    let waiting = std::thread::spawn(move || theirs.wait_at_gate().map(|()| theirs));
    while process.listen(ID).is_empty() {
        let mut fds = Vec::new();
        process.interests(ID, |source, fd| {
            assert_eq!(source, Source::Link(ID));
            fds.push(fd);
        });
        poll(&mut fds, None).unwrap();
    }
    assert!(matches!(process.phase, Phase::Waiting));
    assert!(process.open_gate());
    assert!(!process.open_gate(), "it opens once");
    drop(waiting.join().unwrap().unwrap());
    assert_eq!(process.listen(ID), [GuestMessage::Started(ID)]);
    assert!(matches!(process.phase, Phase::Running));
    process.interests(ID, |source, _| panic!("nothing is left to hear, but {source:?}"));
}

#[test]
fn a_process_that_is_started_at_once_is_created_and_started() {
    let (mut process, theirs) = process(Phase::Starting { created: false });
    drop(theirs);
    assert_eq!(process.listen(ID), [created(), GuestMessage::Started(ID)]);
}

#[test]
fn an_error_is_told_once_the_process_is_gone() {
    for phase in [Phase::Making, Phase::Starting { created: false }, Phase::Starting { created: true }] {
        let (mut process, theirs) = process(phase);
        let error = StartError { exit_code: 127, message: "not found".to_owned() };
        theirs.fail(&error);
        drop(theirs);
        assert!(process.listen(ID).is_empty());
        process.end(exited(1));
        assert!(matches!(process.phase, Phase::Ended(Outcome::Failed(said)) if said == error));
    }
}

#[test]
fn a_process_that_dies_before_it_is_made_has_failed() {
    let (mut process, theirs) = process(Phase::Making);
    drop(theirs);
    assert!(process.listen(ID).is_empty());
    process.end(ExitStatus::from_raw(9));
    let Phase::Ended(Outcome::Failed(error)) = process.phase else { panic!("{:?}", process.phase) };
    assert_eq!(error.message, "process: it was ended while it was made, by signal 9");
}

#[test]
fn a_process_that_dies_at_the_gate_has_ended() {
    let (mut process, theirs) = process(Phase::Waiting);
    drop(theirs);
    assert!(process.listen(ID).is_empty());
    process.end(ExitStatus::from_raw(9));
    assert!(matches!(process.phase, Phase::Ended(Outcome::Status(status)) if status.signal() == Some(9)));
}
