//! haproxy in front of us, and swaks as its own balancer: whom the PROXY protocol names is the client, if the network may say so.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::neighbour::{find, free_port, run};
use crate::support::PATIENCE;
use crate::support::home::Home;
use crate::support::maildir;
use crate::support::process::Process;
use crate::support::server::{Server, field};

/// Where the client is; the balancer and the server are at 127.0.0.1.
const CLIENT: &str = "127.0.0.5";

/// A home with one listener, which has these settings.
fn home(settings: &str) -> Home {
    let home = Home::new("[tls]\ncertificate = \"conf/cert.pem\"\nkey = \"conf/key.pem\"\n");
    home.fragment("listener", &format!("[[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"starttls\"\n{settings}\n"));
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    fs::write(home.at("conf/cert.pem"), certificate.pem()).unwrap();
    fs::write(home.at("conf/key.pem"), key.serialize_pem()).unwrap();
    home
}

/// How haproxy checks whether the server is up, with what it logs when it is.
const CHECKS: [(&str, &str); 2] = [
    // A greeting, EHLO and QUIT.
    ("option smtpchk EHLO haproxy.test", "Layer7 check passed, code: 221"),
    // A header, and the connection is reset.
    ("", "Layer4 check passed"),
];

/// A running haproxy.
struct Balancer {
    process: Process,
    port: u16,
}

impl Balancer {
    /// Starts haproxy in front of a server, which it checks all the time; `word` says with which header.
    fn start(home: &Home, server: &Server, word: &str, check: &str) -> Option<Self> {
        let program = find("haproxy")?;
        let port = free_port();
        let settings = format!(
            "global\n  noreuseport\n  log stdout format raw local0\n\
             defaults\n  mode tcp\n  log global\n  option log-health-checks\n  timeout check 60s\n  timeout connect 60s\n  \
             timeout client 60s\n  timeout server 60s\n\
             listen smtp\n  bind 127.0.0.1:{port}\n  {check}\n  \
             server posthouse {} {word} check check-send-proxy inter 20ms\n",
            server.address()
        );
        let file = home.at("haproxy.cfg");
        fs::write(&file, settings).unwrap();
        let process = Process::start("haproxy", Command::new(program).arg("-db").arg("-f").arg(file));
        Some(Self { process, port })
    }

    /// Waits until a check ended so.
    fn checked(&self, result: &str) {
        self.process.output().wait(result, PATIENCE, |line| line.contains(result).then_some(()));
    }
}

/// A command of swaks that sends a mail to Ann at this port.
fn swaks(port: u16, options: &[&str]) -> Option<Command> {
    let mut command = Command::new(find("swaks")?);
    command.args(["--server", "127.0.0.1", "--port", &port.to_string(), "--ehlo", "swaks.test", "--from", "sue@swaks.test"]);
    command.args(["--to", "ann@example.test", "--body", "by way of a balancer"]).args(options);
    Some(command)
}

/// The one message so far, which came from this client: as the log and its Received field have it. The event of its acceptance.
fn assert_arrived(home: &Home, server: &Server, client: &str) -> Value {
    let accepted = server.accepted(0);
    assert_eq!(field(&accepted, "client"), client);
    server.finished(field(&accepted, "id"));
    let literal = if client.contains(':') { format!("IPv6:{client}") } else { client.to_owned() };
    let message = String::from_utf8(maildir::only(&home.maildir("ann"))).unwrap();
    assert!(message.contains(&format!("Received: from swaks.test ([{literal}])")), "{message}");
    assert!(message.contains("\r\nby way of a balancer\r\n"), "{message}");
    accepted
}

