//! Mail programs log in with a certificate instead of a password (AUTH EXTERNAL).

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};

use crate::neighbour::{find, free_port, run};
use crate::support::home::Home;
use crate::support::maildir;
use crate::support::server::{Server, field};

const TEXT: &str = "From: ann@example.test\nTo: bob@example.test\nSubject: no password\nDate: Sun, 22 Nov 2026 02:00:00 +0000\n\
                    Message-ID: <1@external.test>\n\nbody\n";

/// An authority, and its certificate as PEM.
fn authority(name: &str) -> (String, Issuer<'static, KeyPair>) {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    (parameters.self_signed(&key).unwrap().pem(), Issuer::new(parameters, key))
}

/// A server that believes one authority, and its submission ports.
struct World {
    home: Home,
    server: Server,
    starttls: u16,
    implicit: u16,
}

impl World {
    /// Clients' certificates are `ann` (of the authority that is believed), `nobody` (likewise, but without an account) and `stranger`
    /// (says ann, by another authority).
    fn start() -> Self {
        let (starttls, implicit) = (free_port(), free_port());
        let listener =
            |port, tls| format!("[[listener]]\naddress = \"127.0.0.1:{port}\"\nservice = \"submission\"\ntls = \"{tls}\"\n");
        let tls = "[tls]\nclient_ca = \"conf/ca.pem\"\n[auth]\nfailure_delay = \"10ms\"\n";
        let home = Home::new(&[listener(starttls, "starttls"), listener(implicit, "implicit")].concat());
        home.fragment("tls", tls);
        let (pem, believed) = authority("believed");
        fs::write(home.at("conf/ca.pem"), pem).unwrap();
        let (_, other) = authority("other");
        for (file, address, issuer) in [
            ("ann", "ann@example.test", &believed),
            ("nobody", "nobody@example.test", &believed),
            ("stranger", "ann@example.test", &other),
        ] {
            let mut parameters = CertificateParams::new(Vec::new()).unwrap();
            parameters.subject_alt_names.push(SanType::Rfc822Name(address.try_into().unwrap()));
            parameters.distinguished_name = DistinguishedName::new();
            parameters.distinguished_name.push(DnType::CommonName, "A client");
            parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate().unwrap();
            fs::write(home.at(&format!("{file}.pem")), parameters.signed_by(&key, issuer).unwrap().pem()).unwrap();
            fs::write(home.at(&format!("{file}-key.pem")), key.serialize_pem()).unwrap();
        }
        fs::write(home.at("text"), TEXT).unwrap();
        // So that the settings of this machine count for nothing.
        fs::write(home.at("msmtprc"), "").unwrap();
        let server = Server::start(&home);
        Self { home, server, starttls, implicit }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.at(name)
    }

    /// The newest message came from ann by EXTERNAL, and bob has it as it was sent.
    fn arrived(&self, number: usize, what: &str) {
        let accepted = self.server.accepted(number);
        let login = self.server.events("authenticated").pop().unwrap();
        assert_eq!((field(&accepted, "login"), field(&login, "mechanism")), ("ann@example.test", "EXTERNAL"), "{what}");
        assert_eq!(field(&accepted, "protocol"), "ESMTPSA", "{what}");
        let id = field(&accepted, "id");
        self.server.finished(id);
        let mails = maildir::files(&self.home.maildir("bob"));
        let mail = mails.iter().map(|file| fs::read_to_string(file).unwrap()).find(|mail| mail.contains(id)).unwrap();
        assert!(mail.ends_with(&TEXT.replace('\n', "\r\n")), "{what}: {mail}");
    }

