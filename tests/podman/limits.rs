//! What a container is allowed to do.

use crx_fixture::podman::IMAGE;

use crate::podman;

#[test]
fn user_capabilities_and_files_are_restricted() {
    let Some(podman) = podman() else { return };
    let script = "touch /file 2>/dev/null && echo written; touch /tmp/file && echo temporary; \
                  id -u; id -g; grep CapEff /proc/self/status | tr -d '\\t'";
    let options = ["--read-only", "--user=1000:1001", "--cap-drop=all"];
    let outcome =
        podman.run(&[&["run", "--rm"], &options[..], &[IMAGE, "sh", "-c", script]].concat()).expect(0);
    assert_eq!(outcome.out(), "temporary\n1000\n1001\nCapEff:0000000000000000\n");
    podman.finish();
}

#[test]
fn memory_and_processes_are_limited() {
    let Some(podman) = podman() else { return };
    let script = "cd /sys/fs/cgroup; cat memory.max pids.max; \
                  (for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1000 & done) 2>&1 | grep -c -m1 fork; \
                  exec tail /dev/zero";
    let options = ["--memory=32m", "--memory-swap=32m", "--pids-limit=10"];
    let outcome = podman.run(&[&["run", "--rm"], &options[..], &[IMAGE, "sh", "-c", script]].concat());
    assert_eq!((outcome.out().as_str(), outcome.code()), ("33554432\n10\n1\n", 137), "{}", outcome.all());
    podman.finish();
}
