//! Containers and their pods: what the verbs of the command line call.
//!
//! [`launch`] is the caller's side; [`pod`] the VMM process's; [`stand_in`] that of a process which joined a pod. They share
//! [`channel`], their messages, [`state`], what is on disk, and [`timeline`], the clock readings of a launch.

pub(crate) mod attended;
pub(crate) mod cgroup;
pub(crate) mod channel;
mod console;
pub(crate) mod exit;
#[cfg(test)]
pub(crate) mod fake_pod;
mod following;
pub(crate) mod guest_files;
mod hooks;
pub(crate) mod host_process;
pub(crate) mod interfaces;
pub(crate) mod launch;
pub(crate) mod log;
pub(crate) mod network;
pub(crate) mod pod;
mod relay;
pub(crate) mod removal;
pub(crate) mod session;
pub(crate) mod settings;
mod share;
pub(crate) mod signals;
pub(crate) mod sizing;
pub(crate) mod stand_in;
pub(crate) mod state;
pub(crate) mod template;
pub(crate) mod terminal;
pub(crate) mod timeline;
pub(crate) mod usage;
