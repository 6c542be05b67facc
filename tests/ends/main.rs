//! Every way out of a pod: whatever ends, and however, nothing of it stays on the host. Each test lists
//! processes, mounts, cgroups, sockets, files and network devices before and after.
#![allow(clippy::unwrap_used)]

mod boot;
mod idle;
mod killed;
mod normal;
