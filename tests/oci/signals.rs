//! Signals that the runtime gets are the container's.

use crx_fixture::{Bundle, Need, need};
use rustix::process::Signal;

#[test]
fn signals_are_forwarded_and_a_handler_decides_the_exit_code() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let names = ["HUP", "INT", "USR1", "USR2", "TERM"];
    let traps: String = names.iter().map(|name| format!("trap 'echo got {name}' {name}; ")).collect();
    let script =
        format!("{traps} trap 'echo got QUIT; exit 42' QUIT; echo ready; while :; do sleep 0.1; done");
    let bundle = Bundle::busybox().script(&script);
    let mut running = bundle.command().start();
    running.wait_for("ready\n");
    let signals = [Signal::HUP, Signal::INT, Signal::USR1, Signal::USR2, Signal::TERM, Signal::QUIT];
    for (signal, name) in signals.into_iter().zip(names.iter().chain(&["QUIT"])) {
        running.signal(signal);
        running.wait_for(&format!("got {name}\n"));
    }
    let outcome = running.wait().expect(42);
    assert_eq!(outcome.out(), "ready\ngot HUP\ngot INT\ngot USR1\ngot USR2\ngot TERM\ngot QUIT\n");
}
