//! postgrey, by way of Postfix: what it puts off is tried again when it says so, and then taken.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::neighbour::{find, free_port, root};
use crate::postfix::Postfix;
use crate::support::PATIENCE;
use crate::support::corpus;
use crate::support::home::Home;
use crate::support::peer::Peer;
use crate::support::process::Process;
use crate::support::server::{Server, field};

/// postgrey with this delay. None: it can't be run here.
fn postgrey(folder: &Path, seconds: u32) -> Option<(Process, SocketAddr)> {
    let program = find("postgrey")?;
    if !root() {
        return None;
    }
    let folder = folder.join("postgrey");
    fs::create_dir_all(&folder).unwrap();
    chown(&folder, Some(65534), Some(65534)).unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let whitelist = folder.join("whitelist");
    fs::write(&whitelist, "").unwrap();
    let process = Process::start(
        "postgrey",
        Command::new(program)
            .arg(format!("--inet={address}"))
            .arg(format!("--dbdir={}", folder.display()))
            .arg(format!("--delay={seconds}"))
            .arg(format!("--whitelist-clients={}", whitelist.display()))
            .arg(format!("--whitelist-recipients={}", whitelist.display()))
            .args(["--user=nobody", "--group=nogroup"]),
    );
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = TcpStream::connect(address) {
        assert!(Instant::now() < deadline, "postgrey doesn't answer: {error}\n{}", process.output().text());
        std::thread::park_timeout(std::time::Duration::from_millis(10));
    }
    Some((process, address))
}

#[test]
fn greylisted_mail_is_taken_at_the_second_attempt() {
    let peer = Peer::new();
    let home = Home::new("");
    let Some((_postgrey, address)) = postgrey(home.path(), 1) else { return };
    let settings = format!(
        "relayhost = [127.0.0.1]:{}\nsmtpd_relay_restrictions =\n\
         smtpd_recipient_restrictions = check_policy_service inet:{address}, permit_mynetworks, reject\n",
        peer.address().port()
    );
    let Some(postfix) = Postfix::start(home.path(), &settings) else { return };
    home.configure(
        "",
        &format!(
            "[relay]\nnetworks = [\"127.0.0.1/32\"]\n[retry]\nhint_max = \"3s\"\nhint_min = \"1s\"\n\
             [[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
            postfix.address()
        ),
    );
    let server = Server::start(&home);
    let content = corpus::difficult("greylisted");
    let id = server.client().send("sue@client.test", &["joe@grey.test"], &content).unwrap().id().to_owned();
    let deferred = server.event("deferred", |event| field(event, "id") == id);
    assert!(field(&deferred, "reply").contains("Greylisted"), "{deferred}");
    // Five minutes would have been the first wait; postgrey's words make it what `hint_max` allows.
    server.finished(&id);
    server.delivered(&id, "joe@grey.test");
    assert_eq!(peer.next().to, ["joe@grey.test"]);
}
