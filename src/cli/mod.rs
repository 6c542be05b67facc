//! The command line: global options, verbs, dispatch. One file per verb.

mod check;
mod checkpoint;
mod create;
mod delete;
mod events;
mod exec;
mod features;
mod kill;
pub(crate) mod launching;
mod list;
mod net;
mod pages;
mod pause;
mod ps;
mod report;
mod run;
mod spec;
mod start;
mod state;
mod table;
mod template;
mod update;
mod vmm;
mod waterfall;
mod why;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{ArgAction, CommandFactory, Parser, Subcommand};

use crate::runtime::settings::Settings;
use crate::runtime::template::{DEFAULT_LIMIT_MIB, Store};
use crate::runtime::{cgroup, exit, log};

/// What `--version` prints after the name: as podman shows it of a runtime.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    format!(
        "version {}\ncommit: {}\nspec: {}\nrust: {}",
        env!("CARGO_PKG_VERSION"),
        option_env!("CRX_COMMIT").filter(|commit| !commit.is_empty()).unwrap_or("unknown"),
        crx_oci::SPEC_VERSION,
        env!("CARGO_PKG_RUST_VERSION"),
    )
});

/// An OCI container runtime in which every pod is a microVM.
#[derive(Parser)]
#[command(name = "crx", version = VERSION.as_str(), disable_version_flag = true)]
#[command(arg_required_else_help = true, max_term_width = 110)]
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
    /// Where templates are kept [default: /var/lib/crx/templates, without root ~/.cache/crx/templates]
    #[arg(long, global = true, value_name = "DIR", env = "CRX_TEMPLATES", hide_env = true)]
    templates: Option<PathBuf>,
    /// Most MiB of the disk that they take
    #[arg(long, global = true, value_name = "MIB", env = "CRX_TEMPLATES_LIMIT", hide_env = true)]
    #[arg(default_value_t = DEFAULT_LIMIT_MIB)]
    templates_limit: u64,
    /// File to append errors and warnings to, besides stderr
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Form of that file
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = log::Format::Text)]
    log_format: log::Format,
    /// Say what is done, in the log or, without one, on stderr
    #[arg(long)]
    debug: bool,
    /// linux.cgroupsPath is `slice:prefix:name`, a scope of systemd: refused, only paths of the cgroup file system are
    /// supported
    #[arg(long)]
    systemd_cgroup: bool,
    /// Whether a cgroup of the host that may not be made is left out; auto: if the user is not root
    #[arg(long, value_name = "WHETHER", value_enum, default_value_t = cgroup::Rootless::Auto)]
    rootless: cgroup::Rootless,
    /// For compatibility: checkpoints do not need it
    #[arg(long, value_name = "PROGRAM")]
    criu: Option<PathBuf>,
    /// Print the version
    #[arg(short = 'v', short_alias = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    verb: Verb,
}

impl Arguments {
    /// The templates of this user. To be asked before the process becomes another one in a namespace of its own.
    fn store(&self) -> Store {
        Store::new(self.templates.as_deref(), self.templates_limit)
    }

    /// What a launch does as the command line says. To be asked likewise.
    fn settings(&self) -> Settings {
        Settings {
            root: crate::runtime::state::root(self.root.as_deref()),
            guest_dir: self.guest_dir.clone(),
            templates: self.store(),
            cgroups: cgroup::Manner::new(self.systemd_cgroup, self.rootless),
        }
    }
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
    Net(net::Arguments),
    Template(template::Arguments),
    Update(update::Arguments),
    Events(events::Arguments),
    Why(why::Arguments),
    Checkpoint(checkpoint::Checkpoint),
    Restore(checkpoint::Restore),
    Spec(spec::Arguments),
    /// Check whether this host can run pods, and say what to do if not
    Check,
    /// Print what this runtime understands, as JSON
    Features,
    Completions(pages::Completions),
    #[command(hide = true)]
    Man(pages::Pages),
    #[command(hide = true, alias = "stand-in")]
    Vmm(vmm::Arguments),
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            log_mistakes();
            return report::usage(&error);
        }
    };
    let opened = log::open(arguments.log.as_deref(), arguments.log_format, arguments.debug);
    match opened.and_then(|()| dispatch(&arguments)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report::error(&error);
            ExitCode::from(exit::of_error(&error))
        }
    }
}

/// Opens the log although the command line has a mistake, for the mistake to be in it.
fn log_mistakes() {
    let lenient = Arguments::command().ignore_errors(true).try_get_matches();
    let Ok(matches) = lenient else { return };
    if let (Ok(Some(file)), Ok(Some(format))) =
        (matches.try_get_one::<PathBuf>("log"), matches.try_get_one::<log::Format>("log_format"))
    {
        // Without the log there is still stderr, and the mistake is what matters.
        let _ = log::open(Some(file), *format, false);
    }
}

fn dispatch(arguments: &Arguments) -> anyhow::Result<u8> {
    log::debug(&format!("crx {} is process {}", env!("CARGO_PKG_VERSION"), std::process::id()));
    match &arguments.verb {
        Verb::Run(run) => run::main(arguments, run),
        Verb::Create(create) => create::main(arguments, create),
        Verb::Start(start) => start::main(arguments, start),
        Verb::Exec(exec) => exec::main(arguments, exec),
        Verb::State(state) => state::main(arguments, state),
        Verb::List(list) => list::main(arguments, list),
        Verb::Ps(ps) => ps::main(arguments, ps),
        Verb::Kill(kill) => kill::main(arguments, kill),
        Verb::Pause(pause) => pause::pause(arguments, pause),
        Verb::Resume(resume) => pause::resume(arguments, resume),
        Verb::Delete(delete) => delete::main(arguments, delete),
        Verb::Net(net) => net::main(arguments, net),
        Verb::Template(template) => template::main(arguments, template),
        Verb::Update(update) => update::main(arguments, update),
        Verb::Events(events) => events::main(arguments, events),
        Verb::Why(why) => why::main(arguments, why),
        Verb::Checkpoint(checkpoint) => checkpoint::checkpoint(arguments, checkpoint),
        Verb::Restore(restore) => checkpoint::restore(restore),
        Verb::Spec(spec) => spec::main(spec),
        Verb::Check => check::main(arguments),
        Verb::Features => features::main(),
        Verb::Completions(completions) => pages::completions(completions),
        Verb::Man(pages) => pages::write(pages),
        Verb::Vmm(vmm) => vmm::main(vmm),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
