//! Hooks of the host: programs that config.json names for moments of a container's life. `startContainer` hooks run in
//! the pod.
//!
//! | hook              | run by                 | when                                                        |
//! |-------------------|------------------------|-------------------------------------------------------------|
//! | `prestart`, `createRuntime`, `createContainer` | `create`, `run` | the pod's process is there, its VM boots, the container is not made: what they mount below the root file system is seen in it |
//! | `startContainer`  | PID 1 of the pod       | in the container, between `start` and its program           |
//! | `poststart`       | `start`, `run`         | the program was executed                                    |
//! | `poststop`        | `delete`, `run`        | nothing is left of the container                            |
//!
//! A pod's namespaces are those of its guest's kernel: on the host a hook finds the mount namespace of the pod's process,
//! and the caller's others.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::PoisonError;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Context, bail};
use crx_proto::Hook;

use super::host_process::STARTING;

/// How often a hook with a timeout is looked after.
const POLL: Duration = Duration::from_millis(5);
/// How long after its end a hook's complaint is waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Most of a hook's complaint that is shown.
const SHOWN_BYTES: u64 = 1 << 10;

/// Runs hooks one after the other, with the container's state on their stdin.
///
/// # Errors
/// One could not be run, failed, or took too long; those after it are not run.
pub(crate) fn run(kind: &str, hooks: &[Hook], state: &serde_json::Value) -> anyhow::Result<()> {
    for (index, hook) in hooks.iter().enumerate() {
        run_one(hook, &state.to_string())
            .with_context(|| format!("hooks.{kind}[{index}] ({})", hook.path))?;
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &str) -> anyhow::Result<()> {
    let [name, args @ ..] = hook.args.as_slice() else { bail!("has no name") };
    let environment = hook.env.iter().filter_map(|entry| entry.split_once('='));
    let mut command = Command::new(&hook.path);
    command.arg0(name).args(args).env_clear().envs(environment);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = {
        let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        command.spawn()?
    };
    if let Some(mut stdin) = child.stdin.take() {
        let state = state.to_owned();
        // A hook need not read it, and its timeout runs meanwhile.
        thread::spawn(move || drop(stdin.write_all(state.as_bytes())));
    }
    let (sender, complaint) = channel();
    if let Some(stderr) = child.stderr.take() {
        thread::spawn(move || drop(sender.send(read_some(stderr))));
    }
    let status = wait(&mut child, hook.timeout_s.map(|seconds| Duration::from_secs(seconds.into())))?;
    let Some(status) = status else {
        bail!("was killed after its timeout of {} s", hook.timeout_s.unwrap_or_default())
    };
    if !status.success() {
        // What the hook has left running may hold its stderr open.
        let complaint = complaint.recv_timeout(LAST_WORDS).unwrap_or_default();
        bail!("{status}: {}", complaint.trim());
    }
    Ok(())
}

/// The beginning of what a hook says; the rest is read and thrown away, so that it need not wait.
fn read_some(mut from: impl Read) -> String {
    let mut shown = Vec::new();
    let _ = from.by_ref().take(SHOWN_BYTES).read_to_end(&mut shown);
    let _ = io::copy(&mut from, &mut io::sink());
    String::from_utf8_lossy(&shown).into_owned()
}

/// Waits for a hook; `None`: it took too long and was killed.
fn wait(child: &mut Child, timeout: Option<Duration>) -> io::Result<Option<std::process::ExitStatus>> {
    let Some(timeout) = timeout else { return child.wait().map(Some) };
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn hook(script: &str, timeout_s: Option<u32>) -> Hook {
        let args = ["sh", "-c", script].map(str::to_owned).to_vec();
        Hook { path: "/bin/sh".to_owned(), args, env: vec!["NAME=value".to_owned()], timeout_s }
    }

    fn fails(hook: Hook) -> String {
        format!("{:#}", run("poststop", &[hook], &serde_json::json!({"id": "x"})).unwrap_err())
    }

    #[test]
    fn a_hook_gets_the_state_and_its_environment() {
        let script = r#"test "$(cat)" = '{"id":"x"}' && test "$(env | grep -c NAME)" = 1 && test -z "$HOME""#;
        run("poststop", &[hook(script, None)], &serde_json::json!({"id": "x"})).unwrap();
    }

    #[test]
    fn a_hook_that_fails_is_named_with_its_complaint() {
        let error = fails(hook("echo no such thing >&2; exit 3", Some(60)));
        assert_eq!(error, "hooks.poststop[0] (/bin/sh): exit status: 3: no such thing");
        let missing = Hook { path: "/no/such/hook".to_owned(), ..hook("", None) };
        assert!(fails(missing).starts_with("hooks.poststop[0] (/no/such/hook): No such file"));
    }

    #[test]
    fn a_hook_that_hangs_is_killed() {
        assert!(fails(hook("exec sleep 1000", Some(1))).contains("timeout of 1 s"));
    }
}
