//! Go-betweens in front of the real binary: the PROXY protocol and XCLIENT, from configured networks and from others.

use std::io::{BufReader, Read as _, Write as _};
use std::net::TcpStream;

use crate::support::client::raw_reply;
use crate::support::home::Home;
use crate::support::maildir;
use crate::support::server::{Server, field};

type Stream = BufReader<TcpStream>;

/// A home with one listener, which has these settings.
fn home(settings: &str) -> Home {
    let home = Home::new("");
    home.fragment("listener", &format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{settings}\n"));
    home
}

fn connect(server: &Server, first: &[u8]) -> Stream {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.write_all(first).unwrap();
    BufReader::new(stream)
}

/// Says a line, if there is one, and hears a whole reply.
fn say(stream: &mut Stream, line: &str) -> String {
    if !line.is_empty() {
        stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
    }
    raw_reply(stream)
}

/// A mail to Ann from a session that was greeted; as it arrived, and the event of its acceptance.
fn send(home: &Home, server: &Server, stream: &mut Stream) -> (String, serde_json::Value) {
    for (line, code) in [
        ("EHLO client.test", "250"),
        ("MAIL FROM:<sue@client.test>", "250 "),
        ("RCPT TO:<ann@example.test>", "250 "),
        ("DATA", "354 "),
        ("Subject: x\r\n\r\ntext\r\n.", "250 "),
    ] {
        let reply = say(stream, line);
        assert!(reply.starts_with(code), "{line}: {reply}");
    }
    let accepted = server.accepted(0);
    server.finished(field(&accepted, "id"));
    (String::from_utf8(maildir::only(&home.maildir("ann"))).unwrap(), accepted)
}

const VERSION_1: &[u8] = b"PROXY TCP4 192.0.2.7 127.0.0.1 12345 25\r\n";
const VERSION_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x7f\0\0\x01\x30\x39\0\x19";

#[test]
fn behind_a_balancer_the_client_is_the_one_that_it_names() {
    for header in [VERSION_1, VERSION_2] {
        let home = home("proxy = [\"127.0.0.0/8\"]");
        let server = Server::start(&home);
        let mut stream = connect(&server, header);
        assert!(say(&mut stream, "").starts_with("220 "));
        let (message, accepted) = send(&home, &server, &mut stream);
        assert_eq!(field(&accepted, "client"), "192.0.2.7");
        assert!(message.contains("Received: from client.test ([192.0.2.7])"), "{message}");
        assert_eq!(field(&server.event("presented", |_| true), "by"), "127.0.0.1");
    }
}

#[test]
fn without_its_header_a_balancer_gets_no_session() {
    let home = home("proxy = [\"127.0.0.0/8\"]");
    let server = Server::start(&home);
    let mut stream = connect(&server, b"EHLO client.test\r\nQUIT\r\n");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
    let failed = server.event("proxy-failed", |_| true);
    assert_eq!(field(&failed, "reason"), "there is no PROXY header");
}

#[test]
fn a_header_from_elsewhere_is_what_any_early_talk_is() {
    let home = home("proxy = [\"192.0.2.0/24\"]\nxclient = [\"192.0.2.0/24\"]");
    let server = Server::start(&home);
    let mut stream = connect(&server, b"");
    assert!(say(&mut stream, "").starts_with("220 "));
    assert!(say(&mut stream, "PROXY TCP4 192.0.2.7 127.0.0.1 12345 25").starts_with("500 "));
    assert!(!say(&mut stream, "EHLO client.test").contains("XCLIENT"));
    assert!(say(&mut stream, "XCLIENT ADDR=192.0.2.7").starts_with("502 "));
    let (_, accepted) = send(&home, &server, &mut stream);
    assert_eq!(field(&accepted, "client"), "127.0.0.1");
}

#[test]
fn a_trusted_go_between_says_who_its_client_is() {
    let home = home("xclient = [\"127.0.0.1\"]");
    let server = Server::start(&home);
    let mut stream = connect(&server, b"");
    assert!(say(&mut stream, "").starts_with("220 "));
    assert!(say(&mut stream, "EHLO proxy.test").contains("XCLIENT ADDR PORT LOGIN\r\n"));
    assert!(say(&mut stream, "XCLIENT ADDR=IPV6:2001:db8::7 NAME=client.test").starts_with("220 "));
    let (message, accepted) = send(&home, &server, &mut stream);
    assert_eq!(field(&accepted, "client"), "2001:db8::7");
    assert!(message.contains("([IPv6:2001:db8::7])"), "{message}");
}
