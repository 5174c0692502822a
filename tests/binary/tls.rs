//! The real binary's certificates: made at the first start, replaced while it runs, kept when the new ones are bad; and
//! STARTTLS as a client meets it.

use std::io::{BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::Signal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::support::client::raw_reply as reply;
use crate::support::home::Home;
use crate::support::server::{Server, field, run};

type Secure = BufReader<StreamOwned<ClientConnection, TcpStream>>;

/// Puts a fresh pair for localhost there; the certificate as PEM.
fn put_pair(certificate: &Path, key: &Path) -> String {
    std::fs::create_dir_all(certificate.parent().unwrap()).unwrap();
    let pair = rcgen::KeyPair::generate().unwrap();
    let made = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&pair).unwrap();
    std::fs::write(key, pair.serialize_pem()).unwrap();
    std::fs::write(certificate, made.pem()).unwrap();
    made.pem()
}

fn say(stream: &mut Secure, line: &str) -> String {
    stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
    reply(stream)
}

/// STARTTLS, with `injected` behind the command, trusting this certificate only.
fn secure(server: &Server, trusted: &str, name: &str, injected: &str) -> std::io::Result<Secure> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let client = client.with_root_certificates(roots).with_no_client_auth();
    let mut plain = BufReader::new(TcpStream::connect(server.address()).unwrap());
    assert!(reply(&mut plain).starts_with("220 "));
    plain.get_mut().write_all(b"EHLO client.test\r\n").unwrap();
    assert!(reply(&mut plain).contains("STARTTLS\r\n"));
    plain.get_mut().write_all(format!("STARTTLS\r\n{injected}").as_bytes()).unwrap();
    assert_eq!(reply(&mut plain), "220 2.0.0 Ready to start TLS\r\n");
    let connection = ClientConnection::new(Arc::new(client), ServerName::try_from(name.to_owned()).unwrap()).unwrap();
    let mut stream = StreamOwned::new(connection, plain.into_inner());
    stream.conn.complete_io(&mut stream.sock)?;
    Ok(BufReader::new(stream))
}

fn pair_of(home: &Home) -> (PathBuf, PathBuf) {
    (home.at("conf/tls/cert.pem"), home.at("conf/tls/key.pem"))
}

/// A home whose certificate is configured and looked at every moment.
fn home_with_pair() -> (Home, String) {
    let home = Home::new("[tls]\ncertificate = \"conf/tls/cert.pem\"\nkey = \"conf/tls/key.pem\"\nreload_interval = \"50ms\"\n");
    let (certificate, key) = pair_of(&home);
    let pem = put_pair(&certificate, &key);
    (home, pem)
}

#[test]
fn the_first_start_makes_a_pair_that_stays_and_mail_comes_encrypted() {
    let home = Home::new("");
    let mut server = Server::start(&home);
    let made = server.event("self-signed", |_| true);
    let path = home.path().join(field(&made, "path"));
    let pem = std::fs::read_to_string(&path).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    let mut client = secure(&server, &pem, "mail.example.test", "").unwrap();
    assert!(!say(&mut client, "EHLO client.test").contains("STARTTLS"));
    assert!(say(&mut client, "MAIL FROM:<sue@client.test>").starts_with("250 "));
    assert!(say(&mut client, "RCPT TO:<ann@example.test>").starts_with("250 "));
    assert!(say(&mut client, "DATA").starts_with("354 "));
    assert!(say(&mut client, "Subject: x\r\n\r\ntext\r\n.").starts_with("250 "));
    let accepted = server.accepted(0);
    assert_eq!(field(&accepted, "protocol"), "ESMTPS");
    assert_eq!((field(&accepted, "tls"), field(&accepted, "cipher")), ("TLSv1.3", "TLS_AES_256_GCM_SHA384"));
    server.finished(field(&accepted, "id"));
    let message = String::from_utf8(crate::support::maildir::only(&home.maildir("ann"))).unwrap();
    let received = message.split("Subject:").next().unwrap();
    assert!(received.contains(" with ESMTPS id ") && received.contains("\ttls TLS_AES_256_GCM_SHA384 (TLSv1.3)"), "{received}");

    assert!(server.stop().success());
    let server = Server::start(&home);
    assert!(server.events("self-signed").is_empty());
    assert!(secure(&server, &pem, "mail.example.test", "").is_ok());
}

#[test]
fn what_is_injected_behind_starttls_is_never_carried_out() {
    let (home, pem) = home_with_pair();
    let server = Server::start(&home);
    let injected = "EHLO evil.test\r\nMAIL FROM:<evil@evil.test>\r\nRCPT TO:<ann@example.test>\r\nDATA\r\n";
    // Where it comes in the same packet it is thrown away.
    let mut client = secure(&server, &pem, "localhost", injected).unwrap();
    assert!(say(&mut client, "RCPT TO:<ann@example.test>").starts_with("503 "));
    assert!(say(&mut client, "EHLO client.test").starts_with("250"));
    assert!(say(&mut client, "DATA").starts_with("503 "));
    // Where it comes later it is no handshake.
    let mut plain = BufReader::new(TcpStream::connect(server.address()).unwrap());
    reply(&mut plain);
    plain.get_mut().write_all(b"EHLO client.test\r\n").unwrap();
    reply(&mut plain);
    plain.get_mut().write_all(b"STARTTLS\r\n").unwrap();
    reply(&mut plain);
    plain.get_mut().write_all(injected.as_bytes()).unwrap();
    let mut rest = Vec::new();
    let _ = plain.read_to_end(&mut rest);
    assert!(!rest.starts_with(b"2"), "{:?}", String::from_utf8_lossy(&rest));
    server.event("tls-failed", |_| true);
    assert!(server.events("accepted").is_empty());
}

