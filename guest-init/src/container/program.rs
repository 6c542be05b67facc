//! The program: where it is, and what it means when it cannot be executed.

use std::ffi::CString;

use crx_proto::{EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, Process, StartError};
use rustix::fs::{Access, AtFlags, CWD, FileType, accessat, stat};
use rustix::io::Errno;

use crate::failure::{failed, reason};
use crate::sys::{StringArray, execve};

/// A program with its arguments and environment, as execve(2) takes them.
pub(crate) struct Program {
    /// Its name, for messages.
    name: String,
    /// Paths to try, in their order.
    candidates: Vec<CString>,
    /// It has no slash and is looked for in PATH.
    searched: bool,
    arguments: StringArray,
    environment: StringArray,
}

impl Program {
    /// Prepares everything that can be prepared before the container is there.
    pub(crate) fn prepare(process: &Process) -> Result<Self, StartError> {
        let strings = |field: &str, strings: &[String]| {
            let each = strings.iter().enumerate().map(|(index, string)| {
                CString::new(string.as_str())
                    .map_err(|error| failed(format_args!("process.{field}[{index}]"), "read", error))
            });
            each.collect::<Result<Vec<_>, _>>().map(StringArray::new)
        };
        let arguments = strings("args", &process.args)?;
        let environment = strings("env", &process.env)?;
        let name = process.args.first().cloned().unwrap_or_default();
        let searched = !name.contains('/');
        let candidates = if searched {
            search_path(&process.env).filter_map(|path| CString::new(format!("{path}/{name}")).ok()).collect()
        } else {
            arguments.first().map(ToOwned::to_owned).into_iter().collect()
        };
        Ok(Self { name, candidates, searched, arguments, environment })
    }

    /// Executes it. What is returned is why that was not possible.
    pub(crate) fn execute(&self) -> StartError {
        match self.try_each(|candidate| Err(execve(candidate, &self.arguments, &self.environment))) {
            Err(error) => error,
            Ok(()) => self.refused(EXIT_NOT_FOUND, "nothing was executed"),
        }
    }

    /// Looks for it as [`Program::execute`] does, and says already now what that would fail with if it is missing
    /// or not executable.
    pub(crate) fn look_up(&self) -> Result<(), StartError> {
        self.try_each(|candidate| {
            if FileType::from_raw_mode(stat(candidate)?.st_mode).is_dir() {
                return Err(Errno::ACCESS.into());
            }
            match accessat(CWD, candidate, Access::EXEC_OK, AtFlags::EACCESS) {
                Err(Errno::ACCESS) => Err(Errno::ACCESS.into()),
                // A seccomp filter may refuse the question; execve(2) has the last word.
                Ok(()) | Err(_) => Ok(()),
            }
        })
    }

    /// Tries the candidates in their order, until one does not fail.
    fn try_each(&self, attempt: impl Fn(&CString) -> std::io::Result<()>) -> Result<(), StartError> {
        let mut worst = None;
        for candidate in &self.candidates {
            let Err(error) = attempt(candidate) else { return Ok(()) };
            match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) if self.searched => {}
                Some(libc::EACCES) if self.searched => worst = worst.or(Some((candidate, error))),
                _ => return Err(self.not_executed(candidate, &error)),
            }
        }
        Err(match worst {
            Some((candidate, error)) => self.not_executed(candidate, &error),
            None => self.refused(EXIT_NOT_FOUND, "executable file not found in $PATH"),
        })
    }

    fn not_executed(&self, candidate: &CString, error: &std::io::Error) -> StartError {
        let is_directory =
            || stat(candidate).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir());
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) if stat(candidate).is_ok() => {
                self.refused(EXIT_NOT_FOUND, "the interpreter that it names does not exist")
            }
            Some(libc::ENOENT | libc::ENOTDIR) => self.refused(EXIT_NOT_FOUND, &reason(error).to_lowercase()),
            Some(libc::EACCES) if is_directory() => {
                self.refused(EXIT_NOT_EXECUTABLE, "is a directory: permission denied")
            }
            _ => self.refused(EXIT_NOT_EXECUTABLE, &reason(error).to_lowercase()),
        }
    }

    fn refused(&self, exit_code: u8, why: &str) -> StartError {
        StartError { exit_code, message: format!("process.args[0]: {:?}: {why}", self.name) }
    }
}

/// The directories of the container's PATH. Empty ones, which a shell takes for the working directory, are left
/// out, as in runc.
fn search_path(environment: &[String]) -> impl Iterator<Item = &str> {
    // The last value wins, as in the environment that the program sees with getenv of most libraries: runc keeps
    // the last of several.
    let path =
        environment.iter().rev().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or_default();
    path.split(':').filter(|directory| !directory.is_empty())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crx_proto::Capabilities;

    use super::*;

    fn process(args: &[&str], path: &str) -> Process {
        Process {
            terminal: None,
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: vec![format!("PATH={path}")],
            cwd: "/".to_owned(),
            uid: 0,
            gid: 0,
            additional_gids: Vec::new(),
            umask: None,
            capabilities: Capabilities::default(),
            rlimits: Vec::new(),
            no_new_privileges: false,
            oom_score_adj: None,
            io_priority: None,
        }
    }

    fn fails(args: &[&str], path: &str) -> (u8, String) {
        let program = Program::prepare(&process(args, path)).unwrap();
        let error = program.execute();
        assert_eq!(program.look_up().unwrap_err(), error, "looking it up tells the same");
        (error.exit_code, error.message)
    }

    #[test]
    fn what_can_be_executed_is_found() {
        Program::prepare(&process(&["sh"], "/none:/usr/bin:/bin")).unwrap().look_up().unwrap();
        Program::prepare(&process(&["/bin/sh"], "")).unwrap().look_up().unwrap();
    }

    #[test]
    fn what_is_not_there_is_127() {
        let message = r#"process.args[0]: "no-such-thing": executable file not found in $PATH"#;
        assert_eq!(fails(&["no-such-thing"], "/usr/bin:/bin"), (127, message.to_owned()));
        assert_eq!(fails(&["no-such-thing"], "").0, 127);
        assert_eq!(fails(&["/no/such/thing"], "").0, 127);
    }

    #[test]
    fn what_cannot_be_executed_is_126() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        fs::write(directory.path().join("plain"), "text").unwrap();
        assert_eq!(fails(&[&format!("{path}/plain")], "").0, 126);
        assert_eq!(
            fails(&["plain"], path),
            (126, r#"process.args[0]: "plain": permission denied"#.to_owned())
        );
        assert_eq!(
            fails(&[path], ""),
            (126, format!("process.args[0]: {path:?}: is a directory: permission denied"))
        );
    }

    #[test]
    fn a_script_whose_interpreter_is_missing_says_so() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("script");
        fs::write(&script, "#!/no/such/interpreter\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let program = Program::prepare(&process(&[script.to_str().unwrap()], "")).unwrap();
        let StartError { exit_code, message } = program.execute();
        assert_eq!(exit_code, 127);
        assert!(message.ends_with("the interpreter that it names does not exist"), "{message}");
        program.look_up().unwrap();
    }
}
