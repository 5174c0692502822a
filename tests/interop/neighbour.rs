//! Foreign programs: found or missed, run to their end, given a free port.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::Value;

/// The program's path. None: it isn't there, and the test may pass without it.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/local/sbin", "/usr/lib/postfix/sbin"].map(PathBuf::from);
    let found = std::env::split_paths(&path).chain(system).map(|folder| folder.join(program)).find(|file| file.is_file());
    if found.is_none() {
        missing(&format!("{program} is not installed"));
    }
    found
}

/// Says that a neighbour is missing; fails if it must not be.
pub fn missing(what: &str) {
    assert!(std::env::var("POSTHOUSE_INTEROP").as_deref() != Ok("required"), "{what}: .ci/neighbours installs it");
    eprintln!("passed without being run: {what}");
}

/// Whether we are root: some neighbours become other system users and can't be run without.
pub fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        missing("the neighbour needs root");
    }
    root
}

/// The Python that has what the helpers import; the neighbours' own one first.
pub fn python() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/neighbours/bin/python3");
    if own.is_file() { Some(own) } else { find("python3") }
}

/// Runs one of our Python helpers, which writes one JSON document.
pub fn helper<T: AsRef<OsStr>>(script: &str, arguments: impl IntoIterator<Item = T>) -> Option<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/py").join(script);
    let output = run(Command::new(python()?).arg("-B").arg(script).args(arguments));
    Some(serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}")))
}

/// Runs a program to its end, which has to be a good one.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// A port that is free on loopback, for UDP too: for programs that can't be given port 0 and asked what came of it. It lies below the
/// range that the system gives to clients, and no two calls return the same.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 12_000 + (std::process::id() % 150) as u16 * 100;
    for _ in 0..5000 {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed) % 5000;
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() && UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if free {
            return port;
        }
    }
    panic!("no free port on loopback");
}
