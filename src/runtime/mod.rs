//! Containers and their pods: what the verbs of the command line call.
//!
//! [`launch`] is the caller's side, [`pod`] the VMM child's. They share [`channel`], their messages, and
//! [`timeline`], the clock readings of a launch.

pub(crate) mod channel;
pub(crate) mod exit;
pub(crate) mod guest_files;
pub(crate) mod launch;
pub(crate) mod pod;
mod relay;
mod share;
pub(crate) mod sizing;
pub(crate) mod state;
pub(crate) mod terminal;
pub(crate) mod timeline;
