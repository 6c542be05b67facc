//! What can be wrong with a bundle: every variant is one line that names the file and, inside config.json,
//! the field. Comes before everything else of this crate, which only ever fails with these.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Longest piece of a value that a message repeats.
const QUOTE_MAX_CHARS: usize = 100;

/// Why a bundle cannot be run.
#[derive(Debug, Error)]
pub enum SpecError {
    /// The bundle's directory cannot be used.
    #[error("bundle {}", path.display())]
    Bundle {
        /// The directory, as given.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The bundle is something else than a directory.
    #[error("bundle {}: not a directory", path.display())]
    NotADirectory {
        /// The path, as given.
        path: PathBuf,
    },
    /// config.json cannot be read.
    #[error("{}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// config.json is not a regular file.
    #[error("{}: not a regular file", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// config.json is larger than any that is meant seriously.
    #[error("{}: larger than {max_bytes} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most that is read.
        max_bytes: u64,
    },
    /// config.json is not JSON.
    #[error("config.json: line {line}, column {column}: {problem}")]
    Json {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the parser expected.
        problem: String,
    },
    /// config.json is JSON, but not an object.
    #[error("config.json: not a JSON object")]
    NotAnObject,
    /// A field is missing, has the wrong type or a value that cannot be honoured.
    #[error("config.json: {field}: {problem}")]
    Field {
        /// Path of the field, as `mounts[2].destination`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Resources that a container shall have from now on, which are not in config.json, are wrong.
    #[error("resources: {problem}")]
    Resources {
        /// Where, and what is wrong.
        problem: String,
    },
    /// A field names something of the host that cannot be used.
    #[error("config.json: {field}: {}", quote(value))]
    FieldIo {
        /// Path of the field.
        field: String,
        /// Its value.
        value: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The container's ID cannot be used.
    #[error("container ID {}: {problem}", quote(id))]
    Id {
        /// The ID.
        id: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl SpecError {
    /// The same error about resources that are not in config.json.
    pub(crate) fn of_resources(self) -> Self {
        let problem = match self {
            Self::Json { line, column, problem } => format!("line {line}, column {column}: {problem}"),
            Self::NotAnObject => "not a JSON object".to_owned(),
            Self::Field { field, problem } => format!("{field}: {problem}"),
            other => other.to_string(),
        };
        Self::Resources { problem }
    }
}

/// A value in quotes for a one-line message: control characters escaped, long ones cut.
pub(crate) fn quote(value: &str) -> String {
    match value.char_indices().nth(QUOTE_MAX_CHARS) {
        Some((end, _)) => format!("{:?}...", &value[..end]),
        None => format!("{value:?}"),
    }
}
