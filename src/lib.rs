//! CRX: an OCI container runtime in which every pod is a microVM.
//!
//! A launch, in reading order: [`cli`] parses the command line; `cli::run` or `cli::create` and `cli::launching` open
//! the bundle and have it turned into a plan (crate `crx-oci`); `runtime::launch` claims the container's ID, starts the
//! VMM process and follows it; that (`cli::vmm`, `runtime::pod`) builds the share, the VM (crate `crx-vmm`) and talks to PID 1 (crate
//! `crx-guest-init`) through the messages of crate `crx-proto`; `runtime::exit` has the exit codes.
//! [`service`] is the same for a long-lived caller, the shim of containerd.

#![deny(unsafe_code)]

pub mod cli;
mod runtime;
pub mod service;
mod sys;
