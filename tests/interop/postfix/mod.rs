//! Debian's Postfix with configuration, queue and data in a test's own folder; /etc/postfix is neither read nor changed.

mod lmtp;
mod offers;
mod tests;

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::neighbour::{find, free_port, missing, root};
use crate::support::PATIENCE;
use crate::support::process::Process;

const MASTER: &str = "
127.0.0.1:{port} inet n - n - - smtpd
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
flush     unix n - n 1000? 0 flush
proxymap  unix - - n - - proxymap
smtp      unix - - n - - smtp
relay     unix - - n - - smtp
lmtp      unix - - n - - lmtp
error     unix - - n - - error
retry     unix - - n - - error
anvil     unix - - n - 1 anvil
tlsmgr    unix - - n 1000? 1 tlsmgr
scache    unix - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
";

/// A running Postfix.
pub struct Postfix {
    process: Process,
    address: SocketAddr,
    log: std::path::PathBuf,
}

impl Postfix {
    /// Starts Postfix in a folder, with these settings besides those that every test needs. None: it can't be run here.
    pub fn start(folder: &Path, settings: &str) -> Option<Self> {
        let master = find("master")?;
        if !root() {
            return None;
        }
        let (Some(owner), Some(group)) = (id("/etc/passwd", "postfix"), id("/etc/group", "postdrop")) else {
            missing("Postfix' user and group are not there");
            return None;
        };
        let port = free_port();
        let root = folder.join("postfix");
        for queue in
            ["active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved", "trace"]
        {
            make(&root.join("queue").join(queue), owner, None, 0o700);
        }
        make(&root.join("queue/maildrop"), owner, Some(group), 0o1730);
        make(&root.join("queue/public"), owner, Some(group), 0o2710);
        make(&root.join("queue/pid"), 0, None, 0o755);
        make(&root.join("data"), owner, None, 0o700);
        make(&root.join("conf"), 0, None, 0o755);
        let log = root.join("log");
        fs::write(root.join("conf/main.cf"), main_cf(&root, settings)).unwrap();
        fs::write(root.join("conf/master.cf"), MASTER.replace("{port}", &port.to_string())).unwrap();

        let process = Process::start("postfix", Command::new(master).arg("-c").arg(root.join("conf")).arg("-d"));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let postfix = Self { process, address, log };
        // The master opens its sockets before it starts anything behind them.
        let deadline = std::time::Instant::now() + PATIENCE;
        while let Err(error) = crate::support::client::Client::open(address) {
            assert!(std::time::Instant::now() < deadline, "Postfix doesn't answer: {error}\n{}", postfix.log());
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
        Some(postfix)
    }

    /// Where it takes mail.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it wrote to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- Postfix' log:\n{}\n{}", self.log(), self.process.output().text());
        }
    }
}

fn main_cf(root: &Path, settings: &str) -> String {
    let mut text = String::new();
    for folder in ["queue", "data"] {
        let _ = writeln!(text, "{folder}_directory = {}", root.join(folder).display());
    }
    let _ = writeln!(text, "maillog_file = {0}/log\nmaillog_file_prefixes = {0}", root.display());
    text.push_str(
        "compatibility_level = 3.6
mail_owner = postfix
setgid_group = postdrop
daemon_directory = /usr/lib/postfix/sbin
shlib_directory = /usr/lib/postfix
command_directory = /usr/sbin
myhostname = postfix.test
mydomain = postfix.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
local_recipient_maps =
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_tls_security_level = none
smtp_tls_security_level = none
smtp_dns_support_level = disabled
smtpd_peername_lookup = no
smtputf8_enable = no
message_size_limit = 60000000
mailbox_size_limit = 0
# Content is to come out as it went in: no fields added or rewritten, no lines broken.
local_header_rewrite_clients =
smtp_line_length_limit = 0
# All recipients of a message in one transaction.
smtpd_recipient_limit = 1000
default_destination_recipient_limit = 1000
minimal_backoff_time = 1s
",
    );
    text + settings
}

/// Makes a folder with owner and permissions.
fn make(folder: &Path, owner: u32, group: Option<u32>, mode: u32) {
    fs::create_dir_all(folder).unwrap();
    chown(folder, Some(owner), group).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
}

/// The number behind a name in /etc/passwd or /etc/group.
pub fn id(file: &str, name: &str) -> Option<u32> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}
