//! `process.terminal`: a terminal of the right size, job control, and the caller's own as it was before.

use crx_fixture::pty::Terminal;
use crx_fixture::{Bundle, Need, need};
use serde_json::json;

#[test]
fn a_shell_works_on_a_terminal() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let bundle = Bundle::busybox()
        .set("/process/terminal", json!(true))
        .set("/process/env", json!(["PATH=/bin", "PS1=in> ", "TERM=vt100"]))
        .args(&["sh"]);
    let mut terminal = Terminal::start(bundle.command(), 31, 101);
    let before = terminal.attributes();
    terminal.expect("in> ");
    terminal.send("stty size; tty\n");
    terminal.expect("31 101\r\n/dev/");
    terminal.expect("in> ");
    terminal.resize(45, 123);
    // The change goes its own way: ask until it is there.
    terminal.send("until [ \"$(stty size)\" = '45 123' ]; do sleep 0.1; done; echo re''sized\n");
    terminal.expect("resized\r\n");
    terminal.expect("in> ");
    terminal.send("test -c /dev/console && echo con''sole; echo x > /dev/tty && echo t''ty\n");
    terminal.expect("console\r\n");
    terminal.expect("x\r\ntty\r\n");
    terminal.expect("in> ");
    // It says that it is the foreground job before the terminal's keys are pressed.
    terminal.send("sh -c \"echo u''p; exec sleep 10000\"\n");
    terminal.expect("up\r\n");
    terminal.send("\x03");
    terminal.expect("in> ");
    terminal.send("echo $?\n");
    terminal.expect("\r\n130\r\n");
    terminal.expect("in> ");
    terminal.send("sh -c \"echo u''p; exec sleep 20000\"\n");
    terminal.expect("up\r\n");
    terminal.send("\x1a");
    terminal.expect("Stopped");
    terminal.expect("in> ");
    terminal.send("jobs; kill %1; fg\n");
    terminal.expect("Stopped");
    terminal.expect("in> ");
    terminal.send("exit 7\n");
    let status = terminal.wait();
    assert_eq!(status.code(), Some(7), "{status}\n{}", terminal.screen());
    assert_eq!(terminal.attributes(), before.replace("rows 31; columns 101", "rows 45; columns 123"));
    assert!(!terminal.screen().contains("job control turned off"), "{}", terminal.screen());
}

#[test]
fn output_on_a_terminal_is_complete_when_the_container_ends() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let bundle = Bundle::busybox()
        .set("/process/terminal", json!(true))
        .script("stty size; i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; exit 4");
    let mut terminal = Terminal::start(bundle.command(), 24, 80);
    for number in 0..2000 {
        terminal.expect(&format!("line {number}\r\n"));
    }
    assert_eq!(terminal.wait().code(), Some(4), "{}", terminal.screen());
    assert!(terminal.screen().starts_with("24 80\r\n"), "{}", terminal.screen());
}
