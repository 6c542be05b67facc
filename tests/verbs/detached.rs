//! A container that outlives its command, and is deleted when the test is done with it.

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crx_fixture::{Bundle, Command, Outcome, Runtime};
use rustix::process::{Pid, WaitOptions, WaitStatus, set_child_subreaper, waitpid};
use serde_json::Value;

/// How long something asynchronous may take on the slowest host.
const PATIENCE: Duration = Duration::from_secs(240);

/// A detached container of a bundle, in which it has a directory for its files.
pub(crate) struct Detached {
    pub(crate) bundle: Bundle,
}

/// The runtime under test with a verb.
pub(crate) fn verb(verb: &str) -> Command {
    Runtime::under_test().command().arg(verb)
}

/// Waits until `condition` holds.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Detached {
    pub(crate) fn new(bundle: Bundle) -> Self {
        // What a command leaves running becomes the test's child, as it becomes conmon's or a shim's.
        set_child_subreaper(Pid::from_raw(1)).unwrap();
        bundle.write();
        Self { bundle }
    }

    pub(crate) fn id(&self) -> &str {
        self.bundle.id()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.bundle.path().join(name)
    }

    /// `create` or `run --detach`, with stdout and stderr in files.
    pub(crate) fn launch(&self, words: &[&str]) -> Outcome {
        let (first, rest) = words.split_first().unwrap();
        let command = verb(first).args(rest).arg("--pid-file").arg(self.file("pid"));
        let mut command = command.arg("--bundle").arg(self.bundle.path()).arg(self.id()).prepared();
        let (out, err) = (File::create(self.file("out")).unwrap(), File::create(self.file("err")).unwrap());
        let status = command.stdin(std::process::Stdio::null()).stdout(out).stderr(err).status().unwrap();
        Outcome {
            command: words.join(" "),
            status,
            stdout: Vec::new(),
            stderr: self.read("err").into_bytes(),
        }
    }

    /// `create`, which must work.
    pub(crate) fn create(&self) {
        let _ = self.launch(&["create"]).expect(0);
    }

    /// `run --detach`, which must work.
    pub(crate) fn run(&self) {
        let _ = self.launch(&["run", "--detach"]).expect(0);
    }

    /// A file of the bundle; empty if it is not there.
    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    /// A verb on this container.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let (first, rest) = words.split_first().unwrap();
        verb(first).args(rest).arg(self.id())
    }

    /// A verb on this container, run.
    pub(crate) fn verb(&self, words: &[&str]) -> Outcome {
        self.command(words).run()
    }

    pub(crate) fn start(&self) {
        let _ = self.verb(&["start"]).expect(0);
    }

    /// `exec` of a program with options.
    pub(crate) fn exec(&self, options: &[&str], program: &[&str]) -> Outcome {
        verb("exec").args(options).arg(self.id()).args(program).run()
    }

    pub(crate) fn state(&self) -> Value {
        serde_json::from_str(&self.verb(&["state"]).expect(0).out()).unwrap()
    }

    pub(crate) fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.read("pid").trim().parse().unwrap()).unwrap()
    }

    /// Waits for the end of the container's process, which became the test's child, and returns what it left.
    pub(crate) fn wait(&self) -> WaitStatus {
        let mut status = None;
        wait_until("the container's process ends", || {
            status = waitpid(Some(self.pid()), WaitOptions::NOHANG).unwrap();
            status.is_some()
        });
        status.unwrap().1
    }

    /// The exit code that a supervisor makes of it.
    pub(crate) fn wait_code(&self) -> i32 {
        let status = self.wait();
        status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal)).unwrap()
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        let _ = self.verb(&["delete", "--force"]);
        // Reaps what the test did not wait for.
        if let Ok(pid) = self.read("pid").trim().parse().map(Pid::from_raw) {
            let _ = waitpid(pid, WaitOptions::NOHANG);
        }
    }
}
