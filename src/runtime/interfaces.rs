//! Interfaces that come when the pod is there already: they are looked for in the network namespace of the host that its first
//! container brought, joined to taps by the process that asks, and handed to the pod.

use anyhow::{Context, bail};

use super::channel::{Command, PodNetwork, Report};
use super::log;
use super::network::Namespace;
use super::state::Container;

/// Brings a pod the interfaces with these names, or all, and what else its namespace has got. `pod`: its first container.
///
/// # Errors
/// The pod has no namespace or is not there, an interface cannot be joined, or the pod refuses it; then nothing is joined that was not
/// before.
pub(crate) fn add(pod: &Container, names: &[String]) -> anyhow::Result<()> {
    let namespace = namespace(pod)?;
    let queue_pairs = of_pod(pod)?.queue_pairs;
    let joined = namespace.find_later(names).and_then(|found| namespace.join(found, queue_pairs))?;
    let (network, joints, taps) = joined.into_parts();
    let command = Command::AddInterfaces { network: Box::new(network), joints: joints.clone() };
    let answer = pod.ask_with(&command, &taps);
    if answer.is_err() {
        drop(taps);
        // What is wrong with the pod is the error that counts, and the next one who looks removes what is left.
        let _ = namespace.part_from(&joints);
    }
    answer.map(drop)
}

/// Brings a pod what is new in its namespace, before one more container of it is made. What cannot be had is a warning: the container
/// has not asked for it.
pub(crate) fn rescan(pod: &Container) {
    let Some(path) = &pod.record.network else { return };
    let added = Namespace::open(path).and_then(|namespace| match namespace.has_new()? {
        true => add(pod, &[]),
        false => Ok(()),
    });
    if let Err(error) = added {
        log::warning(&format!("what is new in the pod's network namespace is not in the pod: {error:#}"));
    }
}

/// What the pod has, and what is in its namespace, if it has one: index and name.
///
/// # Errors
/// The pod or the namespace is not there.
pub(crate) fn list(pod: &Container) -> anyhow::Result<(PodNetwork, Vec<(u32, String)>)> {
    let network = of_pod(pod)?;
    let names = match pod.record.network {
        Some(_) => namespace(pod)?.names()?,
        None => Vec::new(),
    };
    Ok((network, names))
}

fn namespace(pod: &Container) -> anyhow::Result<Namespace> {
    let path = pod.record.network.as_ref().with_context(|| {
        format!("pod {:?} has no network namespace of the host: it was made without one", pod.record.id)
    })?;
    Namespace::open(path)
}

fn of_pod(pod: &Container) -> anyhow::Result<PodNetwork> {
    match pod.ask(&Command::Network)? {
        Report::Network(network) => Ok(network),
        other => bail!("the pod answers something else: {other:?}"),
    }
}
