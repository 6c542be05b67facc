//! The standard streams that containerd names: FIFOs, or files for the outputs.

use std::fs::{File, OpenOptions};
use std::path::Path;

use anyhow::{Context, bail};
use crx::service::Stdio;

/// What containerd calls the streams of a process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) terminal: bool,
}

impl Names {
    /// Opens them. The second file keeps the process's input open until it is closed: clients come and go.
    ///
    /// # Errors
    /// One is not there, or of a kind that this shim has not.
    pub(crate) fn open(&self) -> anyhow::Result<(Stdio, Option<File>)> {
        let (mut stdin, mut kept) = (None, None);
        if !self.stdin.is_empty() {
            let failed = || format!("stdin: {}", self.stdin);
            // For both directions, which waits for nobody; then the other end is there for the process.
            kept = Some(OpenOptions::new().read(true).write(true).open(&self.stdin).with_context(failed)?);
            stdin = Some(File::open(&self.stdin).with_context(failed)?);
        }
        let stdout = output("stdout", &self.stdout)?;
        let stderr = if self.terminal { None } else { output("stderr", &self.stderr)? };
        Ok((Stdio { stdin, stdout, stderr }, kept))
    }
}

fn output(stream: &str, name: &str) -> anyhow::Result<Option<File>> {
    if name.is_empty() {
        return Ok(None);
    }
    let failed = || format!("{stream}: {name}");
    let file = match name.split_once("://") {
        // For both directions: nobody is waited for, and a client that leaves does not end the process by SIGPIPE.
        None => OpenOptions::new().read(true).write(true).open(name),
        Some(("fifo", path)) => OpenOptions::new().read(true).write(true).open(path),
        Some(("file", path)) => {
            let path = path.split('?').next().unwrap_or(path);
            if let Some(directory) = Path::new(path).parent() {
                std::fs::create_dir_all(directory).with_context(failed)?;
            }
            OpenOptions::new().append(true).create(true).open(path)
        }
        Some((kind, _)) => bail!("{stream}: {name}: {kind}:// is not supported; use a FIFO or file://"),
    };
    Ok(Some(file.with_context(failed)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::{Read, Write};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn fifos_are_opened_without_a_peer_and_input_stays_open() {
        let directory = std::env::temp_dir().join(format!("crx-shim-io-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let fifo = |name: &str| {
            let path = directory.join(name);
            mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let names = Names { stdin: fifo("in"), stdout: fifo("out"), ..Names::default() };
        let (mut stdio, kept) = names.open().unwrap();
        assert!(stdio.stderr.is_none());
        stdio.stdout.take().unwrap().write_all(b"x").unwrap();
        OpenOptions::new().write(true).open(&names.stdin).unwrap().write_all(b"one").unwrap();
        let mut text = [0; 3];
        let mut stdin = stdio.stdin.take().unwrap();
        stdin.read_exact(&mut text).unwrap();
        drop(kept);
        assert_eq!((text, stdin.read(&mut text).unwrap()), (*b"one", 0));
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn files_are_appended_to_and_other_kinds_refused() {
        let path = std::env::temp_dir().join(format!("crx-shim-log-{}", std::process::id()));
        let name = format!("file://{}?x=y", path.display());
        for _ in 0..2 {
            output("stdout", &name).unwrap().unwrap().write_all(b"line\n").unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "line\nline\n");
        std::fs::remove_file(path).unwrap();
        let error = output("stdout", "binary:///bin/logger?a=b").unwrap_err().to_string();
        assert!(error.starts_with("stdout: binary:///bin/logger?a=b: binary://"), "{error}");
        assert!(output("stdout", "/nowhere/fifo").is_err());
    }
}
