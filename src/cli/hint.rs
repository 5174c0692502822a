//! The first steps that `serve` prints for a newcomer: how to send a message, where it will lie, how to see the queue. Everything
//! is taken from the configuration in force.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::print::shell;
use crate::config::Config;
use crate::directory::{Directory, Resolution};
use crate::mail::{Address, Service};

/// A few lines, or nothing if there is no mailbox to write to. `program` is how this program was called, options included.
pub(super) fn first_steps(config: &Config, directory: &Directory, users: &[Address], program: &str) -> Option<String> {
    let server = reachable(config.listeners.iter().find(|listener| listener.service == Service::Mx)?.address.tcp()?);
    let (to, mailbox) = users.iter().find_map(|user| match directory.resolve(user) {
        Resolution::Mailbox(mailbox) => Some((user, mailbox)),
        _ => None,
    })?;
    let place = mailbox.maildir().map_or_else(
        || "at the LMTP server of its domain".to_owned(),
        |folder| format!("in {}", shell(&folder.join("new").display().to_string())),
    );
    let recipient = shell(&to.to_string());
    let python = format!(
        "import smtplib; smtplib.SMTP(\"{}\", {}).sendmail(\"you@example.org\", [{}], \"Subject: Hello\\r\\n\\r\\nFirst mail.\\r\\n\")",
        server.ip(),
        server.port(),
        python_string(&to.to_string()),
    );
    Some(format!(
        "\nPosthouse takes mail on {server}. Send a first message:\n\
         \n    swaks --server {server} --from you@example.org --to {recipient}\n\
         \nor, with nothing but Python:\n\
         \n    python3 -c {}\n\
         \nIt will lie {place}. The queue, and how one message fares:\n\
         \n    {program} queue list\n    {program} queue show ID\n\
         \nCtrl-C stops the server; everything it has accepted stays.\n\n",
        shell(&python),
    ))
}

/// Where a client on this machine reaches a listener.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// A Python string literal: addresses are printable ASCII.
fn python_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::{Disk, SystemDisk};

    #[test]
    fn the_first_steps_follow_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = crate::control::testing::config();
        config.auth.users = folder.path().join("users");
        config.listeners[0].address = "0.0.0.0:2525".parse::<SocketAddr>().unwrap().into();
        (&SystemDisk as &dyn Disk).replace(&config.auth.users, b"").unwrap();
        let directory = Directory::load(&config, &SystemDisk).unwrap();
        assert_eq!(first_steps(&config, &directory, &[], "posthouse"), None);
        let users = [Address::parse("postmaster@example.test").unwrap()];
        let text = first_steps(&config, &directory, &users, "target/release/posthouse").unwrap();
        for part in [
            "swaks --server 127.0.0.1:2525 --from you@example.org --to postmaster@example.test\n",
            "python3 -c 'import smtplib; smtplib.SMTP(\"127.0.0.1\", 2525)",
            "in mail/example.test/postmaster/new.",
            "    target/release/posthouse queue list\n",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }
}
