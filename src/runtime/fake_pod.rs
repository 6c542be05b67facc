//! A container without a VM, for tests: its state directory, and a pod's socket on which the test answers.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, thread};

use super::channel::{self, Command, Report};
use super::state::{POD_SOCKET, Record, StateDir};

/// The ID of the container.
pub(crate) const ID: &str = "fake";

/// The container; dropped, it is gone.
pub(crate) struct FakePod {
    root: tempfile::TempDir,
    _state: StateDir,
}

impl FakePod {
    /// A container with this config.json, whose pod answers each command with these reports.
    pub(crate) fn new(
        config_json: &str,
        answer: impl Fn(Command) -> Vec<Report> + Send + Sync + 'static,
    ) -> Self {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::claim(root.path(), ID).unwrap();
        let record = Record {
            id: ID.to_owned(),
            pid: Some(std::process::id()),
            made: true,
            bundle: PathBuf::from("/"),
            rootfs: PathBuf::from("/"),
            created: String::new(),
            annotations: BTreeMap::new(),
            pod: ID.to_owned(),
            cgroups: Vec::new(),
            network: None,
            stays: true,
            poststart: Vec::new(),
            poststop: Vec::new(),
        };
        state.write(&record).unwrap();
        state.keep_config(config_json.as_bytes()).unwrap();
        let clients = UnixListener::bind(state.path().join(POD_SOCKET)).unwrap();
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for client in clients.incoming() {
                let (client, answer) = (client.unwrap(), answer.clone());
                thread::spawn(move || {
                    while let Ok((command, _)) = channel::receive::<Command>(&client) {
                        // A client that has heard enough is gone.
                        answer(command).iter().for_each(|report| drop(channel::send(&client, report, &[])));
                    }
                });
            }
        });
        Self { root, _state: state }
    }

    /// Where the state of containers is kept.
    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    /// The container's configuration.
    pub(crate) fn config(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.root().join(ID).join("config.json")).unwrap()).unwrap()
    }
}
