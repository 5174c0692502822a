//! Debian's Exim and OpenSMTPD as next hops, each in a folder that is its root: their packages conflict with each other's and Postfix'.

mod certificates;
mod greylist;
mod login;
mod tests;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::neighbour::{find, free_port, missing, root, run};
use crate::support::PATIENCE;
use crate::support::client::Client;
use crate::support::process::Process;

/// The users of both, by number.
const USERS: [(&str, u32); 6] =
    [("root", 0), ("nobody", 65534), ("vmail", 30_000), ("Debian-exim", 30_003), ("opensmtpd", 30_004), ("opensmtpq", 30_005)];

/// A running mail server that puts all mail into one Maildir.
pub struct Hop {
    process: Process,
    /// Where it takes mail.
    pub address: SocketAddr,
    /// That Maildir.
    pub maildir: PathBuf,
}

impl Hop {
    /// Exim with PIPELINING, CHUNKING and DSN. None: it can't be run here.
    pub fn exim(folder: &Path) -> Option<Self> {
        let cell = cell(folder, "exim")?;
        let port = free_port();
        for path in ["var/spool/exim4", "var/log/exim4", "var/mail"] {
            make(&cell.join(path), 30_003, 0o750);
        }
        write(&cell, "etc/exim4/exim4.conf", &EXIM.replace("{port}", &port.to_string()), 0o644);
        Some(Self::start(&cell, port, &["/usr/sbin/exim4", "-bdf", "-q10m"]))
    }

    /// OpenSMTPD, which has neither PIPELINING nor CHUNKING. None: it can't be run here.
    pub fn opensmtpd(folder: &Path) -> Option<Self> {
        let cell = cell(folder, "opensmtpd")?;
        let port = free_port();
        make(&cell.join("var/lib/opensmtpd/empty"), 0, 0o711);
        make(&cell.join("var/spool/smtpd"), 0, 0o711);
        make(&cell.join("var/mail"), 30_000, 0o750);
        write(&cell, "etc/vusers", "@ vmail\n", 0o644);
        write(&cell, "etc/smtpd.conf", &OPENSMTPD.replace("{port}", &port.to_string()), 0o600);
        Some(Self::start(&cell, port, &["/usr/sbin/smtpd", "-F"]))
    }

    fn start(cell: &Path, port: u16, command: &[&str]) -> Self {
        let process = Process::start(command[0], Command::new("chroot").arg(cell).args(command));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let hop = Self { process, address, maildir: cell.join("var/mail/all") };
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = Client::open(address) {
            assert!(Instant::now() < deadline, "{} doesn't answer: {error}\n{}", command[0], hop.process.output().text());
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
        hop
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the next hop's words:\n{}", self.process.output().text());
        }
    }
}

/// A copy of what `.ci/neighbours` unpacked, with users and hosts of its own. None: it isn't there.
fn cell(folder: &Path, name: &str) -> Option<PathBuf> {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/neighbours").join(name);
    if !unpacked.join("ready").exists() {
        missing(&format!("{name} is not unpacked"));
        return None;
    }
    if !root() {
        return None;
    }
    find("chroot")?;
    let cell = folder.join(name);
    run(Command::new("cp").arg("-a").arg(&unpacked).arg(&cell));
    let passwd: String = USERS.iter().map(|(user, id)| format!("{user}:x:{id}:{id}:{user}:/:/bin/sh\n")).collect();
    let group: String = USERS.iter().map(|(user, id)| format!("{user}:x:{id}:\n")).collect();
    write(&cell, "etc/passwd", &passwd, 0o644);
    write(&cell, "etc/group", &group, 0o644);
    write(&cell, "etc/hosts", "127.0.0.1 localhost\n", 0o644);
    fs::set_permissions(cell.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    Some(cell)
}

fn make(folder: &Path, owner: u32, mode: u32) {
    fs::create_dir_all(folder).unwrap();
    chown(folder, Some(owner), Some(owner)).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
}

fn write(cell: &Path, path: &str, text: &str, mode: u32) {
    let file = cell.join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
}

/// `nobody@` is refused for good, `later@` for now.
const EXIM: &str = "primary_hostname = exim.test
spool_directory = /var/spool/exim4
log_file_path = /var/log/exim4/%slog
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
smtp_accept_queue_per_connection = 0
disable_ipv6 = true
acl_smtp_rcpt = recipient
acl_smtp_data = accept
host_lookup =
rfc1413_query_timeout = 0s
chunking_advertise_hosts = *
dsn_advertise_hosts = *
tls_advertise_hosts =
keep_environment =
deliver_drop_privilege = true
begin acl
recipient:
  deny local_parts = nobody
       message = no such user
  defer local_parts = later
        message = not now
  accept
begin routers
all:
  driver = accept
  transport = all
begin transports
all:
  driver = appendfile
  directory = /var/mail/all
  create_directory
  maildir_format
  use_crlf
  envelope_to_add
  return_path_add
  user = Debian-exim
  group = Debian-exim
begin retry
* * F,1d,1h
";

const OPENSMTPD: &str = "listen on 127.0.0.1 port {port} hostname opensmtpd.test
table users file:/etc/vusers
table nobody { \"nobody@hop.test\" }
action \"keep\" maildir \"/var/mail/all\" user vmail virtual <users>
match from any for rcpt-to <nobody> reject
match from any for any action \"keep\"
";
