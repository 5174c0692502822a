//! The program: arguments to `cli::run`, and its exit status back.

use std::process::ExitCode;

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    posthouse::cli::run()
}
