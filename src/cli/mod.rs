//! The command line: global options, verbs, dispatch. One file per verb.

mod check;
mod report;
mod run;
mod spec;
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
    Spec(spec::Arguments),
    Check,
    #[command(hide = true)]
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
        Verb::Spec(spec) => spec::main(spec),
        Verb::Check => check::main(&arguments),
        Verb::Vmm(vmm) => vmm::main(vmm),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report::error(&error);
            ExitCode::from(exit::FAILURE)
        }
    }
}
