//! GNU SASL's programs log in by SCRAM: neither side shows the password, and each proves to the other that it knows it.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use crate::neighbour::{find, run};
use crate::support::home::Home;
use crate::support::maildir;
use crate::support::server::{Server, field, posthouse};

const PASSWORD: &str = "two words, =and more";

/// A server with a listener for each kind of TLS, at 127.0.0.2 and 127.0.0.3; all users have SCRAM keys.
fn start() -> (Home, Server) {
    let listener = |ip, tls| format!("[[listener]]\naddress = \"{ip}:0\"\nservice = \"submission\"\ntls = \"{tls}\"\n");
    let home = Home::new(&[listener("127.0.0.2", "starttls"), listener("127.0.0.3", "implicit")].concat());
    fs::write(home.at("conf/users"), "").unwrap();
    for user in ["ann@example.test", "sue@example.test"] {
        let mut command = posthouse(&home);
        let mut child =
            command.args(["user", "add", user, "--password-stdin"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        writeln!(child.stdin.take().unwrap(), "{PASSWORD}").unwrap();
        assert!(child.wait().unwrap().success());
    }
    let server = Server::start(&home);
    (home, server)
}

/// Where the submission listener of this address listens.
fn address(server: &Server, ip: &str) -> String {
    let listening = server.event("listening", |event| field(event, "address").starts_with(ip));
    field(&listening, "address").to_owned()
}

/// gsasl's attempt at a login by STARTTLS.
fn gsasl(program: &std::path::Path, server: &Server, mechanism: &str, password: &str) -> Output {
    Command::new(program)
        .args(["--smtp", "--starttls", "--x509-ca-file=", &format!("--connect={}", address(server, "127.0.0.2"))])
        .args(["--mechanism", mechanism, "--authentication-id=sue@example.test"])
        // A client that can bind insists on it.
        .args((!mechanism.ends_with("PLUS")).then_some("--no-cb"))
        .arg(format!("--password={password}"))
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn gsasl_logs_in_by_every_mechanism_and_plus_is_bound_to_the_channel() {
    let Some(program) = find("gsasl") else { return };
    let (_home, server) = start();
    for (number, mechanism) in ["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "PLAIN", "LOGIN"].into_iter().enumerate() {
        let output = gsasl(&program, &server, mechanism, PASSWORD);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("\n235 2.7.0 "), "{mechanism}: {output:?}");
        let mut seen = 0;
        let login = server.event("authenticated", |_| {
            seen += 1;
            seen > number
        });
        assert_eq!((field(&login, "mechanism"), field(&login, "login")), (mechanism, "sue@example.test"));
    }
}

#[test]
fn gsasl_is_told_of_a_wrong_password() {
    let Some(program) = find("gsasl") else { return };
    let (_home, server) = start();
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"] {
        let output = gsasl(&program, &server, mechanism, "wrong");
        assert!(String::from_utf8_lossy(&output.stdout).contains("535 5.7.8"), "{mechanism}: {output:?}");
        server.event("auth-failed", |event| field(event, "mechanism") == mechanism);
    }
    assert!(server.events("authenticated").is_empty());
}

#[test]
fn msmtp_logs_in_by_scram_and_sends() {
    let Some(program) = find("msmtp") else { return };
    let (home, server) = start();
    fs::write(home.at("message"), "From: sue@example.test\nBcc: ann@example.test\nSubject: by SCRAM\n\nbody\n").unwrap();
    fs::write(home.at("msmtprc"), "").unwrap();
    let address = address(&server, "127.0.0.3");
    let (ip, port) = address.rsplit_once(':').unwrap();
    run(Command::new(program)
        .arg(format!("--file={}", home.at("msmtprc").display()))
        .args([format!("--host={ip}"), format!("--port={port}"), format!("--passwordeval=printf %s '{PASSWORD}'")])
        .args(["--tls=on", "--tls-starttls=off", "--tls-certcheck=off", "--auth=scram-sha-256", "--remove-bcc-headers=off"])
        .args(["--user=sue@example.test", "--from=sue@example.test", "--set-date-header=off", "--set-msgid-header=off"])
        .arg("ann@example.test")
        .stdin(fs::File::open(home.at("message")).unwrap()));
    let accepted = server.accepted(0);
    assert_eq!((field(&accepted, "login"), field(&accepted, "protocol")), ("sue@example.test", "ESMTPSA"));
    server.finished(field(&accepted, "id"));
    let mail = fs::read_to_string(maildir::files(&home.maildir("ann")).remove(0)).unwrap();
    assert!(mail.contains("\r\nDate: ") && mail.contains("\r\nMessage-ID: <") && !mail.contains("Bcc"), "{mail}");
    assert_eq!(field(&server.events("authenticated")[0], "mechanism"), "SCRAM-SHA-256");
}
