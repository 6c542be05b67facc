//! `containerd-shim-crx-v2`, the runtime `io.containerd.crx.v2`: what containerd starts and asks to run its containers in pods
//! of crx. One shim serves all containers of a pod.
//!
//! A launch, in reading order: containerd runs this program with `start` ([`bootstrap`]), which leaves a shim behind
//! ([`serve`]) and prints its address; there it asks for everything else ([`task`]). [`cleanup`] is what it runs once a shim
//! died. The containers themselves are made by [`crx::service`].

#![deny(unsafe_code)]

mod args;
mod bootstrap;
mod cleanup;
mod events;
mod io;
mod rootfs;
mod serve;
mod task;

use std::process::ExitCode;

fn main() -> ExitCode {
    // The processes of pods are this same program, so that it needs no other beside it.
    if std::env::args().nth(1).is_some_and(|verb| verb == "vmm" || verb == "stand-in") {
        return crx::cli::main();
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("containerd-shim-crx-v2: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let arguments = args::parse(std::env::args().skip(1))?;
    match arguments.action {
        args::Action::Start => bootstrap::start(&arguments),
        args::Action::Serve => serve::main(&arguments),
        args::Action::Delete => cleanup::main(&arguments),
        args::Action::Version => bootstrap::print_version(),
        args::Action::Info => bootstrap::print_info(),
    }
}
