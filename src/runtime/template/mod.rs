//! Templates: a pod starts where its kernel has already booted. A template is a snapshot of a guest that waits at its moment
//! ([`crx_vmm::Snapshot`]), and fits every pod of the same guest files on the same host ([`key`]): how much memory and how many
//! processors a pod has is settled when it is restored. The first launch that misses it makes it ([`mod@build`]), under a lock; it is kept
//! in a store ([`store`]) until something that it was made of changes, or others need the room.
//!
//! Before: `runtime::launch` wants a pod. Next: `pod::boot` restores it, or boots if there is no template.

mod build;
mod key;
mod store;

use std::fs::File;
use std::os::fd::OwnedFd;

use anyhow::Context;

pub(crate) use self::build::{NewTemplate, build, main as build_here};
pub(crate) use self::key::Key;
pub(crate) use self::store::{DEFAULT_LIMIT_MIB, Entry, Store, snapshot};
use super::channel::NewPod;
use super::log;

/// Memory of the guest in a template: the default of a pod. More is added when a pod is restored.
pub(crate) const MEMORY_MIB: u32 = 256;

/// Processors that its kernel knows; all but the first are brought online when a pod wants them.
pub(crate) const VCPUS: u8 = 8;

/// A template, open.
pub(crate) struct Template {
    /// Its state.
    pub(crate) state: File,
    /// Its memory.
    pub(crate) memory: File,
}

impl Template {
    /// For a message.
    pub(crate) fn into_descriptors(self) -> Vec<OwnedFd> {
        vec![self.state.into(), self.memory.into()]
    }

    /// From a message.
    pub(crate) fn from_descriptors(descriptors: Vec<OwnedFd>) -> Option<Self> {
        let [state, memory] = <[OwnedFd; 2]>::try_from(descriptors).ok()?;
        Some(Self { state: state.into(), memory: memory.into() })
    }
}

/// Why a pod boots although templates are wanted; `None` if it need not.
pub(crate) fn why_not(pod: &NewPod) -> Option<&'static str> {
    if pod.debug_console {
        Some("its console is to be shown from the first line on")
    } else if pod.memory_mib < MEMORY_MIB {
        Some("it has less memory than a template")
    } else if pod.vcpus > VCPUS {
        Some("it has more processors than a template")
    } else {
        None
    }
}

/// The template for a pod, made if it is not there; none for one that has to boot.
///
/// # Errors
/// None can be had. The pod can boot all the same, or meets the same reason.
pub(crate) fn for_pod(store: &Store, pod: &NewPod) -> anyhow::Result<Option<Template>> {
    if let Some(reason) = why_not(pod) {
        log::debug(&format!("no template for this pod: {reason}"));
        return Ok(None);
    }
    let key = Key::new(&pod.kernel, &pod.initramfs, pod.network)?;
    if let Some(template) = store.find(&key)? {
        return Ok(Some(template));
    }
    build(store, &key, pod.kernel.clone(), pod.initramfs.clone(), pod.network)?;
    store.find(&key)?.context("the template went as soon as it was made").map(Some)
}