/// A mail that haproxy brings while it checks the server.
fn assert_brought(word: &str, (check, passed): (&str, &str), options: &[&str], protocol: &str) -> Option<()> {
    let home = home("proxy = [\"127.0.0.1\"]");
    let server = Server::start(&home);
    let balancer = Balancer::start(&home, &server, word, check)?;
    balancer.checked(passed);
    run(swaks(balancer.port, &["--local-interface", CLIENT])?.args(options));
    let accepted = assert_arrived(&home, &server, CLIENT);
    assert_eq!(field(&accepted, "protocol"), protocol, "{word}: {accepted}");
    assert_eq!(field(&accepted, "tls").is_empty(), protocol == "ESMTP", "{word}: {accepted}");
    // A check is haproxy's own connection. Version 1 has no word for that but haproxy's own address.
    let mut presented = server.events("presented");
    presented.retain(|event| word == "send-proxy-v2" || field(event, "client") != "127.0.0.1");
    assert_eq!(presented.len(), 1, "{word} {check}: {presented:?}");
    assert_eq!((field(&presented[0], "client"), field(&presented[0], "by")), (CLIENT, "127.0.0.1"));
    // And no check is one too many, for either side.
    for event in ["proxy-failed", "limited"] {
        assert_eq!(server.events(event), [] as [Value; 0], "{word} {check}");
    }
    let log = balancer.process.output().text();
    assert!(!log.contains("failed") && !log.contains("DOWN"), "{word} {check}: {log}");
    Some(())
}

#[test]
fn behind_haproxy_the_client_is_the_one_that_haproxy_saw() {
    for word in ["send-proxy-v2", "send-proxy"] {
        for check in CHECKS {
            if assert_brought(word, check, &[], "ESMTP").is_none() {
                return;
            }
        }
    }
}

#[test]
fn starttls_goes_through_haproxy() {
    for word in ["send-proxy-v2", "send-proxy"] {
        if assert_brought(word, CHECKS[0], &["--tls"], "ESMTPS").is_none() {
            return;
        }
    }
}

/// swaks' ways to say who the client is, and what our Received field makes of it. (Its LOCAL of version 2 is no header: it ends early.)
fn headers() -> [(Vec<&'static str>, &'static str); 4] {
    let ends = |family, source, to| {
        [
            "--proxy-family",
            family,
            "--proxy-source",
            source,
            "--proxy-source-port",
            "4711",
            "--proxy-dest",
            to,
            "--proxy-dest-port",
            "25",
        ]
    };
    [
        (vec!["--proxy-version", "1", "--proxy", "TCP4 192.0.2.7 192.0.2.1 4711 25"], "192.0.2.7"),
        ([&["--proxy-version", "1"][..], &ends("TCP6", "2001:db8::7", "2001:db8::1")].concat(), "2001:db8::7"),
        ([&["--proxy-version", "2"][..], &ends("AF_INET", "192.0.2.7", "192.0.2.1")].concat(), "192.0.2.7"),
        ([&["--proxy-version", "2"][..], &ends("AF_INET6", "2001:db8::7", "2001:db8::1")].concat(), "2001:db8::7"),
    ]
}

#[test]
fn a_header_from_swaks_is_believed_from_a_network_that_may_send_it() {
    for (options, client) in headers() {
        let home = home("proxy = [\"127.0.0.1\"]");
        let server = Server::start(&home);
        let Some(mut command) = swaks(server.address().port(), &options) else { return };
        run(&mut command);
        assert_arrived(&home, &server, client);
    }
}

#[test]
fn a_header_from_swaks_is_no_command_from_elsewhere_or_where_none_is_expected() {
    for (settings, from) in [("", "127.0.0.1"), ("proxy = [\"127.0.0.1\"]", CLIENT)] {
        let home = home(settings);
        let server = Server::start(&home);
        for (number, (options, _)) in headers().iter().enumerate() {
            let Some(mut command) = swaks(server.address().port(), options) else { return };
            let output = command.args(["--local-interface", from]).output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(!output.status.success() && said.contains("<** 500 5.5."), "{settings} {options:?}: {said}");
            let mut seen = 0;
            server.event("disconnected", |event| {
                assert!(field(event, "client").starts_with(&format!("{from}:")), "{event}");
                seen += 1;
                seen > number
            });
        }
        for event in ["accepted", "presented"] {
            assert_eq!(server.events(event), [] as [Value; 0]);
        }
    }
}
