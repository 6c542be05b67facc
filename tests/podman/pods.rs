//! `podman pod`: containers that share a network and /dev/shm.

use std::fs;
use std::path::Path;

use crx_fixture::Runtime;
use crx_fixture::podman::IMAGE;

use crate::podman;

#[test]
fn containers_of_a_pod_talk_over_localhost_and_share_memory() {
    let Some(podman) = podman() else { return };
    // With a cgroup of its own for the pod, podman 4.3 and cgroupfs forbid every device in it, whatever the runtime.
    podman.ok(&["pod", "create", "--share-parent=false", "--network=none", "--name=the-pod"]);
    let server = "echo shared > /dev/shm/file; while :; do echo page | nc -l -p 8080; done";
    podman.ok(&["run", "--detach", "--pod=the-pod", "--name=server", IMAGE, "sh", "-c", server]);
    let client = "i=0; until nc 127.0.0.1 8080 < /dev/null; do i=$((i+1)); [ $i -lt 600 ] || exit 1; sleep 0.1; done; \
                  cat /dev/shm/file; hostname; echo $$";
    let outcome = podman.run(&["run", "--rm", "--pod=the-pod", IMAGE, "sh", "-c", client]).expect(0);
    assert_eq!(outcome.out(), "page\nshared\nthe-pod\n1\n");
    // podman writes in the mount namespace of the process that the host knows. It must not be the host's own.
    let path = format!("/podman-cp-{}", std::process::id());
    fs::write(podman.file("page"), "page\n").unwrap();
    let outcome = podman.command(&["cp"]).arg(podman.file("page")).arg(format!("server:{path}")).run();
    assert_eq!(outcome.code() == 0, Runtime::under_test() != Runtime::Crx, "{}", outcome.all());
    assert!(!Path::new(&path).exists());
    let status = || podman.ok(&["pod", "inspect", "--format={{.State}}", "the-pod"]);
    assert_eq!(status(), "Running\n");
    podman.ok(&["pod", "stop", "--time=0", "the-pod"]);
    assert_eq!(status(), "Exited\n");
    podman.ok(&["pod", "start", "the-pod"]);
    assert_eq!(podman.ok(&["exec", "server", "cat", "/dev/shm/file"]), "shared\n");
    podman.ok(&["pod", "rm", "--force", "--time=0", "the-pod"]);
    podman.finish();
}
