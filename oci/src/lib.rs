//! OCI bundles: config.json to a checked plan.
//!
//! Reading order: [`bundle`] opens the bundle, `json.rs` reads fields with their paths, `validate.rs` has the
//! rules, [`plan()`] puts the sections together (`namespaces`, `user`, `mounts`, `devices`, `resources`, `process`,
//! `capabilities`, `seccomp`). Nothing is started here and nothing of the host is changed.

#![deny(unsafe_code)]

pub mod bundle;
mod capabilities;
mod devices;
mod error;
mod exec;
mod features;
mod hooks;
mod json;
mod mounts;
mod namespaces;
mod passwd;
mod plan;
mod process;
mod resources;
mod seccomp;
mod spec;
mod update;
mod user;
mod validate;

pub use bundle::Bundle;
pub use error::SpecError;
pub use exec::{ExecFlags, exec_plan, exec_plan_of};
pub use features::features;
pub use hooks::Hooks;
pub use plan::{Planned, plan};
pub use resources::CpuHint;
pub use spec::{SPEC_VERSION, default_spec, rootless_spec};
pub use update::{Update, update};
pub use validate::container_id;
