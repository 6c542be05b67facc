//! crx.
