//! Libraries that are preloaded into the binary: compiled for the test that needs one.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles a source file of `tests/binary` into a folder; none if there is no compiler here and none is asked for.
pub fn library(folder: &Path, source: &str) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/binary").join(source);
    let library = folder.join("preloaded.so");
    let compiled =
        Command::new("cc").args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    match compiled {
        Ok(status) => assert!(status.success(), "{} compiles", source.display()),
        Err(error) if is_required() => panic!("cc: {error}"),
        Err(error) => {
            eprintln!("passed over, there is no C compiler: {error}");
            return None;
        }
    }
    Some(library)
}

/// Whether nothing may be passed over.
pub fn is_required() -> bool {
    std::env::var("POSTHOUSE_INTEROP").is_ok_and(|value| value == "required")
}
