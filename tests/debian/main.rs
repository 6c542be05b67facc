//! A real distribution: Debian 12 with its package tools, interpreters and shell, and the file semantics
//! that its programs count on.
#![allow(clippy::unwrap_used)]

mod content;
mod files;
mod semantics;
mod shell;
mod tools;
