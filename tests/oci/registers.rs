//! Vector registers belong to their task: across task switches, signals, and the timer. Where KVM runs guest kernels in
//! software the VMM saves and restores them for the guest's kernel; everywhere else the guest's kernel does.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;

use crx_fixture::{Bundle, Need, need, scale};

use crate::sys;

/// Processes that take turns on one processor.
const PROCESSES: usize = 4;

#[test]
fn tasks_keep_their_vector_registers() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let avx = sys::has_avx();
    if !avx {
        // Not `eprintln!`: the test harness would swallow it.
        let _ = writeln!(std::io::stderr(), "SCALED: vector registers: SSE, this processor has no AVX");
    }
    let rounds = scale::count("rounds of checking registers", 4000, 100);
    let start = "/registers & pids=\"$pids $!\"\n".repeat(PROCESSES);
    let bundle = Bundle::busybox().script(&format!(
        "{start}for pid in $pids; do wait $pid || {{ echo ended with $?; exit 9; }}; done; echo kept"
    ));
    let program = bundle.rootfs().join("registers");
    fs::write(&program, sys::program(rounds, avx)).unwrap();
    fs::set_permissions(program, Permissions::from_mode(0o755)).unwrap();
    let outcome = bundle.run().expect(0);
    assert_eq!(outcome.out(), "kept\n", "{}", outcome.all());
}
