//! `ctr run`, attached: streams, a terminal, exit codes.

use crx_fixture::pty::Terminal;

use crate::containerd;

#[test]
fn ctr_has_the_streams_and_exit_codes_of_a_container() {
    let Some(containerd) = containerd() else { return };
    let script = "echo out; echo err >&2; cat /proc/1/comm; uname -r; exit 3";
    let outcome = containerd.container(&["--rm"], "a", &["sh", "-c", script]).run().expect(3);
    let out = outcome.out();
    assert!(out.starts_with("out\nsh\n") && out.ends_with("-crx\n"), "{}", outcome.all());
    assert_eq!(outcome.err(), "err\n");
    let outcome = containerd.container(&["--rm"], "b", &["no-such-program"]).run();
    assert!(outcome.code() != 0 && outcome.err().contains("no-such-program"), "{}", outcome.all());
    containerd.finish();
}

#[test]
fn a_terminal_of_ctr_is_the_containers() {
    let Some(containerd) = containerd() else { return };
    let command = containerd.container(&["--rm", "--tty"], "a", &["sh"]);
    let mut terminal = Terminal::start(command, 30, 100);
    terminal.expect("#");
    terminal.send("until [ \"$(stty size)\" = '30 100' ]; do sleep 0.2; done; tty\r");
    terminal.expect("/dev/pts/0");
    terminal.resize(40, 120);
    terminal.send("until [ \"$(stty size)\" = '40 120' ]; do sleep 0.2; done; echo re''sized; exit 6\r");
    terminal.expect("resized");
    assert_eq!(terminal.wait().code(), Some(6), "{}", terminal.screen());
    containerd.finish();
}
