//! Postfix delivers to our mailboxes by LMTP, over a Unix socket.

use std::fs;

use super::Postfix;
use crate::support::client::Client;
use crate::support::corpus;
use crate::support::home::Home;
use crate::support::maildir;
use crate::support::server::{Server, field};

#[test]
fn postfix_delivers_to_our_mailboxes_by_lmtp_and_hears_of_each_recipient() {
    let home = Home::new("[[listener]]\naddress = \"unix:lmtp.sock\"\nservice = \"lmtp\"\nmode = \"0666\"\n");
    let server = Server::start(&home);
    let transport = format!("default_transport = lmtp:unix:{}\n", home.at("lmtp.sock").display());
    let Some(postfix) = Postfix::start(home.path(), &transport) else { return };
    let content = corpus::difficult("by way of Postfix");
    let to = ["ann@example.test", "nobody@example.test", "bob@example.test"];
    Client::open(postfix.address()).unwrap().send("sue@away.test", &to, &content).unwrap();
    let accepted = server.event("accepted", |event| field(event, "from").contains("sue@away.test"));
    assert_eq!((field(&accepted, "protocol"), &accepted["recipients"]), ("LMTP", &serde_json::json!(2)));
    server.finished(field(&accepted, "id"));
    for user in ["ann", "bob"] {
        maildir::above(&maildir::only(&home.maildir(user)), &content);
    }
    // Postfix writes its log line behind its own last step.
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    let told = |user: &str, status: &str| {
        let log = fs::read_to_string(home.at("postfix/log")).unwrap_or_default();
        log.lines().any(|line| line.contains(&format!("to=<{user}@example.test>")) && line.contains(status))
    };
    while !(told("ann", "status=sent (250 2.0.0") && told("bob", "status=sent (250 2.0.0") && told("nobody", "dsn=5.1.1")) {
        assert!(std::time::Instant::now() < deadline, "{}", postfix.log());
        std::thread::yield_now();
    }
}
