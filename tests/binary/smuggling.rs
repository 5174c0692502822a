//! Smuggling through the real binary, in both directions. What public scanners try as the end of a message (SEC Consult 2023 and its
//! successors) must never be one: neither here, nor at a next hop that is less strict than we are.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use crate::support::client::Client;
use crate::support::home::Home;
use crate::support::server::{Server, field};

/// What stands around the dot.
const ENDS: [&[u8]; 15] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\r\n",
    b"\n\r",
    b"\n\n",
    b"\r\r",
    b"\r\n\0",
    b"\0\r\n",
    b"\r\0\n",
    b"\0\n",
    b"\n\0",
    b"\r\n ",
    b"\x0b",
    b"\xe2\x80\xa8",
];

/// Every end around a dot, also a doubled one, but for the true one.
fn variants() -> Vec<Vec<u8>> {
    let mut variants = Vec::new();
    for before in ENDS {
        for dot in [&b"."[..], b"..", b"\0.", b".\0"] {
            for after in ENDS {
                // CR LF . CR LF ends the message, whatever follows it.
                let ends = before.ends_with(b"\r\n") && dot == b"." && after.starts_with(b"\r\n");
                if !ends {
                    variants.push([before, dot, after].concat());
                }
            }
        }
    }
    variants
}

/// A message with another one behind the variant.
fn letter(variant: &[u8], number: usize) -> Vec<u8> {
    let smuggled = b"MAIL FROM:<evil@smuggled.test>\r\nRCPT TO:<ann@example.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nboo\r\n";
    [format!("Subject: {number}\r\n\r\nfirst").as_bytes(), variant, smuggled, b"QUIT\r\n"].concat()
}

/// Sends it by DATA as it stands; true if it was taken. Exactly one reply follows.
fn send(client: &mut Client, to: &str, wire: &[u8]) -> bool {
    client.envelope("sue@client.test", &[to]).unwrap();
    client.write(wire).unwrap();
    client.write(b".\r\n").unwrap();
    let reply = client.reply().unwrap();
    assert!(matches!(reply.code, 250 | 554), "{reply:?}");
    // Had anything of it been taken for commands, there would be more replies.
    client.say("VRFY x").unwrap();
    assert_eq!(client.reply().unwrap().code, 252, "{}", wire.escape_ascii());
    reply.code == 250
}

#[test]
fn no_variant_of_the_end_smuggles_a_message_in() {
    let home = Home::new("[limits]\nmessage_size = \"1MiB\"\n");
    let server = Server::start(&home);
    let mut client = server.client();
    let variants = variants();
    let taken = variants.iter().enumerate().filter(|(n, v)| send(&mut client, "ann@example.test", &letter(v, *n))).count();
    assert!(taken > 0 && taken < variants.len() / 2, "{taken} of {} taken", variants.len());
    let accepted = server.events("accepted");
    assert_eq!(accepted.len(), taken, "as many messages as were answered with 250");
    assert!(
        accepted.iter().all(|event| field(event, "from") == "<sue@client.test>" || field(event, "from") == "sue@client.test")
    );
}

/// How a careless server reads: which ends of lines it knows, and whether it throws NULs away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Careless {
    /// A bare LF ends a line.
    Lf,
    /// A bare CR does, too.
    CrOrLf,
    /// NULs are thrown away first, and a bare LF ends a line.
    NoNuls,
}

impl Careless {
    /// A server that reads so; it tells the reverse-path of every message that it believes to have got.
    fn start(self) -> (SocketAddr, Receiver<String>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let sender = sender.clone();
                thread::spawn(move || self.serve(stream, &sender).ok());
            }
        });
        (address, messages)
    }

    fn serve(self, stream: TcpStream, messages: &mpsc::Sender<String>) -> std::io::Result<()> {
        let mut out = stream.try_clone()?;
        let mut input = BufReader::new(stream);
        out.write_all(b"220 careless.test ESMTP\r\n")?;
        let (mut from, mut in_data) = (String::new(), false);
        let mut line = Vec::new();
        loop {
            let octets = input.fill_buf()?.to_vec();
            if octets.is_empty() {
                return Ok(());
            }
            input.consume(octets.len());
            for octet in octets {
                match octet {
                    0 if self == Self::NoNuls => {}
                    b'\n' => {}
                    b'\r' if self == Self::CrOrLf => {}
                    _ => {
                        line.push(octet);
                        continue;
                    }
                }
                if octet == 0 {
                    continue;
                }
                let text = String::from_utf8_lossy(&std::mem::take(&mut line)).trim_end_matches('\r').to_owned();
                if let Some(reply) = answer(&text, &mut from, &mut in_data, messages) {
                    out.write_all(reply.as_bytes())?;
                }
            }
        }
    }
}

