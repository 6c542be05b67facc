//! Templates: what a launch does about them, what every pod has of its own although all start from one guest, and what
//! happens to a store that is damaged, full, or used by many at once.
#![allow(clippy::unwrap_used)]

mod clones;
mod faults;
mod places;
mod shapes;
mod store;
mod verbs;
