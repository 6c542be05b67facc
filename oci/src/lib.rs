//! OCI bundles: config.json to a checked plan.
