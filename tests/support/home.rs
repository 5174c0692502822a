//! A fresh folder that the server of one test lives in: configuration, users, spool, mail. It goes away with the test.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A well-formed argon2id hash that no password of these tests belongs to.
const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$cG9zdGhvdXNlLXNhbHQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// The folder.
pub struct Home {
    folder: TempDir,
}

impl Home {
    /// A folder with the users ann and bob at example.test, and a configuration that ends with `sections`.
    pub fn new(sections: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("posthouse-").tempdir().expect("a temporary folder");
        // Neighbours that run as other system users have to get through.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("own folder");
        let home = Self { folder };
        fs::create_dir(home.at("conf")).expect("own folder");
        home.users(["ann@example.test", "bob@example.test"]);
        home.configure("", sections);
        home
    }

    /// A path inside.
    pub fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The Maildir of a user at example.test.
    pub fn maildir(&self, user: &str) -> PathBuf {
        self.at("mail/example.test").join(user)
    }

    /// The mailboxes of this server.
    pub fn users<T: AsRef<str>>(&self, addresses: impl IntoIterator<Item = T>) {
        let mut text = String::new();
        for address in addresses {
            let _ = writeln!(text, "{}:{HASH}", address.as_ref());
        }
        fs::write(self.at("conf/users"), text).expect("own folder");
    }

    /// Adds a file to `conf.d`, read behind the configuration and before those whose names sort behind.
    pub fn fragment(&self, name: &str, text: &str) {
        fs::create_dir_all(self.at("conf/conf.d")).expect("own folder");
        fs::write(self.at("conf/conf.d").join(name).with_extension("toml"), text).expect("own folder");
    }

    /// Writes the configuration: `settings` are top-level keys, `sections` come behind ours.
    pub fn configure(&self, settings: &str, sections: &str) {
        self.configure_listener("127.0.0.1:0", settings, sections);
    }

    /// The same with the listener's address.
    pub fn configure_listener(&self, address: &str, settings: &str, sections: &str) {
        let text = format!(
            r#"hostname = "mail.example.test"
postmaster = "postmaster@example.test"
{settings}
[spool]
path = "spool"
min_free = "1MiB"
[[listener]]
address = "{address}"
service = "mx"
[auth]
users = "conf/users"
[[domain]]
name = "example.test"
maildir = "mail/{{domain}}/{{user}}"
[admin]
socket = "spool/control.sock"
http = ""
[log]
format = "json"
level = "debug"
{sections}
"#
        );
        fs::write(self.at("conf/posthouse.toml"), text).expect("own folder");
    }
}
