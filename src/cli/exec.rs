//! `crx exec`: one more process in a container. Next: `runtime::launch`.

use std::path::PathBuf;

use anyhow::{Context, bail};
use crx_oci::ExecFlags;

use super::launching;
use crate::runtime::host_process::Streams;
use crate::runtime::launch::{self, Caller, Follow};
use crate::runtime::state::{self, Container};
use crate::runtime::{log, terminal};
use crate::sys;

/// Run a program in a running container
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Socket to send the process's terminal to
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Working directory in the container
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Add a variable to the container's environment; may be given several times
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// User and group ID
    #[arg(short, long, value_name = "UID[:GID]", value_parser = user)]
    user: Option<(u32, Option<u32>)>,
    /// Add a supplementary group; may be given several times
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// File with the process as in config.json, instead of a program and the options for it
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Do not wait for it
    #[arg(short, long)]
    detach: bool,
    /// File to write the process ID to
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// For compatibility: does not exist in a pod
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// For compatibility: does not exist in a pod
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// Let it gain no privileges
    #[arg(long)]
    no_new_privs: bool,
    /// Add a capability; may be given several times
    #[arg(short, long, value_name = "CAP")]
    cap: Vec<String>,
    /// Only 0 is possible: descriptors of the host mean nothing in a pod
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Cgroup below the container's, made if it is not there
    #[arg(long, value_name = "PATH", default_value = "")]
    cgroup: String,
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
    /// Program and arguments
    #[arg(value_name = "PROGRAM", trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

fn user(text: &str) -> Result<(u32, Option<u32>), String> {
    let number = |text: &str| text.parse::<u32>().map_err(|_| format!("{text:?} is not a number"));
    match text.split_once(':') {
        Some((uid, gid)) => Ok((number(uid)?, Some(number(gid)?))),
        None => Ok((number(text)?, None)),
    }
}

pub(super) fn main(global: &super::Arguments, arguments: &Arguments) -> anyhow::Result<u8> {
    launching::check_preserved(arguments.preserve_fds)?;
    if arguments.process.is_none() && arguments.args.is_empty() {
        bail!("exec: name a program to run, or a file with --process");
    }
    for (option, value) in
        [("--apparmor", &arguments.apparmor), ("--process-label", &arguments.process_label)]
    {
        if value.as_ref().is_some_and(|value| !value.is_empty()) {
            log::warning(&format!("{option}: does not exist in a pod, ignored"));
        }
    }
    let container = Container::find(&state::root(global.root.as_deref()), &arguments.id)?;
    let bundle = container.bundle()?;
    let flags = ExecFlags {
        args: arguments.args.clone(),
        cwd: arguments.cwd.clone(),
        env: arguments.env.clone(),
        user: arguments.user,
        additional_gids: arguments.additional_gids.clone(),
        capabilities: arguments.cap.clone(),
        no_new_privileges: arguments.no_new_privs,
        terminal: arguments.tty,
    };
    let cgroup = arguments.cgroup.trim_matches('/');
    let mut plan = crx_oci::exec_plan(&bundle, arguments.process.as_deref(), &flags, cgroup)?;
    if let Some(size) = plan.process.terminal.as_mut().filter(|size| **size == (0, 0)) {
        *size = terminal::size();
    }
    let caller = Caller {
        follow: if arguments.detach { Follow::UntilStarted } else { Follow::ToEnd },
        pid_file: arguments.pid_file.clone(),
        streams: Streams::of_command(arguments.console_socket.clone()),
    };
    // The process that stands in for it makes a mount namespace of its own.
    sys::become_root_of_own_namespace().context("this user cannot make namespaces (user_namespaces(7))")?;
    launch::executed(&container, plan, caller)
}
