//! Vector registers belong to their task: across task switches, signals, and the timer. Where KVM runs guest kernels in
//! software the VMM saves and restores them for the guest's kernel; everywhere else the guest's kernel does.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crx_fixture::{Bundle, Need, need, scale};

use crate::sys;

/// Processes that take turns on one processor.
const PROCESSES: usize = 4;

#[test]
fn tasks_keep_their_vector_registers() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let rounds = scale::count("rounds of checking registers", 4000, 100);
    // The lab's emulated processor contradicts itself about AVX, so that a pod's kernel there does without. On a PVM
    // host the processor is the host's: what that has must work, whatever the kernel says.
    let must_be_avx = Path::new("/sys/module/kvm_pvm").exists() && sys::has_avx();
    let choice = if must_be_avx { "true" } else { "grep -qw avx /proc/cpuinfo" };
    let start = "/$kind & pids=\"$pids $!\"\n".repeat(PROCESSES);
    let bundle = Bundle::busybox().script(&format!(
        "kind=SSE; {choice} && kind=AVX\n{start}\
         for pid in $pids; do wait $pid || {{ echo ended with $?; exit 9; }}; done; echo $kind kept"
    ));
    for (name, avx) in [("SSE", false), ("AVX", true)] {
        let program = bundle.rootfs().join(name);
        fs::write(&program, sys::program(rounds, avx)).unwrap();
        fs::set_permissions(program, Permissions::from_mode(0o755)).unwrap();
    }
    let outcome = bundle.run().expect(0);
    if outcome.out() == "SSE kept\n" {
        // Not `eprintln!`: the test harness would swallow it.
        let _ = writeln!(std::io::stderr(), "SCALED: vector registers: SSE, containers here have no AVX");
    } else {
        assert_eq!(outcome.out(), "AVX kept\n", "{}", outcome.all());
    }
}
