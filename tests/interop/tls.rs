//! OpenSSL and Python meet our TLS: STARTTLS and implicit, both versions, resumption, and the scanners' injection.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use crate::neighbour::{find, helper};
use crate::support::home::Home;
use crate::support::server::{Server, field};

/// A home with a certificate for localhost in `conf/cert.pem` that trusts itself, and a listener of this kind.
fn home(tls: &str) -> Home {
    let home = Home::new("[tls]\ncertificate = \"conf/cert.pem\"\nkey = \"conf/key.pem\"\n");
    home.fragment("listener", &format!("[[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"{tls}\"\n"));
    let key = rcgen::KeyPair::generate().unwrap();
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    std::fs::write(home.at("conf/cert.pem"), certificate.pem()).unwrap();
    std::fs::write(home.at("conf/key.pem"), key.serialize_pem()).unwrap();
    home
}

/// `openssl s_client` with these options says these lines.
fn s_client(home: &Home, server: &Server, options: &[&str], lines: &str) -> Option<Output> {
    let mut command = Command::new(find("openssl")?);
    command.current_dir(home.path()).args(["s_client", "-connect", &server.address().to_string(), "-servername", "localhost"]);
    command.args(["-CAfile", "conf/cert.pem", "-verify_return_error", "-verify_hostname", "localhost", "-ign_eof"]).args(options);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    Some(child.wait_with_output().unwrap())
}

const MAIL: &str = "EHLO openssl.test\r\nMAIL FROM:<sue@openssl.test>\r\nRCPT TO:<ann@example.test>\r\nDATA\r\n";
const CONTENT: &str = "Subject: x\r\n\r\ntext\r\n.\r\nquit\r\n";

#[test]
fn openssl_sends_over_starttls_and_implicit_tls_in_both_versions() {
    for (tls, mode) in [("starttls", &["-starttls", "smtp"][..]), ("implicit", &[])] {
        for (option, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
            let home = home(tls);
            let server = Server::start(&home);
            let options = [mode, &[option, "-quiet"]].concat();
            let Some(output) = s_client(&home, &server, &options, &format!("{MAIL}{CONTENT}")) else { return };
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(said.contains("250 2.0.0 Ok: queued as ") && said.contains("221 2.0.0 Bye"), "{tls} {version}: {output:?}");
            let accepted = server.accepted(0);
            assert_eq!((field(&accepted, "tls"), field(&accepted, "protocol")), (version, "ESMTPS"));
        }
    }
}

#[test]
fn openssl_takes_its_session_up_again() {
    for option in ["-tls1_2", "-tls1_3"] {
        let home = home("implicit");
        let server = Server::start(&home);
        let lines = "EHLO openssl.test\r\nquit\r\n";
        let Some(first) = s_client(&home, &server, &[option, "-sess_out", "session"], lines) else { return };
        assert!(String::from_utf8_lossy(&first.stdout).contains("New, TLS"), "{first:?}");
        let second = s_client(&home, &server, &[option, "-sess_in", "session"], lines).unwrap();
        assert!(String::from_utf8_lossy(&second.stdout).contains("Reused, TLS"), "{option}: {second:?}");
    }
}

#[test]
fn openssl_is_shown_the_kind_of_key_that_it_takes() {
    let home = home("implicit");
    let rsa = include_str!("../tls/rsa-key.pem");
    let key = rcgen::KeyPair::from_pem(rsa).unwrap();
    let made = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(home.at("conf/rsa.pem"), made.pem() + rsa).unwrap();
    home.fragment("rsa", "[[certificate]]\nfile = \"conf/rsa.pem\"\nkey = \"conf/rsa.pem\"\n");
    // It believes both.
    let both = std::fs::read_to_string(home.at("conf/cert.pem")).unwrap() + &made.pem();
    std::fs::write(home.at("conf/both.pem"), both).unwrap();
    let server = Server::start(&home);
    for (options, shown) in [
        (&["-tls1_3"][..], "ECDSA"),
        (&["-tls1_2"], "ECDSA"),
        (&["-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256"], "RSA"),
        (&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], "RSA"),
    ] {
        let options = [options, &["-CAfile", "conf/both.pem"]].concat();
        let Some(output) = s_client(&home, &server, &options, "quit\r\n") else { return };
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let kind = said.lines().find_map(|line| line.split_once("Peer signature type: ")).map(|(_, kind)| kind);
        assert!(kind.is_some_and(|kind| kind.to_uppercase().starts_with(shown)), "{options:?}: {kind:?} {output:?}");
    }
}

#[test]
fn openssl_is_refused_with_versions_that_are_too_old() {
    let home = home("implicit");
    let server = Server::start(&home);
    let options = ["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"];
    let Some(output) = s_client(&home, &server, &options, "quit\r\n") else { return };
    assert!(!output.status.success(), "{output:?}");
    server.event("tls-failed", |_| true);
}

/// CVE-2011-0411 and its kin: what stands behind STARTTLS in the same packet must have no effect under TLS.
#[test]
fn python_injects_commands_behind_starttls_and_none_is_carried_out() {
    let home = home("starttls");
    let server = Server::start(&home);
    let address = server.address();
    let arguments = [address.ip().to_string(), address.port().to_string(), home.at("conf/cert.pem").display().to_string()];
    let Some(report) = helper("starttls.py", arguments) else { return };
    for attempt in report.as_array().unwrap() {
        // The one reply under TLS is the one to the command that was sent under TLS.
        assert_eq!(attempt["secure"], serde_json::json!(["503 5.5.1 Send HELO or EHLO first"]), "{report}");
    }
    assert_eq!(report.as_array().unwrap().len(), 4);
    assert!(server.events("accepted").is_empty());
}
