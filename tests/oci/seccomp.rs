//! `linux.seccomp`: every action, argument filters, an allow list.

use crx_fixture::{Bundle, Facts, Need, Outcome, need};
use serde_json::{Value, json};

/// 128 + SIGSYS.
const BAD_SYSTEM_CALL: i32 = 159;

fn rule(names: &[&str], action: &str) -> Value {
    json!({"names": names, "action": action})
}

fn rule_if(names: &[&str], action: &str, arguments: Value) -> Value {
    json!({"names": names, "action": action, "args": arguments})
}

fn everything_but(rules: Vec<Value>) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": rules})
}

#[test]
fn each_action_and_argument_filter_does_what_it_says() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let mut rules = vec![
        rule(&["mkdir", "mkdirat"], "SCMP_ACT_ERRNO"),
        json!({"names": ["rmdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}),
        rule(&["link", "linkat"], "SCMP_ACT_KILL_PROCESS"),
        rule(&["symlink", "symlinkat"], "SCMP_ACT_TRAP"),
        rule(&["sync"], "SCMP_ACT_KILL_THREAD"),
        rule(&["mknod", "mknodat"], "SCMP_ACT_KILL"),
        rule(&["sethostname"], "SCMP_ACT_LOG"),
        rule(&["chroot"], "SCMP_ACT_TRACE"),
    ];
    let kill = |op: &str, value: u64| {
        rule_if(&["kill"], "SCMP_ACT_ERRNO", json!([{"index": 1, "value": value, "op": op}]))
    };
    rules.push(kill("SCMP_CMP_EQ", 12));
    rules.push(kill("SCMP_CMP_GT", 40));
    // Two conditions on one call: both must hold.
    rules.push(rule_if(
        &["kill"],
        "SCMP_ACT_ERRNO",
        json!([{"index": 1, "value": 20, "op": "SCMP_CMP_GE"}, {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]),
    ));
    rules.push(rule_if(
        &["umask"],
        "SCMP_ACT_ERRNO",
        json!([{"index": 0, "value": 0o77, "op": "SCMP_CMP_GE"}]),
    ));
    for (name, index) in [("chmod", 1), ("fchmodat", 2)] {
        let setuid =
            json!([{"index": index, "value": 0o4000, "valueTwo": 0o4000, "op": "SCMP_CMP_MASKED_EQ"}]);
        rules.push(rule_if(&[name], "SCMP_ACT_ERRNO", setuid));
    }
    let bundle = Bundle::busybox()
        .capabilities(&["CAP_SYS_ADMIN", "CAP_KILL", "CAP_SYS_CHROOT", "CAP_MKNOD"])
        .set("/linux/seccomp", everything_but(rules));
    let facts = Facts::ask(
        bundle,
        &[
            ("mode", "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status | tr -d '\\t'"),
            ("errno", "mkdir /tmp/d"),
            ("errno of its own", "rmdir /tmp"),
            ("kill process", "ln /bin/busybox /tmp/hard"),
            ("trap", "ln -s busybox /tmp/soft"),
            ("kill thread", "sync"),
            ("kill", "mknod /tmp/p p"),
            ("log", "hostname logged && hostname"),
            ("trace", "chroot / true"),
            ("equal", "kill -12 $$"),
            ("greater", "kill -41 $$"),
            ("both", "kill -20 1"),
            ("one of two", "kill -19 1 && kill -20 0"),
            ("not greater", "kill -40 0; trap true USR1; kill -USR1 $$"),
            ("at least", "umask 077; umask; umask 0777; umask; umask 022; umask"),
            ("masked", "cp /bin/echo /tmp/f; chmod 4755 /tmp/f"),
            ("not masked", "chmod 2711 /tmp/f && stat -c %a /tmp/f"),
        ],
    );
    facts.expect_part("mode", "Seccomp:2");
    facts.expect_failure("errno", "Operation not permitted");
    facts.expect_failure("errno of its own", "No space left on device");
    for name in ["kill process", "trap", "kill thread", "kill"] {
        assert_eq!(facts.get(name).code, BAD_SYSTEM_CALL, "{name} in\n{}", facts.transcript());
    }
    facts.expect("log", "logged");
    facts.expect_failure("trace", "Function not implemented");
    facts.expect_failure("equal", "Operation not permitted");
    facts.expect_failure("greater", "Operation not permitted");
    facts.expect_failure("both", "Operation not permitted");
    facts.expect_success("one of two");
    facts.expect_success("not greater");
    facts.expect("at least", "0022\n0022\n0022");
    facts.expect_failure("masked", "Operation not permitted");
    facts.expect("not masked", "2711");
}

/// What busybox needs to run a shell, and a name that no kernel has: profiles name calls of other kernels.
const ALLOWED: &[&str] = &[
    "read",
    "write",
    "open",
    "openat",
    "close",
    "stat",
    "fstat",
    "lstat",
    "newfstatat",
    "statx",
    "poll",
    "lseek",
    "mmap",
    "mprotect",
    "munmap",
    "brk",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "rt_sigsuspend",
    "ioctl",
    "access",
    "dup",
    "dup2",
    "dup3",
    "getpid",
    "getppid",
    "fork",
    "vfork",
    "clone",
    "clone3",
    "execve",
    "exit",
    "exit_group",
    "wait4",
    "kill",
    "uname",
    "fcntl",
    "getcwd",
    "chdir",
    "readlink",
    "getuid",
    "getgid",
    "geteuid",
    "getegid",
    "getpgrp",
    "setpgid",
    "getgroups",
    "arch_prctl",
    "prctl",
    "futex",
    "set_tid_address",
    "set_robust_list",
    "rseq",
    "prlimit64",
    "getrandom",
    "sigaltstack",
    "tgkill",
    "gettid",
    "pipe",
    "pipe2",
    "nanosleep",
    "clock_nanosleep",
    "no_kernel_has_this_call",
    // The runtime's own, between the filter and the program.
    "getdents64",
    "capset",
    "capget",
    "setuid",
    "setgid",
    "setgroups",
    "fstatfs",
    "epoll_ctl",
    "epoll_pwait",
    "sched_yield",
    "faccessat",
    "faccessat2",
    "madvise",
    "close_range",
    "sendmsg",
    "recvmsg",
    "personality",
];

#[test]
fn an_allow_list_refuses_the_rest_and_a_killed_container_exits_159() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [rule(ALLOWED, "SCMP_ACT_ALLOW"), rule(&["sethostname"], "SCMP_ACT_KILL_PROCESS")],
    });
    let bundle = Bundle::busybox().set("/linux/seccomp", profile);
    let script = crx_fixture::facts::script(&[("allowed", "echo fine; id -u"), ("refused", "mkdir /tmp/d")]);
    // The container's own process meets the filter: exec keeps it the same.
    let outcome: Outcome = bundle.script(&(script + "exec hostname x")).run().expect(BAD_SYSTEM_CALL);
    let facts = Facts::read(&outcome);
    facts.expect("allowed", "fine\n0");
    facts.expect_failure("refused", "Function not implemented");
}
