//! What config.json says, seen from inside the container. With `CRX_TEST_RUNTIME=runc` the same tests run
//! against runc, so that what they expect is what the specification's reference does.
#![allow(clippy::unwrap_used)]

mod binds;
mod cgroup;
mod default_config;
mod devices;
mod exits;
mod moment;
mod mounts;
mod namespaces;
mod process;
mod registers;
mod seccomp;
mod signals;
mod stdio;
mod sys;
mod terminal;
mod user;
