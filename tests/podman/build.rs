//! buildah: images made by running programs in containers.

use std::fs;

use crx_fixture::podman::IMAGE;
use crx_fixture::{Need, need};

use crate::podman;

#[test]
fn buildah_builds_and_runs_with_the_runtime() {
    if !need::met(&[Need::Client("buildah")]) {
        return;
    }
    let Some(podman) = podman() else { return };
    let context = podman.file("context");
    fs::create_dir(&context).unwrap();
    let steps = format!("FROM {IMAGE}\nRUN echo built > /file && id -u > /uid\nCMD cat /file /uid\n");
    fs::write(context.join("Containerfile"), steps).unwrap();
    let _ = podman.buildah(&["build", "--quiet", "--tag=built"]).arg(&context).run().expect(0);
    assert_eq!(podman.ok(&["run", "--rm", "localhost/built"]), "built\n0\n");
    fs::write(context.join("Containerfile"), format!("FROM {IMAGE}\nRUN exit 9\n")).unwrap();
    let outcome = podman.buildah(&["build", "--quiet"]).arg(&context).run();
    assert!(outcome.code() != 0 && outcome.err().contains("exit status 9"), "{}", outcome.all());

    let container = podman.buildah(&["from", IMAGE]).run().expect(0).out();
    let container = container.trim();
    let run = |script: &str| podman.buildah(&["run", container, "sh", "-c", script]).run();
    let outcome = run("echo kept > /kept; echo out; exit 7").expect(7);
    assert_eq!(outcome.out(), "out\n");
    assert_eq!(run("cat /kept").expect(0).out(), "kept\n");
    let _ = podman.buildah(&["rm", container]).run().expect(0);
    podman.finish();
}
