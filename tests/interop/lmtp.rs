//! Python's smtplib delivers by LMTP, over TCP and over a Unix socket.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::neighbour::helper;
use crate::support::corpus;
use crate::support::home::Home;
use crate::support::maildir;
use crate::support::server::{Server, field};

#[test]
fn smtplib_delivers_by_lmtp_on_tcp_and_on_a_unix_socket() {
    let home = Home::new(
        "[[listener]]\naddress = \"127.0.0.2:0\"\nservice = \"lmtp\"\n\
         [[listener]]\naddress = \"unix:lmtp.sock\"\nservice = \"lmtp\"\nmode = \"0600\"\n",
    );
    let mut server = Server::start(&home);
    let tcp = |event: &serde_json::Value| field(event, "service") == "lmtp" && field(event, "address").starts_with("127.");
    let tcp = field(&server.event("listening", tcp), "address").to_owned();
    let socket = home.at("lmtp.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let (content, file) = (corpus::difficult("by LMTP"), home.at("message"));
    fs::write(&file, &content).unwrap();
    let to = "ann@example.test,nobody@example.test,bob@example.test";
    for address in [tcp, socket.display().to_string()] {
        let arguments = [address.as_str(), "sue@python.test", to, &file.display().to_string()].map(str::to_owned);
        let Some(report) = helper("lmtp.py", arguments) else { return };
        assert_eq!(report["rcpt"], json!({"ann@example.test": 250, "nobody@example.test": 550, "bob@example.test": 250}));
        let replies = report["replies"].as_array().unwrap();
        assert!(replies.len() == 2 && replies[0][0] == 250 && replies[0] == replies[1], "{report}");
        let id = replies[0][1].as_str().unwrap().rsplit(' ').next().unwrap().to_owned();
        server.finished(&id);
        assert_eq!(server.event("accepted", |event| field(event, "id") == id)["protocol"], "LMTP");
    }
    // Two from each way to ann, one to bob.
    server.event("finished", |_| maildir::files(&home.maildir("ann")).len() == 4);
    assert_eq!(maildir::files(&home.maildir("bob")).len(), 2);
    for file in maildir::files(&home.maildir("ann")) {
        maildir::assert_content(&fs::read(file).unwrap(), &content);
    }
    assert_eq!(server.stop().code(), Some(0));
    assert!(!socket.exists(), "the socket's file goes with the server");
}
