//! `hooks`: programs that run at moments of a container's life. After it: `plan.rs` gives `startContainer` to the pod and
//! the others to the host's side.

use crx_proto::Hook;

use crate::error::{SpecError, quote};
use crate::json::Field;

/// The hooks that run on the host, and the one kind that runs in the container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// `prestart` and then `createRuntime`: the pod's process is there, the container is not made yet.
    pub create_runtime: Vec<Hook>,
    /// `createContainer`: after them, still before the container is made.
    pub create_container: Vec<Hook>,
    /// `startContainer`: in the container, before its program.
    pub start_container: Vec<Hook>,
    /// `poststart`: the program was executed.
    pub poststart: Vec<Hook>,
    /// `poststop`: the container was deleted.
    pub poststop: Vec<Hook>,
}

/// Where the hooks of a moment belong.
type List = fn(&mut Hooks) -> &mut Vec<Hook>;

/// The moments by their names, in their order.
pub(crate) const MOMENTS: [(&str, List); 6] = [
    ("prestart", |hooks| &mut hooks.create_runtime),
    ("createRuntime", |hooks| &mut hooks.create_runtime),
    ("createContainer", |hooks| &mut hooks.create_container),
    ("startContainer", |hooks| &mut hooks.start_container),
    ("poststart", |hooks| &mut hooks.poststart),
    ("poststop", |hooks| &mut hooks.poststop),
];

/// All hooks of config.json.
pub(crate) fn hooks(root: &Field<'_>) -> Result<Hooks, SpecError> {
    let mut hooks = Hooks::default();
    let Some(section) = root.get("hooks")? else { return Ok(hooks) };
    for (name, list) in MOMENTS {
        for field in section.list(name)? {
            list(&mut hooks).push(hook(&field)?);
        }
    }
    Ok(hooks)
}

fn hook(field: &Field<'_>) -> Result<Hook, SpecError> {
    let path_field = field.require("path")?;
    let path = path_field.string()?;
    if !path.starts_with('/') {
        return Err(path_field.error(format!("{} is not an absolute path", quote(path))));
    }
    let mut args: Vec<String> = field.strings("args")?.into_iter().map(str::to_owned).collect();
    if args.is_empty() {
        args.push(path.to_owned());
    }
    let timeout_s = field.opt_unsigned_to("timeout", u32::MAX)?;
    if timeout_s == Some(0) {
        return Err(field.child_error("timeout", "0 is not greater than zero"));
    }
    Ok(Hook {
        path: path.to_owned(),
        args,
        env: field.strings("env")?.into_iter().map(str::to_owned).collect(),
        timeout_s,
    })
}
