//! The command line: global options, verbs, dispatch. One file per verb.

mod check;
mod create;
mod delete;
mod exec;
mod kill;
mod launching;
mod list;
mod pause;
mod ps;
mod report;
mod run;
mod spec;
mod start;
mod state;
mod table;
mod vmm;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::runtime::exit;

/// An OCI container runtime in which every pod is a microVM.
#[derive(Parser)]
#[command(name = "crx", version, arg_required_else_help = true, max_term_width = 110)]
#[command(
    after_help = "Exit codes of run: the container's own, or 128 plus the signal that ended it; 126 and 127 if its program \
cannot be executed or is not there; 1 for any other error.\n\nExamples:\n  crx check                     can this host run pods?\n  \
crx spec                      write a config.json to start from\n  crx run --bundle DIR web      run the bundle in DIR as container \"web\""
)]
struct Arguments {
    /// Where the state of containers is kept [default: /run/crx, without root $XDG_RUNTIME_DIR/crx]
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Directory with the guest's kernel and first process, `vmlinux` and `initramfs`
    /// [default: `guest` beside the program, then ../lib/crx]
    #[arg(long, global = true, value_name = "DIR", env = "CRX_GUEST_DIR", hide_env = true)]
    guest_dir: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Run(run::Arguments),
    Create(create::Arguments),
    Start(start::Arguments),
    Exec(exec::Arguments),
    State(state::Arguments),
    List(list::Arguments),
    Ps(ps::Arguments),
    Kill(kill::Arguments),
    /// Stop all processes of a container until it is resumed
    Pause(pause::Arguments),
    /// Let the processes of a paused container go on
    Resume(pause::Arguments),
    Delete(delete::Arguments),
    Spec(spec::Arguments),
    /// Check whether this host can run pods, and say what to do if not
    Check,
    #[command(hide = true, alias = "stand-in")]
    Vmm(vmm::Arguments),
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return report::usage(&error),
    };
    let result = match &arguments.verb {
        Verb::Run(run) => run::main(&arguments, run),
        Verb::Create(create) => create::main(&arguments, create),
        Verb::Start(start) => start::main(&arguments, start),
        Verb::Exec(exec) => exec::main(&arguments, exec),
        Verb::State(state) => state::main(&arguments, state),
        Verb::List(list) => list::main(&arguments, list),
        Verb::Ps(ps) => ps::main(&arguments, ps),
        Verb::Kill(kill) => kill::main(&arguments, kill),
        Verb::Pause(pause) => pause::pause(&arguments, pause),
        Verb::Resume(resume) => pause::resume(&arguments, resume),
        Verb::Delete(delete) => delete::main(&arguments, delete),
        Verb::Spec(spec) => spec::main(spec),
        Verb::Check => check::main(&arguments),
        Verb::Vmm(vmm) => vmm::main(vmm),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report::error(&error);
            ExitCode::from(exit::of_error(&error))
        }
    }
}
