//! The `crx` command. From here: [`crx::cli`] reads the command line and calls one verb.

use std::process::ExitCode;

fn main() -> ExitCode {
    crx::cli::main()
}
