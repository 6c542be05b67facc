//! What is made of the command line's own definitions: completions for shells, and man pages. `make dist` writes both to
//! `target/dist/share`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::runtime::exit;

/// Print completions for a shell, to be put where it looks for them
#[derive(clap::Args)]
pub(super) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

/// Write the man pages
#[derive(clap::Args)]
pub(super) struct Pages {
    /// Directory to write them to
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// The command line; in pages the version is one line.
fn command() -> clap::Command {
    super::Arguments::command().version(env!("CARGO_PKG_VERSION"))
}

pub(super) fn completions(arguments: &Completions) -> anyhow::Result<u8> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut without_hidden(command()), "crx", &mut text);
    io::stdout().write_all(&text).context("cannot write to stdout")?;
    Ok(exit::SUCCESS)
}

pub(super) fn write(arguments: &Pages) -> anyhow::Result<u8> {
    let directory = &arguments.directory;
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let mut command = without_hidden(command()).disable_help_subcommand(true);
    // Gives the verbs the options that all have, and the names of their pages, `crx-VERB`.
    command.build();
    for verb in command.get_subcommands() {
        write_page(&directory.join(format!("crx-{}.1", verb.get_name())), verb.clone())?;
    }
    write_page(&directory.join("crx.1"), command)?;
    Ok(exit::SUCCESS)
}

fn write_page(path: &Path, command: clap::Command) -> anyhow::Result<()> {
    let page = File::create(path).and_then(|mut file| Man::new(command).render(&mut file));
    page.with_context(|| format!("cannot write {}", path.display()))
}

/// The verbs that are for people.
fn verbs(command: &clap::Command) -> Vec<clap::Command> {
    command.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned().collect()
}

/// The command line without what crx uses itself, which pages and completions would show.
fn without_hidden(command: clap::Command) -> clap::Command {
    let verbs = verbs(&command);
    let mut shown = clap::Command::new("crx").subcommands(verbs).args(command.get_arguments());
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    if let Some(after) = command.get_after_help() {
        shown = shown.after_help(after.clone());
    }
    shown.version(env!("CARGO_PKG_VERSION")).disable_version_flag(true).subcommand_required(true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_verb_has_a_page_with_its_options() {
        let directory = tempfile::tempdir().unwrap();
        write(&Pages { directory: directory.path().to_owned() }).unwrap();
        let page = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap().replace('\\', "");
        let whole = page("crx.1");
        let verbs = verbs(&command());
        assert!(verbs.len() > 15, "{}", verbs.len());
        for verb in &verbs {
            let name = verb.get_name();
            assert!(whole.contains(&format!("crx-{name}(1)")), "{name} is not in crx.1");
            let page = page(&format!("crx-{name}.1"));
            for option in verb.get_arguments().filter_map(clap::Arg::get_long) {
                assert!(page.contains(&format!("--{option}")), "--{option} is not in crx-{name}.1");
            }
        }
        for hidden in ["vmm", "man"] {
            assert!(!whole.contains(&format!("crx-{hidden}(1)")));
            assert!(!directory.path().join(format!("crx-{hidden}.1")).exists());
        }
    }

    #[test]
    fn every_verb_and_every_option_is_described() {
        let mut all = verbs(&command());
        all.push(command());
        for command in all {
            let name = command.get_name();
            assert!(command.get_about().is_some_and(|about| !about.to_string().is_empty()), "{name}");
            for argument in command.get_arguments() {
                let described = argument.get_help().is_some_and(|help| !help.to_string().is_empty());
                assert!(described, "{name}: {}", argument.get_id());
            }
        }
    }

    #[test]
    fn completions_know_every_verb_and_nothing_hidden() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut without_hidden(command()), "crx", &mut text);
            let text = String::from_utf8(text).unwrap();
            for verb in verbs(&command()) {
                assert!(text.contains(verb.get_name()), "{} of {shell}", verb.get_name());
            }
            assert!(text.contains("log-format") && text.contains("console-socket"), "{shell}");
            assert!(!text.contains("vmm") && !text.contains("stand-in"), "{shell}");
        }
    }
}
