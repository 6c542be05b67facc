//! `podman run`, attached: streams, a terminal, exit codes.

use crx_fixture::podman::IMAGE;
use crx_fixture::pty::Terminal;

use crate::podman;

#[test]
fn streams_and_exit_codes_are_the_containers() {
    let Some(podman) = podman() else { return };
    let run = |words: &[&str]| podman.run(&[&["run", "--rm"], words].concat());
    let outcome = run(&[IMAGE, "sh", "-c", "echo out; echo err >&2; exit 3"]).expect(3);
    assert_eq!((outcome.out(), outcome.err()), ("out\n".to_owned(), "err\n".to_owned()));
    let command =
        podman.command(&["run", "--rm", "--interactive", IMAGE, "sh", "-c", "cat; kill -TERM $$; cat"]);
    // The first process of a PID namespace does not hear its own signals: end of file came, and then again.
    assert_eq!(command.input("through stdin").run().expect(0).out(), "through stdin");

    // podman-run(1), EXIT STATUS: 125 podman's own errors, 126 not executable, 127 not found.
    let _ = run(&["--pull=never", "localhost/no-such-image"]).expect(125);
    let outcome = run(&["--workdir=/bin/busybox", IMAGE, "true"]);
    assert!((125..=127).contains(&outcome.code()), "{}", outcome.all());
    let outcome = run(&[IMAGE, "/etc"]).expect(126);
    assert!(outcome.err().to_lowercase().contains("permission denied"), "{}", outcome.all());
    let outcome = run(&[IMAGE, "no-such-program"]).expect(127);
    assert!(outcome.err().contains("no-such-program"), "{}", outcome.all());
    assert_eq!(podman.ok(&["ps", "--all", "--quiet"]), "", "--rm removes also what could not run");
    podman.finish();
}

#[test]
fn a_terminal_of_podman_is_the_containers() {
    let Some(podman) = podman() else { return };
    let command = podman.command(&["run", "--rm", "-it", IMAGE, "sh"]);
    let mut terminal = Terminal::start(command, 30, 100);
    terminal.expect("#");
    terminal.send("stty size; tty\r");
    terminal.expect("30 100");
    terminal.expect("/dev/pts/0");
    terminal.resize(40, 120);
    terminal.send("until [ \"$(stty size)\" = '40 120' ]; do sleep 0.2; done; echo re''sized\r");
    terminal.expect("resized");
    terminal.send("sh -c \"echo sleep''ing; exec sleep 1000\"\r");
    terminal.expect("sleeping");
    terminal.send("\u{3}");
    terminal.send("echo inter''rupted; exit 6\r");
    terminal.expect("interrupted");
    assert_eq!(terminal.wait().code(), Some(6), "{}", terminal.screen());
    podman.finish();
}
