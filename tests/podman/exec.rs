//! `podman exec`.

use crx_fixture::podman::IMAGE;
use crx_fixture::pty::Terminal;

use crate::podman;

#[test]
fn exec_is_attached_detached_or_on_a_terminal() {
    let Some(podman) = podman() else { return };
    podman.ok(&["run", "--detach", "--name=c", IMAGE, "sleep", "1000"]);
    let sh = |options: &[&str], script: &str| {
        podman.run(&[&["exec"], options, &["c", "sh", "-c", script]].concat())
    };
    let outcome = sh(&[], "echo out; echo err >&2; cat /proc/1/comm; exit 4").expect(4);
    assert_eq!((outcome.out(), outcome.err()), ("out\nsleep\n".to_owned(), "err\n".to_owned()));
    let options = ["--env=NAME=value", "--workdir=/tmp", "--user=1000:1001"];
    let outcome = sh(&options, "echo $NAME; pwd; id -u; id -g").expect(0);
    assert_eq!(outcome.out(), "value\n/tmp\n1000\n1001\n");
    let cat = podman.command(&["exec", "--interactive", "c", "cat"]).input("through stdin");
    assert_eq!(cat.run().expect(0).out(), "through stdin");

    let _ = sh(&["--detach"], "echo left > /tmp/detached").expect(0);
    let _ = sh(&[], "until [ -s /tmp/detached ]; do sleep 0.1; done").expect(0);

    let command = podman.command(&["exec", "-it", "c", "sh"]);
    let mut terminal = Terminal::start(command, 25, 90);
    terminal.expect("#");
    terminal.send("stty size; exit 5\r");
    terminal.expect("25 90");
    assert_eq!(terminal.wait().code(), Some(5), "{}", terminal.screen());

    let _ = podman.run(&["exec", "c", "/etc"]).expect(126);
    let _ = podman.run(&["exec", "c", "no-such-program"]).expect(127);
    podman.finish();
}
