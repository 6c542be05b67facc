//! Attached streams: binary safe, complete, independent of each other.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::Duration;

use crx_fixture::tool::Deadline;
use crx_fixture::{Bundle, Need, need, pattern, scale};

#[test]
fn a_large_binary_stream_goes_in_and_out_unchanged() {
    if !need::met(&[Need::Container]) {
        return;
    }
    // Not a multiple of any buffer's size.
    let length = scale::count("bytes through stdin and stdout", 256 << 20, 1 << 20) + 12_345;
    let bundle = Bundle::busybox().args(&["cat"]);
    let mut child = bundle.command().prepared();
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let deadline = Deadline::for_child(&child, 4);
    let stdin = child.stdin.take().unwrap();
    // The end of the thread closes stdin: cat ends by itself only if that gets through.
    let writer = std::thread::spawn(move || pattern::write(stdin, length));
    assert_eq!(pattern::check(child.stdout.take().unwrap()), length, "bytes that came back");
    writer.join().unwrap().unwrap();
    let status = child.wait().unwrap();
    deadline.expect_kept();
    assert_eq!(status.code(), Some(0), "{status}");
}

#[test]
fn a_full_stream_blocks_only_itself_and_nothing_is_lost_at_the_end() {
    if !need::met(&[Need::Container]) {
        return;
    }
    const OUT: u64 = 4 << 20;
    const ERR: u64 = 512 << 10;
    let script = format!(
        "yes 0123456789abcde | head -c {OUT} & yes fedcba987654321 | head -c {ERR} >&2; echo done >&2; wait; exit 3"
    );
    let bundle = Bundle::busybox().script(&script);
    let mut child = bundle.command().prepared();
    let mut child =
        child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Deadline::for_child(&child, 1);
    // Nobody in the container reads this.
    let stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || pattern::write(stdin, 64 << 20));
    // Nobody reads stdout until all of stderr came.
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    let mut error_bytes = 0;
    while errors.read_line(&mut line).unwrap() > 0 && line != "done\n" {
        assert_eq!(line, "fedcba987654321\n", "after {error_bytes} bytes of stderr");
        error_bytes += line.len() as u64;
        line.clear();
    }
    assert_eq!(error_bytes, ERR, "bytes of stderr");
    // Slower than the container: it ends while much is still on the way.
    let mut output = child.stdout.take().unwrap();
    let mut bytes = Vec::new();
    while bytes.len() < OUT as usize {
        let before = bytes.len();
        output.by_ref().take(256 << 10).read_to_end(&mut bytes).unwrap();
        assert!(bytes.len() > before, "stdout ended after {before} bytes");
        std::thread::sleep(Duration::from_millis(20));
    }
    output.read_to_end(&mut bytes).unwrap();
    let status = child.wait().unwrap();
    deadline.expect_kept();
    assert_eq!(bytes.len() as u64, OUT, "bytes of stdout");
    assert!(bytes.chunks(16).all(|chunk| chunk == b"0123456789abcde\n"), "stdout is reordered");
    assert_eq!(status.code(), Some(3), "{status}");
    assert!(writer.join().unwrap().is_err(), "64 MiB of stdin went somewhere");
}

#[test]
fn a_reader_that_goes_away_is_a_broken_pipe_in_the_container() {
    if !need::met(&[Need::Container]) {
        return;
    }
    let bundle = Bundle::busybox().script("yes; echo \"yes: $?\" >&2; exit 9");
    let mut child = bundle.command().prepared();
    let mut child = child.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Deadline::for_child(&child, 1);
    let mut output = child.stdout.take().unwrap();
    output.read_exact(&mut [0; 100]).unwrap();
    drop(output);
    let outcome = child.wait_with_output().unwrap();
    deadline.expect_kept();
    let errors = String::from_utf8_lossy(&outcome.stderr);
    // 128 + SIGPIPE
    assert!(errors.contains("yes: 141"), "no broken pipe: {errors}");
    assert_eq!(outcome.status.code(), Some(9), "{errors}");
}
