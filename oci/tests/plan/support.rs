//! A bundle in a temporary directory, and the runtime's default configuration to edit.

use std::error::Error;
use std::path::Path;

use crx_oci::{Bundle, Planned};
use serde_json::{Value, json};

/// The default configuration.
pub(crate) fn default_config() -> Value {
    serde_json::from_str(crx_oci::default_spec()).unwrap()
}

/// The default configuration with values put at JSON pointers; objects on the way are made.
pub(crate) fn config_with(edits: &[(&str, Value)]) -> Value {
    let mut config = default_config();
    for (pointer, value) in edits {
        set(&mut config, pointer, value.clone());
    }
    config
}

fn set(config: &mut Value, pointer: &str, value: Value) {
    let mut place = config;
    for name in pointer.split('/').skip(1) {
        let name = name.replace("~1", "/");
        place = match name.parse::<usize>() {
            Ok(index) if place.is_array() => place.get_mut(index).unwrap(),
            _ => {
                if !place.is_object() {
                    *place = json!({});
                }
                place.as_object_mut().unwrap().entry(name).or_insert(Value::Null)
            }
        };
    }
    *place = value;
}

/// Writes a bundle with an empty root file system.
pub(crate) fn write_bundle(directory: &Path, config: &[u8]) {
    std::fs::create_dir_all(directory.join("rootfs/etc")).unwrap();
    std::fs::write(directory.join("config.json"), config).unwrap();
}

/// Opens and plans the bundle in a directory; an error is the line that a user sees.
pub(crate) fn plan_in(directory: &Path, id: &str) -> Result<Planned, String> {
    let line = |error: crx_oci::SpecError| {
        let mut line = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            line = format!("{line}: {error}");
            cause = error.source();
        }
        assert!(!line.contains('\n'), "more than a line: {line}");
        line
    };
    let bundle = Bundle::open(directory).map_err(line)?;
    crx_oci::plan(&bundle, id).map_err(line)
}

/// Plans a configuration.
pub(crate) fn plan_of(config: &Value) -> Result<Planned, String> {
    let directory = tempfile::tempdir().unwrap();
    write_bundle(directory.path(), config.to_string().as_bytes());
    plan_in(directory.path(), "test")
}

/// Plans the default configuration with edits.
pub(crate) fn planned(edits: &[(&str, Value)]) -> Planned {
    plan_of(&config_with(edits)).unwrap()
}

/// The line with which the default configuration with edits is refused.
pub(crate) fn refused(edits: &[(&str, Value)]) -> String {
    match plan_of(&config_with(edits)) {
        Ok(_) => format!("accepted: {edits:?}"),
        Err(line) => line,
    }
}
