//! The crate through its interface: bundles on disk in, plans or one-line errors out.
#![allow(clippy::unwrap_used)]

mod bundles;
mod convert;
mod features;
mod mutate;
mod rejected;
mod resources;
mod seccomp;
mod standard;
mod support;
mod update;
mod user;
