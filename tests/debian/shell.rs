//! A person's session with bash on a terminal.

use crx_fixture::pty::Terminal;
use crx_fixture::{Bundle, Need, need};
use serde_json::json;

#[test]
fn bash_on_a_terminal_has_history_completion_and_jobs() {
    if !need::met(&[Need::Container, Need::Debian]) {
        return;
    }
    let bundle = Bundle::debian()
        .set("/process/terminal", json!(true))
        .set("/process/env", json!(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=vt100", "HOME=/root"]))
        .args(&["bash", "--norc", "--noprofile", "-i"]);
    let mut terminal = Terminal::start(bundle.command(), 40, 120);
    terminal.expect("bash-5.2# ");
    terminal.send("echo $((6*7)) an''swer\n");
    terminal.expect("42 answer\r\n");
    terminal.expect("bash-5.2# ");
    // History: the line before, by the arrow key.
    terminal.send("\x1b[A\n");
    terminal.expect("42 answer\r\n");
    terminal.expect("bash-5.2# ");
    // Completion of a name that is the only one.
    terminal.send("cat /etc/debian_ver\t\n");
    terminal.expect("/etc/debian_version");
    terminal.expect("12.");
    terminal.expect("bash-5.2# ");
    terminal.send("stty size; ls /bin/ba* | cat\n");
    terminal.expect("40 120\r\n");
    terminal.expect("/bin/bash");
    terminal.expect("bash-5.2# ");
    terminal.send("bash -c \"echo u''p; exec sleep 10000\"\n");
    terminal.expect("up\r\n");
    terminal.send("\x1a");
    terminal.expect("Stopped");
    terminal.expect("bash-5.2# ");
    terminal.send("bg; jobs; kill %1; wait %1; echo \"wai\"ted $?\n");
    terminal.expect("Running");
    terminal.expect("waited 143\r\n");
    terminal.expect("bash-5.2# ");
    terminal.send("exit 11\n");
    let status = terminal.wait();
    assert_eq!(status.code(), Some(11), "{status}\n{}", terminal.screen());
}