/// What such a server replies to a line.
fn answer(line: &str, from: &mut String, in_data: &mut bool, messages: &mpsc::Sender<String>) -> Option<&'static str> {
    if *in_data {
        let end = line == ".";
        *in_data = !end;
        return end.then(|| {
            // The test may be over.
            let _ = messages.send(std::mem::take(from));
            "250 2.0.0 taken\r\n"
        });
    }
    // CR LF looks like two line ends to who takes CR for one.
    match line.get(..4)?.to_ascii_uppercase().as_str() {
        "EHLO" => Some("250-careless.test\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n"),
        "MAIL" => {
            line.clone_into(from);
            Some("250 2.1.0 Ok\r\n")
        }
        "DATA" => {
            *in_data = true;
            Some("354 go on\r\n")
        }
        "QUIT" => Some("221 2.0.0 bye\r\n"),
        _ => Some("250 2.0.0 Ok\r\n"),
    }
}

#[test]
fn no_variant_smuggles_a_message_out_to_a_careless_server() {
    let kinds = [Careless::Lf, Careless::CrOrLf, Careless::NoNuls];
    let servers: BTreeMap<Careless, _> = kinds.into_iter().map(|kind| (kind, kind.start())).collect();
    let mut sections = String::from("[relay]\nnetworks = [\"127.0.0.0/8\"]\n[limits]\nmessage_size = \"1MiB\"\n");
    for (number, (address, _)) in servers.values().enumerate() {
        sections.push_str(&format!("[[route]]\ndomain = \"far{number}.test\"\nhosts = [\"{address}\"]\n"));
    }
    let home = Home::new(&sections);
    let server = Server::start(&home);
    let mut client = server.client();
    for (number, (kind, (_, messages))) in servers.iter().enumerate() {
        let to = format!("eve@far{number}.test");
        let mut taken = 0;
        for (n, variant) in variants().iter().enumerate() {
            taken += usize::from(send(&mut client, &to, &letter(variant, n)));
            // The same with the dots that a client puts before each dot at the start of a line.
            taken += usize::from(send(&mut client, &to, &crate::support::client::stuffed(&letter(variant, n))));
        }
        // The true end as text, stuffed as it must be, and by BDAT, where nothing is.
        taken += usize::from(send(&mut client, &to, &crate::support::client::stuffed(&letter(b"\r\n.\r\n", 0))));
        taken += usize::from(send_chunk(&mut client, &to, &letter(b"\r\n.\r\n", 0)));
        for _ in 0..taken {
            let from = messages.recv_timeout(crate::support::PATIENCE).unwrap_or_else(|e| panic!("{kind:?}: {e}"));
            assert!(from.contains("<sue@client.test>"), "{kind:?}: {from}");
        }
        // All of what was taken has been delivered: nothing more comes, or one of them was two.
        server.event("finished", |_| true);
        let more = messages.recv_timeout(Duration::from_millis(200));
        assert!(more.is_err(), "{kind:?}: {more:?}");
    }
}

/// Sends it by BDAT if that is offered; true if it was taken.
fn send_chunk(client: &mut Client, to: &str, content: &[u8]) -> bool {
    if !client.command("EHLO client.test").unwrap().text.contains("CHUNKING") {
        return false;
    }
    client.command("MAIL FROM:<sue@client.test>").unwrap();
    client.command(&format!("RCPT TO:<{to}>")).unwrap();
    client.write(format!("BDAT {} LAST\r\n", content.len()).as_bytes()).unwrap();
    client.write(content).unwrap();
    client.reply().unwrap().code == 250
}
