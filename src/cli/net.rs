//! `crx net`: the interfaces of a pod that runs.

use clap::Subcommand;
use serde_json::json;

use super::table;
use crate::runtime::state::{self, Container};
use crate::runtime::{exit, interfaces};

/// The interfaces of a container's pod: add those that came later, list them
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Bring the pod the interfaces that its network namespace has got since it was made
    ///
    /// The namespace is the one that the pod was given (linux.namespaces, --net ns:PATH, or its createRuntime hooks'). New interfaces
    /// come with name, MAC, MTU, addresses, routes, permanent neighbours and kernel parameters; of those that the pod has, new
    /// addresses, routes and permanent neighbours. Not followed: what was removed or renamed, another MAC or MTU, and kernel
    /// parameters of interfaces that the pod has. The same happens when another container joins the pod.
    Add {
        /// Name of a container of the pod
        #[arg(value_name = "ID")]
        id: String,
        /// Which ones [default: all that are new]
        #[arg(value_name = "INTERFACE")]
        names: Vec<String>,
    },
    /// List the interfaces of the pod and of its network namespace
    List {
        /// Name of a container of the pod
        #[arg(value_name = "ID")]
        id: String,
        /// How to print them
        #[arg(short, long, value_enum, default_value_t = table::Format::Table)]
        format: table::Format,
    },
}

pub(super) fn main(global: &super::Arguments, arguments: &Arguments) -> anyhow::Result<u8> {
    let root = state::root(global.root.as_deref());
    match &arguments.verb {
        Verb::Add { id, names } => interfaces::add(&Container::find(&root, id)?.pod()?, names)?,
        Verb::List { id, format } => list(&Container::find(&root, id)?.pod()?, *format)?,
    }
    Ok(exit::SUCCESS)
}

/// A line of the list.
struct Line {
    /// Its name in the namespace, if it is there.
    namespace: Option<String>,
    /// Its name in the pod, as it came, the device there, MAC and MTU, if the pod has it.
    pod: Option<(String, String, String, u32)>,
}

fn list(pod: &Container, format: table::Format) -> anyhow::Result<()> {
    let (network, mut names) = interfaces::list(pod)?;
    let mut lines = Vec::new();
    for (index, interface) in network.interfaces {
        let at = names.iter().position(|(other, _)| *other == index);
        let mac: Vec<String> = interface.mac.iter().map(|byte| format!("{byte:02x}")).collect();
        let device = format!("virtio-mmio.{}", interface.window);
        lines.push(Line {
            namespace: at.map(|at| names.remove(at).1),
            pod: Some((interface.name, device, mac.join(":"), interface.mtu)),
        });
    }
    lines.extend(names.into_iter().map(|(_, name)| Line { namespace: Some(name), pod: None }));
    match format {
        table::Format::Json => {
            let lines = lines.iter().map(|Line { namespace, pod }| {
                let pod = pod.as_ref().map(|(name, device, mac, mtu)| {
                    json!({ "name": name, "device": device, "mac": mac, "mtu": mtu })
                });
                json!({ "namespace": namespace, "pod": pod })
            });
            super::report::print(&lines.collect::<serde_json::Value>().to_string())
        }
        table::Format::Table => {
            let rows: Vec<_> = lines.into_iter().map(row).collect();
            table::print(&["NAMESPACE", "POD", "DEVICE", "MAC", "MTU"], &rows)
        }
    }
}

fn row(line: Line) -> Vec<String> {
    let none = || "-".to_owned();
    let namespace = line.namespace.unwrap_or_else(none);
    match line.pod {
        Some((name, device, mac, mtu)) => vec![namespace, name, device, mac, mtu.to_string()],
        None => vec![namespace, none(), none(), none(), none()],
    }
}
