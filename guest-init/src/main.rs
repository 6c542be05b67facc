//! PID 1 of a pod: the boot calls, in their order. The kernel has just started this program from its initial
//! file system; at the end the pod is off. What the calls do is in the modules, in the order of a launch:
//! [`mounts`], [`agent`] (the connection to the host), [`session`] (the pod's loop) and its parts [`launch`],
//! [`container`], [`net`], [`table`], [`stdio`], [`terminal`], [`questions`], [`reap`] and [`ending`], [`shutdown`].
//!
//! One thread, no busy waiting, few system calls: on some hosts each costs 0.15 ms.

#![cfg_attr(not(test), no_main)]
#![cfg_attr(test, allow(dead_code, clippy::unwrap_used))]
#![deny(unsafe_code)]

mod agent;
mod clock;
mod container;
mod ending;
mod failure;
mod launch;
mod mounts;
mod net;
mod questions;
mod reap;
mod session;
mod shutdown;
mod stdio;
mod sys;
mod table;
mod terminal;

use crx_proto::Stage;

/// Everything PID 1 does, from the kernel's first instruction in it to power-off.
fn boot() -> ! {
    let started_ns = clock::monotonic_ns();
    sys::open_standard_streams();
    let Ok(mut host) = agent::Host::connect() else { shutdown::power_off() };
    host.hello(started_ns);
    let pod = mounts::Pod::prepare();
    host.stage(Stage::Mounted);
    session::run(&mut host, pod, &|port| sys::vsock_connect(port, false));
    shutdown::power_off()
}
