//! `hooks.startContainer`: programs of the container that run in it, as its process, just before its own program.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};

use crx_proto::{Hook, StartError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::process::StartHooks;
use crate::failure::{failed, refused};

/// Runs the hooks, one after the other; the first that fails is the last.
pub(crate) fn run(hooks: StartHooks<'_>) -> Result<(), StartError> {
    for (index, hook) in hooks.hooks.iter().enumerate() {
        let field = format!("hooks.startContainer[{index}] ({})", hook.path);
        let status = run_one(hook, hooks.state_json).map_err(|error| failed(&field, "run it", error))?;
        match status {
            Some(status) if status.success() => {}
            Some(status) => return Err(refused(&field, format_args!("it failed: {status}"))),
            None => {
                let seconds = hook.timeout_s.unwrap_or_default();
                return Err(refused(&field, format_args!("it took longer than its {seconds} s")));
            }
        }
    }
    Ok(())
}

/// Runs one; none if it took too long.
fn run_one(hook: &Hook, state_json: &str) -> std::io::Result<Option<ExitStatus>> {
    let name = hook.args.first().unwrap_or(&hook.path);
    let mut command = Command::new(&hook.path);
    command.arg0(name).args(hook.args.iter().skip(1)).env_clear();
    command.envs(hook.env.iter().filter_map(|variable| variable.split_once('=')));
    // A file, which a hook that does not read it cannot block. Its output does not mix with the container's own.
    let mut state = File::from(memfd_create("state", MemfdFlags::CLOEXEC)?);
    state.write_all(state_json.as_bytes())?;
    state.rewind()?;
    let mut child = command.stdin(state).stdout(std::io::stderr()).spawn()?;
    if let Some(seconds) = hook.timeout_s
        && !ends_within(&child, seconds)?
    {
        child.kill()?;
        child.wait()?;
        return Ok(None);
    }
    child.wait().map(Some)
}

/// Waits until the child has ended, or the seconds are over.
fn ends_within(child: &Child, seconds: u32) -> std::io::Result<bool> {
    let pid = Pid::from_raw(child.id() as i32).ok_or(Errno::SRCH)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let timeout = Timespec { tv_sec: i64::from(seconds), tv_nsec: 0 };
    let ended =
        rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)))?;
    Ok(ended > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_script(script: &str, state_json: &str, timeout_s: Option<u32>) -> Result<(), StartError> {
        let _children = crate::container::tests::children();
        let args = ["named", "-c", script].map(str::to_owned).to_vec();
        let env = vec!["GREETING=hello world".to_owned()];
        let hook = Hook { path: "/bin/sh".to_owned(), args, env, timeout_s };
        run(StartHooks { hooks: &[hook], state_json })
    }

    #[test]
    fn a_hook_has_the_state_its_arguments_and_its_environment_only() {
        let state = r#"{"id":"a"}"#;
        let script = r#"[ "$(cat)" = '{"id":"a"}' ] && [ "$0" = named ] && [ "$GREETING" = "hello world" ] && [ -z "$HOME" ]"#;
        run_script(script, state, Some(60)).unwrap();
    }

    #[test]
    fn a_hook_that_fails_or_is_missing_is_named() {
        let field = "hooks.startContainer[0] (/bin/sh)";
        assert_eq!(
            run_script("exit 3", "{}", None).unwrap_err().message,
            format!("{field}: it failed: exit status: 3")
        );
        let error = run_script("exec sleep 1000", "{}", Some(0)).unwrap_err();
        assert_eq!(error.message, format!("{field}: it took longer than its 0 s"));
        let hook = Hook { path: "/no/hook".to_owned(), args: Vec::new(), env: Vec::new(), timeout_s: None };
        let error = run(StartHooks { hooks: &[hook], state_json: "" }).unwrap_err();
        assert_eq!(error.message, "hooks.startContainer[0] (/no/hook): run it: No such file or directory");
    }
}
