//! NSD as the authoritative server for the names of a test, on loopback.

mod tests;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use crate::neighbour::{find, free_port};
use crate::support::PATIENCE;
use crate::support::process::Process;

/// A running name server.
pub struct Nsd {
    _process: Process,
    address: SocketAddr,
}

impl Nsd {
    /// Starts NSD in a folder with the zone `test.` of these records. None: it isn't installed.
    pub fn start(folder: &Path, records: &str) -> Option<Self> {
        let program = find("nsd")?;
        let port = free_port();
        let root = folder.join("nsd");
        fs::create_dir_all(&root).unwrap();
        let zone = format!(
            "$ORIGIN test.\n$TTL 60\n@ SOA ns.test. root.test. 1 3600 900 86400 60\n@ NS ns.test.\nns A 127.0.0.1\n{records}"
        );
        fs::write(root.join("zone"), zone).unwrap();
        let settings = format!(
            "server:\n  ip-address: 127.0.0.1\n  port: {port}\n  server-count: 1\n  username: \"\"\n  chroot: \"\"\n  zonesdir: \"{0}\"\n  \
             pidfile: \"\"\n  xfrdfile: \"{0}/xfrd\"\n  xfrdir: \"{0}\"\n  zonelistfile: \"{0}/zones\"\n  database: \"\"\n  verbosity: 1\n\
             remote-control:\n  control-enable: no\nzone:\n  name: \"test.\"\n  zonefile: \"{0}/zone\"\n",
            root.display()
        );
        fs::write(root.join("conf"), settings).unwrap();
        let process = Process::start("nsd", Command::new(program).arg("-d").arg("-c").arg(root.join("conf")));
        process.output().wait("nsd started", PATIENCE, |line| line.contains("nsd started").then_some(()));
        Some(Self { _process: process, address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)) })
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
