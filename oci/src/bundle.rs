//! Opening a bundle: the command line named a directory, this reads its config.json and finds its root file
//! system; `plan.rs` then turns both into what the pod is told. Host files are only looked at here, in
//! `passwd.rs` and in `mounts.rs` (the sources of bind mounts).

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::SpecError;
use crate::json::{Field, find_nul};
use crate::validate;

/// Name of the file in the bundle.
pub const CONFIG_FILE: &str = "config.json";
/// Most bytes of it that are read: the largest real ones (a seccomp profile, a Kubernetes environment) have some
/// hundred KiB, and a plan has to fit into a frame of 4 MiB.
pub const CONFIG_MAX_BYTES: u64 = 4 << 20;

/// A bundle: a config.json that is JSON of a known version, and a root file system that is there.
#[derive(Debug)]
pub struct Bundle {
    /// The directory, absolute and without symbolic links.
    pub(crate) directory: PathBuf,
    /// The root file system's directory, absolute and without symbolic links.
    pub(crate) rootfs: PathBuf,
    pub(crate) config: Value,
}

impl Bundle {
    /// Opens the bundle in a directory.
    ///
    /// # Errors
    /// It is not there, its config.json is missing, not JSON, of an unknown version, or names no root directory.
    pub fn open(directory: &Path) -> Result<Self, SpecError> {
        let bundle_error = |source| SpecError::Bundle { path: directory.to_owned(), source };
        let canonical = fs::canonicalize(directory).map_err(bundle_error)?;
        if !canonical.is_dir() {
            return Err(SpecError::NotADirectory { path: directory.to_owned() });
        }
        let config = read_json(&directory.join(CONFIG_FILE))?;
        let root = Field::root(&config);
        validate::oci_version(&root)?;
        let rootfs = find_rootfs(&canonical, &root)?;
        Ok(Self { directory: canonical, rootfs, config })
    }

    /// A bundle as it was when its container was made: its configuration was kept in a file.
    ///
    /// # Errors
    /// The file cannot be read, or is not what was kept.
    pub fn kept(config: &Path, directory: &Path, rootfs: &Path) -> Result<Self, SpecError> {
        let config = read_json(config)?;
        Ok(Self { directory: directory.to_owned(), rootfs: rootfs.to_owned(), config })
    }

    /// The configuration as JSON, to be kept.
    #[must_use]
    pub fn config_json(&self) -> Vec<u8> {
        self.config.to_string().into_bytes()
    }

    /// The bundle's directory, absolute and without symbolic links.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The root file system's directory, absolute and without symbolic links.
    #[must_use]
    pub fn rootfs(&self) -> &Path {
        &self.rootfs
    }
}

/// Reads a file with a JSON object.
pub(crate) fn read_json(path: &Path) -> Result<Value, SpecError> {
    parse(&read(path)?)
}

fn read(path: &Path) -> Result<Vec<u8>, SpecError> {
    let read_error = |source| SpecError::Read { path: path.to_owned(), source };
    // Before opening: opening a FIFO would wait for a writer.
    if !fs::metadata(path).map_err(read_error)?.is_file() {
        return Err(SpecError::NotAFile { path: path.to_owned() });
    }
    let mut text = Vec::new();
    let file = File::open(path).map_err(read_error)?;
    file.take(CONFIG_MAX_BYTES + 1).read_to_end(&mut text).map_err(read_error)?;
    if text.len() as u64 > CONFIG_MAX_BYTES {
        return Err(SpecError::TooLarge { path: path.to_owned(), max_bytes: CONFIG_MAX_BYTES });
    }
    Ok(text)
}

/// Parses a JSON object.
pub(crate) fn parse(text: &[u8]) -> Result<Value, SpecError> {
    let value: Value = serde_json::from_slice(text).map_err(|error| json_error(&error))?;
    if !value.is_object() {
        return Err(SpecError::NotAnObject);
    }
    if let Some(field) = find_nul(&value) {
        return Err(SpecError::Field { field, problem: "has a NUL byte".to_owned() });
    }
    Ok(value)
}

fn json_error(error: &serde_json::Error) -> SpecError {
    let text = error.to_string();
    // The parser appends the position, which the variant says in its own words.
    let problem = text.rsplit_once(" at line ").map_or(text.as_str(), |(problem, _)| problem).to_owned();
    SpecError::Json { line: error.line(), column: error.column(), problem }
}

fn find_rootfs(directory: &Path, root: &Field<'_>) -> Result<PathBuf, SpecError> {
    let field = root.require("root")?.require("path")?;
    let value = field.string()?;
    if value.is_empty() {
        return Err(field.error("empty"));
    }
    let io_error =
        |source| SpecError::FieldIo { field: field.path().to_owned(), value: value.to_owned(), source };
    let path = fs::canonicalize(directory.join(value)).map_err(io_error)?;
    if !fs::metadata(&path).map_err(io_error)?.is_dir() {
        return Err(field.error(format!("{} is not a directory", crate::error::quote(value))));
    }
    Ok(path)
}
