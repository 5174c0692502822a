//! The program: arguments to `cli::run`, and its exit status back.

use std::process::ExitCode;

fn main() -> ExitCode {
    posthouse::cli::run()
}
