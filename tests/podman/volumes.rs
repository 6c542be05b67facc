//! Volumes: directories and files of the host, and named ones.

use std::fs;

use crx_fixture::podman::IMAGE;

use crate::podman;

#[test]
fn binds_and_named_volumes_are_shared() {
    let Some(podman) = podman() else { return };
    let (directory, file) = (podman.file("directory"), podman.file("one-file"));
    fs::create_dir(&directory).unwrap();
    fs::write(&file, "from the host\n").unwrap();
    podman.ok(&["volume", "create", "named"]);
    let volumes = [
        format!("--volume={}:/bound", directory.display()),
        format!("--volume={}:/etc/one-file:ro", file.display()),
        "--volume=named:/named".to_owned(),
    ];
    let run = |script: &str| {
        let command = podman.command(&["run", "--rm"]).args(&volumes).args([IMAGE, "sh", "-c", script]);
        command.run().expect(0).out()
    };
    let script = "cat /etc/one-file; echo x 2>/dev/null >> /etc/one-file && echo written; \
                  echo bound > /bound/file; echo named > /named/file";
    assert_eq!(run(script), "from the host\n");
    assert_eq!(fs::read_to_string(directory.join("file")).unwrap(), "bound\n");
    assert_eq!(run("cat /bound/file /named/file"), "bound\nnamed\n");
    podman.ok(&["volume", "rm", "named"]);
    podman.finish();
}
