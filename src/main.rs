//! crx.
fn main() {}
