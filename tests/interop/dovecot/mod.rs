//! Debian's Dovecot with its configuration and run folder in a test's own folder: IMAP over our Maildirs, and LMTP.

mod tests;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::neighbour::{find, free_port, missing, root};
use crate::postfix::id;
use crate::support::PATIENCE;
use crate::support::process::Process;

/// The system user that owns the mail: Dovecot reads no mail as root.
pub const OWNER: &str = "mail";

/// A running Dovecot.
pub struct Dovecot {
    process: Process,
    /// Where it speaks IMAP.
    pub imap: SocketAddr,
    /// Where it speaks LMTP, over TCP.
    pub lmtp: SocketAddr,
}

impl Dovecot {
    /// Starts Dovecot for the Maildirs `mail/DOMAIN/USER` in this folder. The folder becomes the mail user's. None: it can't be run here.
    pub fn start(folder: &Path) -> Option<Self> {
        let program = find("dovecot")?;
        if !root() {
            return None;
        }
        for protocol in ["imap", "lmtp"] {
            if !Path::new("/usr/lib/dovecot").join(protocol).exists() {
                missing(&format!("Dovecot's {protocol} is not installed"));
                return None;
            }
        }
        let owner = id("/etc/passwd", OWNER).expect("every Debian has this user");
        chown(folder, Some(owner), None).unwrap();
        let root = folder.join("dovecot");
        fs::create_dir_all(root.join("run")).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        let [imap, lmtp] = [free_port(), free_port()].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let settings = SETTINGS
            .replace("{root}", &root.display().to_string())
            .replace("{home}", &folder.display().to_string())
            .replace("{imap}", &imap.port().to_string())
            .replace("{lmtp}", &lmtp.port().to_string())
            .replace("{owner}", &owner.to_string());
        fs::write(root.join("conf"), settings).unwrap();
        let process = Process::start("dovecot", Command::new(program).arg("-F").arg("-c").arg(root.join("conf")));
        process.output().wait("Dovecot starting", PATIENCE, |line| line.contains("starting up").then_some(()));
        Some(Self { process, imap, lmtp })
    }

    /// How many LMTP connections it has taken.
    pub fn connections(&self) -> usize {
        self.process.output().lines().iter().filter(|line| line.contains("lmtp(") && line.contains(": Connect from")).count()
    }
}

const SETTINGS: &str = "base_dir = {root}/run
state_dir = {root}/run
log_path = /dev/stderr
protocols = imap lmtp
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
mail_location = maildir:{home}/mail/%d/%n
first_valid_uid = 1
mail_uid = {owner}
mail_gid = {owner}
mail_plugins = quota
protocol imap {
  mail_plugins = quota imap_quota
}
plugin {
  quota = maildir:User quota
}
postmaster_address = postmaster@example.test
hostname = dovecot.test
passdb {
  driver = static
  args = password=secret
}
userdb {
  driver = static
  args = uid={owner} gid={owner} home={home}/mail/%d/%n allow_all_users=yes
}
service imap-login {
  inet_listener imap {
    address = 127.0.0.1
    port = {imap}
  }
  inet_listener imaps {
    port = 0
  }
}
auth_mechanisms = plain login scram-sha-256
service auth {
  unix_listener {root}/auth {
    mode = 0666
  }
}
service lmtp {
  inet_listener lmtp {
    address = 127.0.0.1
    port = {lmtp}
  }
  unix_listener {root}/lmtp {
    mode = 0666
  }
}
";
