//! The verbs of the OCI command line, on containers that outlive the command which made them.
#![allow(clippy::unwrap_used)]

mod console;
mod detached;
mod exec;
mod hooks;
mod lifecycle;
mod limits;
mod pods;
mod stress;
mod why;
