//! A store of the test's own.

use std::path::{Path, PathBuf};
use std::process::Command as Host;
use std::sync::OnceLock;

use crx_fixture::{Bundle, Command, Outcome, runtime};
use serde_json::Value;
use tempfile::TempDir;

/// A store, removed with the test.
pub(crate) struct Store {
    directory: TempDir,
    guest: Option<PathBuf>,
}

impl Store {
    /// An empty one.
    pub(crate) fn empty() -> Self {
        Self { directory: tempfile::Builder::new().prefix("templates-").tempdir().unwrap(), guest: None }
    }

    /// One that has the template of this host, which is made once for all tests.
    pub(crate) fn filled() -> Self {
        static MADE: OnceLock<Store> = OnceLock::new();
        let made = MADE.get_or_init(|| {
            let store = Self::empty();
            let _ = store.template(&["build"]).expect(0);
            store
        });
        let store = Self::empty();
        let copied = Host::new("cp").arg("-a").arg(made.path().join(".")).arg(store.path()).status().unwrap();
        assert!(copied.success());
        store
    }

    /// The same, for guest files in a directory of their own, which are another kernel's to crx.
    pub(crate) fn with_own_guest(mut self) -> Self {
        let guest = self.path().with_extension("guest");
        std::fs::create_dir(&guest).unwrap();
        for file in ["vmlinux", "initramfs"] {
            std::fs::copy(runtime::dist().join("guest").join(file), guest.join(file)).unwrap();
        }
        self.guest = Some(guest);
        self
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn guest(&self) -> &Path {
        self.guest.as_deref().unwrap()
    }

    /// The command with this store, and its guest files.
    pub(crate) fn of(&self, command: Command) -> Command {
        let command = command.env("CRX_TEMPLATES", self.path());
        match &self.guest {
            Some(guest) => command.env("CRX_GUEST_DIR", guest),
            None => command,
        }
    }

    /// Runs a container from this store.
    pub(crate) fn run(&self, bundle: &Bundle, words: &[&str]) -> Outcome {
        self.of(bundle.command_with(words)).run()
    }

    /// `crx template` with this store.
    pub(crate) fn template(&self, words: &[&str]) -> Outcome {
        self.of(runtime::crx().arg("template").args(words)).run()
    }

    /// What `crx template list` says.
    pub(crate) fn list(&self) -> Vec<Value> {
        let listed = self.template(&["list", "--format", "json"]).expect(0);
        serde_json::from_str::<Value>(&listed.out()).unwrap().as_array().unwrap().clone()
    }

    /// The directory of its only template.
    pub(crate) fn only(&self) -> PathBuf {
        let [template] = &self.list()[..] else { panic!("not one template: {:?}", self.list()) };
        self.path().join(template["name"].as_str().unwrap())
    }

    /// Names of what is in it, without its lock.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != "lock");
        names.sort();
        names
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(guest) = &self.guest {
            let _ = std::fs::remove_dir_all(guest);
        }
    }
}

/// The launch started from a template: it says nothing, and its timeline has the restore.
pub(crate) fn was_restored(outcome: &Outcome) -> bool {
    outcome.err().contains("template restored")
}