    fn msmtp(&self, starttls: bool, certificate: &str) -> Option<Command> {
        let mut command = Command::new(find("msmtp")?);
        command.arg(format!("--file={}", self.file("msmtprc").display()));
        command.args(["--host=127.0.0.1", "--domain=msmtp.test", "--tls=on", "--tls-certcheck=off", "--auth=external"]);
        let (port, on) = if starttls { (self.starttls, "on") } else { (self.implicit, "off") };
        command.args([format!("--port={port}"), format!("--tls-starttls={on}")]);
        command.arg(format!("--tls-cert-file={}", self.file(&format!("{certificate}.pem")).display()));
        command.arg(format!("--tls-key-file={}", self.file(&format!("{certificate}-key.pem")).display()));
        // Without a user msmtp sends an initial response of no octets, which is none (RFC 4954 section 4).
        command.args([
            "--user=ann@example.test",
            "--from=ann@example.test",
            "--set-from-header=off",
            "--set-date-header=off",
            "--set-msgid-header=off",
        ]);
        command.arg("bob@example.test").stdin(fs::File::open(self.file("text")).unwrap());
        Some(command)
    }

    /// openssl with this certificate, or none, says `lines`.
    fn openssl(&self, certificate: Option<&str>, lines: &str) -> Option<Output> {
        let mut command = Command::new(find("openssl")?);
        command.current_dir(self.home.path()).args(["s_client", "-quiet", "-ign_eof", "-connect"]);
        command.arg(format!("127.0.0.1:{}", self.implicit));
        if let Some(certificate) = certificate {
            command.args(["-cert".to_owned(), format!("{certificate}.pem"), "-key".to_owned(), format!("{certificate}-key.pem")]);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        Some(child.wait_with_output().unwrap())
    }
}

#[test]
fn msmtp_sends_with_a_certificate_in_both_modes() {
    let world = World::start();
    for (number, starttls) in [true, false].into_iter().enumerate() {
        let Some(mut command) = world.msmtp(starttls, "ann") else { return };
        run(&mut command);
        world.arrived(number, if starttls { "STARTTLS" } else { "implicit TLS" });
    }
}

#[test]
fn curl_sends_with_a_certificate_in_both_modes() {
    let Some(program) = find("curl") else { return };
    let world = World::start();
    for (number, (scheme, port)) in [("smtp", world.starttls), ("smtps", world.implicit)].into_iter().enumerate() {
        let mut command = Command::new(&program);
        command.args(["--silent", "--show-error", "--insecure", "--ssl-reqd", "--crlf", "--mail-from", "ann@example.test"]);
        command.args(["--mail-rcpt", "bob@example.test", "--login-options", "AUTH=EXTERNAL", "--user", "ann@example.test:"]);
        command.arg("--cert").arg(world.file("ann.pem")).arg("--key").arg(world.file("ann-key.pem"));
        run(command.arg("--upload-file").arg(world.file("text")).arg(format!("{scheme}://127.0.0.1:{port}/curl.test")));
        world.arrived(number, scheme);
    }
}

#[test]
fn msmtp_is_refused_with_a_certificate_that_has_no_account() {
    let world = World::start();
    let Some(mut command) = world.msmtp(false, "nobody") else { return };
    let output = command.output().unwrap();
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("535 5.7.8"), "{output:?}");
    world.server.event("auth-failed", |event| field(event, "mechanism") == "EXTERNAL");
    assert!(world.server.events("accepted").is_empty());
}

#[test]
fn openssl_is_offered_external_only_with_a_certificate_that_is_believed() {
    let world = World::start();
    let hello = "EHLO openssl.test\r\nAUTH EXTERNAL =\r\nquit\r\n";
    let Some(output) = world.openssl(Some("ann"), hello) else { return };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("AUTH ") && said.contains("EXTERNAL") && said.contains("\n235 2.7.0 "), "{output:?}");
    let output = world.openssl(None, hello).unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("250-SIZE") && !said.contains("EXTERNAL") && !said.contains("\n235 "), "{output:?}");
    let output = world.openssl(Some("stranger"), hello).unwrap();
    assert!(!String::from_utf8_lossy(&output.stdout).contains("250-SIZE"), "{output:?}");
    world.server.event("tls-failed", |_| true);
    assert_eq!(world.server.events("authenticated").len(), 1);
}
