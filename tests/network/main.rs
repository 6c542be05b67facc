//! The network of a pod: the interfaces of a namespace that its caller prepared are the pod's. Everything happens in
//! namespaces of the tests' own, one of which stands for the host.
#![allow(clippy::unwrap_used)]

mod cni;
mod datagrams;
mod faults;
mod hooks;
mod interfaces;
mod later;
mod nat;
mod passt;
mod place;
mod programs;
mod rates;
mod traffic;
mod vhost;
