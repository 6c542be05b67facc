//! Content: what the container reads is what is on the host, and what goes through its pipes comes out.

use std::process::{Command as Host, Stdio};

use crx_fixture::tool::Deadline;
use crx_fixture::{Bundle, Need, need, pattern, scale};

#[test]
fn sums_over_usr_are_the_hosts() {
    if !need::met(&[Need::Container, Need::Debian]) {
        return;
    }
    let bundle = Bundle::debian();
    let output =
        Host::new("find").current_dir(bundle.rootfs()).args(["usr", "-xdev", "-type", "f"]).output().unwrap();
    let mut files: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    files.sort();
    let wanted = scale::count("files of /usr to sum", files.len() as u64, 100) as usize;
    let step = files.len() / wanted;
    let mut list: Vec<&String> = files.iter().step_by(step.max(1)).collect();
    // The largest ones, libraries and programs, are read whatever the scale is.
    let size =
        |file: &&String| std::fs::metadata(bundle.rootfs().join(file.as_str())).map_or(0, |data| data.len());
    let largest = files.iter().max_by_key(size).unwrap();
    if !list.contains(&largest) {
        list.push(largest);
    }
    let text: String = list.iter().map(|file| format!("{file}\n")).collect();
    std::fs::write(bundle.rootfs().join("list"), &text).unwrap();
    let sum = "xargs -d '\\n' sha256sum < list";
    let expected = Host::new("sh").current_dir(bundle.rootfs()).args(["-c", sum]).output().unwrap();
    assert!(expected.status.success());
    let outcome = bundle.script(sum).run().expect(0);
    let expected = String::from_utf8(expected.stdout).unwrap();
    assert_eq!(expected.lines().count(), list.len());
    for (have, want) in outcome.out().lines().zip(expected.lines()) {
        assert_eq!(have, want, "a file's content");
    }
    assert_eq!(outcome.out().lines().count(), list.len());
}

#[test]
fn dd_copies_from_stdin_to_stdout() {
    if !need::met(&[Need::Container, Need::Debian]) {
        return;
    }
    let length = scale::count("bytes through dd", 256 << 20, 4 << 20);
    let bundle = Bundle::debian().args(&["dd", "bs=1M", "iflag=fullblock"]);
    let mut child = bundle.command().prepared();
    let mut child =
        child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Deadline::for_child(&child, 4);
    let stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || pattern::write(stdin, length));
    assert_eq!(pattern::check(child.stdout.take().unwrap()), length, "bytes that came back");
    writer.join().unwrap().unwrap();
    let output = child.wait_with_output().unwrap();
    deadline.expect_kept();
    let report = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert!(report.contains(&format!("{length} bytes")), "dd counted something else: {report}");
}
