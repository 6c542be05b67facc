//! What every launch of one caller has in common.

use std::path::PathBuf;

use super::cgroup;
use super::template::Store;

/// Where things are, and how they are done.
pub(crate) struct Settings {
    /// Where the state of containers is kept.
    pub(crate) root: PathBuf,
    /// Directory of the guest's files; none to look for it beside the program.
    pub(crate) guest_dir: Option<PathBuf>,
    /// The templates.
    pub(crate) templates: Store,
    /// How cgroups of the host are made.
    pub(crate) cgroups: cgroup::Manner,
}
