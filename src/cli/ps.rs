//! `crx ps`: the processes of a container.

use anyhow::bail;
use crx_proto::{Answer, ProcessInfo};
use serde_json::json;

use super::table;
use crate::runtime::channel::{Command, Report};
use crate::runtime::exit;
use crate::runtime::state::{self, Container};

/// Show the processes of a container, by their numbers in its pod
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// How to print them: a table, or their numbers as JSON
    #[arg(short, long, value_enum, default_value_t = table::Format::Table)]
    format: table::Format,
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
    /// For compatibility: options of ps(1); the table has the columns of `ps -ef`
    #[arg(value_name = "OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

pub(super) fn main(global: &super::Arguments, arguments: &Arguments) -> anyhow::Result<u8> {
    let container = Container::find(&state::root(global.root.as_deref()), &arguments.id)?;
    let answer = container.ask(&Command::Processes(arguments.id.clone()))?;
    let Report::Answer(Answer::Processes(processes)) = answer else { bail!("the pod gave no answer") };
    match arguments.format {
        table::Format::Json => {
            let pids: Vec<u32> = processes.iter().map(|process| process.pid).collect();
            super::report::print(&json!(pids).to_string())?;
        }
        table::Format::Table => {
            let rows: Vec<_> = processes.iter().map(row).collect();
            table::print(&["UID", "PID", "PPID", "STARTED", "TTY", "TIME", "CMD"], &rows)?;
        }
    }
    Ok(exit::SUCCESS)
}

fn row(process: &ProcessInfo) -> Vec<String> {
    let started = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(process.started_ns);
    let seconds = process.cpu_time_ms / 1000;
    vec![
        process.uid.to_string(),
        process.pid.to_string(),
        process.parent_pid.to_string(),
        humantime::format_rfc3339_seconds(started).to_string(),
        if process.terminal.is_empty() { "?".to_owned() } else { process.terminal.clone() },
        format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
        process.command.escape_debug().to_string(),
    ]
}