#[test]
fn a_new_pair_is_taken_up_while_connections_go_on() {
    let (home, old) = home_with_pair();
    let server = Server::start(&home);
    let mut before = secure(&server, &old, "localhost", "").unwrap();
    let (certificate, key) = pair_of(&home);
    let new = put_pair(&certificate, &key);
    let mut seen = 0;
    server.event("certificate", |_| {
        seen += 1;
        seen == 2
    });
    assert!(secure(&server, &new, "localhost", "").is_ok());
    assert!(secure(&server, &old, "localhost", "").is_err());
    assert!(say(&mut before, "EHLO client.test").starts_with("250"));
}

#[test]
fn check_warns_of_a_certificate_that_nobody_is_ever_shown() {
    let (home, _) = home_with_pair();
    home.fragment("more", "[[certificate]]\nfile = \"conf/tls/more.pem\"\nkey = \"conf/tls/more-key.pem\"\n");
    let (certificate, key) = (home.at("conf/tls/more.pem"), home.at("conf/tls/more-key.pem"));
    let warnings = || {
        let checked = run(&home, &["check"]);
        let said = String::from_utf8(checked.stdout).unwrap();
        assert!(checked.status.success(), "{said}");
        said.lines().filter(|line| line.contains("more.pem: ") && line.contains("no client is ever shown it")).count()
    };
    put_pair(&certificate, &key);
    assert_eq!(warnings(), 1);
    // One of another kind is for clients that don't take the first.
    let rsa = include_str!("../tls/rsa-key.pem");
    let names = ["localhost".to_owned()];
    let made = rcgen::CertificateParams::new(names).unwrap().self_signed(&rcgen::KeyPair::from_pem(rsa).unwrap()).unwrap();
    std::fs::write(&key, rsa).unwrap();
    std::fs::write(&certificate, made.pem()).unwrap();
    assert_eq!(warnings(), 0);
}

#[test]
fn a_bad_pair_changes_nothing_and_is_told() {
    let (home, pem) = home_with_pair();
    let mut server = Server::start(&home);
    let (certificate, key) = pair_of(&home);
    let good = std::fs::read(&key).unwrap();
    std::fs::write(&key, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let refused = server.event("certificate-refused", |_| true);
    assert!(field(&refused, "reason").contains("does not belong to the certificate"), "{refused}");
    assert!(secure(&server, &pem, "localhost", "").is_ok());
    assert_eq!(run(&home, &["check"]).status.code(), Some(78));
    std::fs::write(&certificate, "rubbish").unwrap();
    server.process().signal(Signal::HUP);
    server.event("certificate-refused", |event| field(event, "path").ends_with("cert.pem"));
    server.event("reloaded", |_| true);
    assert!(secure(&server, &pem, "localhost", "").is_ok());
    std::fs::write(&certificate, &pem).unwrap();
    std::fs::write(&key, good).unwrap();
    assert!(server.stop().success());
    std::fs::write(&key, "rubbish").unwrap();
    let mut server = Server::launch(&home);
    assert_eq!(server.process().wait(crate::support::PATIENCE).code(), Some(78));
}

/// Memory that the server's process has in use.
fn resident(server: &mut Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process().pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// What is promised for an idle connection, with TLS and without, in a build that isn't optimised either.
#[test]
fn idle_connections_cost_little() {
    const COUNT: usize = 400;
    let (home, pem) = home_with_pair();
    home.fragment("limits", &format!("[limits]\nconnections_per_client = {0}\nconnections_per_network = {0}\n", COUNT * 4));
    let mut server = Server::start(&home);
    let address = server.address();
    let plain = || {
        let mut stream = BufReader::with_capacity(64, TcpStream::connect(address).unwrap());
        reply(&mut stream);
        stream.get_mut().write_all(b"EHLO client.test\r\n").unwrap();
        reply(&mut stream);
        stream
    };
    // What is made once for all is made before the count.
    let (_plain, _secure): (Vec<_>, Vec<_>) = (0..50).map(|_| (plain(), secure(&server, &pem, "localhost", "").unwrap())).unzip();
    let before = resident(&mut server);
    let mut connections = Vec::new();
    for _ in 0..COUNT {
        connections.push(plain());
    }
    let between = resident(&mut server);
    let mut sessions = Vec::new();
    for _ in 0..COUNT {
        let mut session = secure(&server, &pem, "localhost", "").unwrap();
        assert!(say(&mut session, "EHLO client.test").starts_with("250"));
        sessions.push(session);
    }
    let after = resident(&mut server);
    let each = |from: u64, to: u64| to.saturating_sub(from) / COUNT as u64;
    let (plain, tls) = (each(before, between), each(between, after));
    println!("an idle connection: {plain} octets, with TLS {tls}");
    assert!(plain <= 12 * 1024 && tls <= 40 * 1024, "{plain} and {tls} octets");
}
