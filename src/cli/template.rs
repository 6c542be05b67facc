//! `crx template`: the templates of this user, made, shown, checked and removed by hand. Launches make what they miss.

use std::time::{Duration, SystemTime};

use anyhow::bail;
use serde_json::json;

use super::table;
use crate::runtime::guest_files::GuestFiles;
use crate::runtime::template::{self, Entry, Key};
use crate::runtime::{exit, log};

/// Make, show, check and remove the templates that pods start from
///
/// A template is a guest whose kernel has booted. The first launch with a new guest kernel, first process, crx or host kernel makes one,
/// which takes as long as a boot; later ones start from it.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Make the template that launches would use now, if it is not there
    Build {
        /// The one for pods with network interfaces
        #[arg(long)]
        network: bool,
    },
    /// List templates
    List {
        /// How to print them
        #[arg(short, long, value_enum, default_value_t = table::Format::Table)]
        format: table::Format,
    },
    /// Say what a template was made of
    Show {
        /// Its name; the one that launches would use now if none is given
        name: Option<String>,
    },
    /// Remove templates; pods that run from them go on
    Rm {
        /// Their names
        #[arg(required_unless_present = "all")]
        names: Vec<String>,
        /// All of them
        #[arg(long, conflicts_with = "names")]
        all: bool,
    },
    /// Check that templates are as they were written; all if none is named
    Verify {
        /// Their names
        names: Vec<String>,
    },
}

pub(super) fn main(global: &super::Arguments, arguments: &Arguments) -> anyhow::Result<u8> {
    let store = global.store();
    let key = |network: bool| {
        let guest = GuestFiles::find(global.guest_dir.as_deref())?;
        Key::new(&guest.kernel, &guest.initramfs, network).map(|key| (key, guest))
    };
    match &arguments.verb {
        Verb::Build { network } => {
            let (key, guest) = key(*network)?;
            if store.find(&key)?.is_none() {
                template::build(&store, &key, guest.kernel, guest.initramfs, *network)?;
            }
            super::report::print(&key.name())?;
        }
        Verb::List { format } => {
            // Without guest files none is current.
            let current: Vec<String> =
                [false, true].into_iter().filter_map(|network| Some(key(network).ok()?.0.name())).collect();
            list(&store.entries()?, &current, *format)?;
        }
        Verb::Show { name } => {
            let name = name.clone().map_or_else(|| key(false).map(|(key, _)| key.name()), Ok)?;
            let Some(entry) = store.entries()?.into_iter().find(|entry| entry.name == name) else {
                bail!(
                    "there is no template {name:?} in {}; crx template build makes one",
                    store.path().display()
                )
            };
            show(&entry)?;
        }
        Verb::Rm { names, all } => {
            let every =
                || store.entries().map(|entries| entries.into_iter().map(|entry| entry.name).collect());
            let names = if *all { every()? } else { names.clone() };
            names.iter().try_for_each(|name| store.remove(name))?;
        }
        Verb::Verify { names } => {
            let every =
                || store.entries().map(|entries| entries.into_iter().map(|entry| entry.name).collect());
            let names = if names.is_empty() { every()? } else { names.clone() };
            let mut code = exit::SUCCESS;
            for name in names {
                match store.verify(&name) {
                    Ok(()) => super::report::print(&format!("{name}: good"))?,
                    Err(error) => {
                        log::error(&format!("template {name}: {error:#}; crx template rm removes it"));
                        code = exit::FAILURE;
                    }
                }
            }
            return Ok(code);
        }
    }
    Ok(exit::SUCCESS)
}

fn list(entries: &[Entry], current: &[String], format: table::Format) -> anyhow::Result<()> {
    let status = |entry: &Entry| match &entry.header {
        Err(_) => "damaged",
        Ok(_) if current.contains(&entry.name) => "current",
        Ok(_) => "stale",
    };
    match format {
        table::Format::Json => {
            let described: Vec<_> = entries
                .iter()
                .map(|entry| {
                    let header = entry.header.as_ref().ok();
                    json!({
                        "name": entry.name,
                        "status": status(entry),
                        "memory_mib": header.map(|header| header.memory_mib),
                        "content_bytes": header.map(|header| header.content_bytes),
                        "disk_bytes": entry.disk_bytes,
                        "created": header.map(|header| time(created(header.created_s))),
                        "used": time(entry.used),
                        "made_of": entry.made_of.lines().collect::<Vec<_>>(),
                    })
                })
                .collect();
            super::report::print(&json!(described).to_string())
        }
        table::Format::Table => {
            let row = |entry: &Entry| {
                let created = entry
                    .header
                    .as_ref()
                    .map_or_else(|_| String::new(), |header| time(created(header.created_s)));
                let disk = format!("{:.1}", entry.disk_bytes as f64 / f64::from(1 << 20));
                vec![entry.name.clone(), status(entry).to_owned(), disk, created, time(entry.used)]
            };
            let rows: Vec<_> = entries.iter().map(row).collect();
            table::print(&["NAME", "STATUS", "MIB", "CREATED", "USED"], &rows)
        }
    }
}

fn show(entry: &Entry) -> anyhow::Result<()> {
    let print = super::report::print;
    print(&format!("template {}", entry.name))?;
    match &entry.header {
        Ok(header) => print(&format!(
            "created {}, used {}\nguest memory {} MiB, {:.1} MiB with content; up to {} processors",
            time(created(header.created_s)),
            time(entry.used),
            header.memory_mib,
            header.content_bytes as f64 / f64::from(1 << 20),
            header.vcpus
        ))?,
        Err(error) => print(&format!("damaged: {error:#}"))?,
    }
    print(entry.made_of.trim_end())
}

fn created(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
