//! Mail programs and libraries log in and send: STARTTLS and implicit TLS, every way to log in that they have, wrong passwords.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::neighbour::{find, free_port, helper, missing, run};
use crate::support::home::Home;
use crate::support::maildir;
use crate::support::server::{Server, field, posthouse};

const USER: &str = "sue@example.test";
const PASSWORD: &str = "a long secret+with=odd/letters";
const TEXT: &str = "From: sue@example.test\nTo: ann@example.test\nSubject: submitted\nDate: Sun, 22 Nov 2026 02:00:00 +0000\n\
                    Message-ID: <1@submission.test>\n\nbody\n..dots\nend\n";

/// How a session is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    StartTls,
    Implicit,
}

const MODES: [Mode; 2] = [Mode::StartTls, Mode::Implicit];

impl Mode {
    fn word(self) -> &'static str {
        if self == Self::StartTls { "starttls" } else { "implicit" }
    }
}

/// A server that takes submission in both modes, and an account.
struct Submission {
    home: Home,
    server: Server,
    starttls: u16,
    implicit: u16,
    /// Messages seen so far.
    seen: usize,
}

impl Submission {
    fn start() -> Self {
        Self::start_with("", "starttls")
    }

    /// The same with more settings of `[auth]`, and another mode for the first port.
    fn start_with(auth: &str, tls: &str) -> Self {
        let (starttls, implicit) = (free_port(), free_port());
        let listener =
            |port, tls| format!("[[listener]]\naddress = \"127.0.0.1:{port}\"\nservice = \"submission\"\ntls = \"{tls}\"\n");
        let more = format!("[auth]\nfailure_delay = \"10ms\"\n{auth}");
        let home = Home::new(&[listener(starttls, tls), listener(implicit, "implicit")].concat());
        home.fragment("auth", &more);
        // With the keys of every way to log in: SCRAM is offered only if all accounts have them.
        home.users([""; 0]);
        for user in [USER, "ann@example.test"] {
            let mut command = posthouse(&home);
            command.args(["user", "add", user, "--password-stdin"]).stdin(Stdio::piped()).stdout(Stdio::null());
            let mut child = command.spawn().unwrap();
            writeln!(child.stdin.take().unwrap(), "{PASSWORD}").unwrap();
            assert!(child.wait().unwrap().success());
        }
        let server = Server::start(&home);
        Self { home, server, starttls, implicit, seen: 0 }
    }

    fn port(&self, mode: Mode) -> String {
        if mode == Mode::StartTls { self.starttls } else { self.implicit }.to_string()
    }

    /// A message has come in from the account, by this mechanism, encrypted; and it was delivered to ann.
    fn arrived(&mut self, what: &str, mechanism: &str) -> String {
        let accepted = self.server.accepted(self.seen);
        let login = self.server.events("authenticated").pop().unwrap();
        self.seen += 1;
        assert_eq!((field(&accepted, "login"), field(&login, "mechanism")), (USER, mechanism), "{what}");
        assert!(field(&accepted, "protocol") == "ESMTPSA" && !field(&accepted, "cipher").is_empty(), "{what}: {accepted}");
        self.server.finished(field(&accepted, "id"));
        let id = field(&accepted, "id");
        let mails = maildir::files(&self.home.maildir("ann"));
        let mails: Vec<String> = mails.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
        mails.into_iter().find(|mail| mail.contains(id)).unwrap_or_else(|| panic!("{what}: no mail {id}"))
    }

    /// The same, with our own text.
    fn text_arrived(&mut self, what: &str, mechanism: &str) {
        let mail = self.arrived(what, mechanism);
        let text = TEXT.replace('\n', "\r\n");
        assert!(mail.ends_with(&text), "{what}: {mail}");
    }

    /// A file with the text.
    fn text(&self) -> PathBuf {
        let file = self.home.at("text");
        fs::write(&file, TEXT).unwrap();
        file
    }

    /// Somebody couldn't log in, and nothing came in.
    fn failed(&self, what: &str) {
        self.server.event("auth-failed", |_| true);
        assert!(self.server.events("authenticated").is_empty(), "{what}");
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn swaks(swaks: &Path, submission: &Submission, mode: Mode, password: &str, mechanism: &str) -> Command {
    let mut command = Command::new(swaks);
    command.args(["--server", "127.0.0.1", "--port", &submission.port(mode), "--ehlo", "swaks.test", "--from", USER]);
    command.args(["--to", "ann@example.test", "--auth", mechanism, "--auth-user", USER, "--auth-password", password]);
    command.args([if mode == Mode::StartTls { "--tls" } else { "--tls-on-connect" }]);
    command.arg("--data").arg(format!("@{}", submission.text().display()));
    command
}

#[test]
fn swaks_logs_in_by_plain_and_login_in_both_modes() {
    let Some(program) = find("swaks") else { return };
    let mut submission = Submission::start();
    for mode in MODES {
        for mechanism in ["PLAIN", "LOGIN"] {
            let what = format!("swaks {} {mechanism}", mode.word());
            run(&mut swaks(&program, &submission, mode, PASSWORD, mechanism));
            let mail = submission.arrived(&what, mechanism);
            assert!(mail.contains("\r\n..dots\r\nend\r\n"), "{what}: {mail}");
        }
    }
}

#[test]
fn swaks_is_refused_with_a_wrong_password_in_clear_text_and_without_a_login() {
    let Some(program) = find("swaks") else { return };
    let submission = Submission::start();
    // 28: swaks' status for a login that failed.
    let wrong = swaks(&program, &submission, Mode::StartTls, "wrong", "PLAIN").output().unwrap();
    assert_eq!(wrong.status.code(), Some(28), "{}", text(&wrong));
    assert!(text(&wrong).contains("535 5.7.8"), "{}", text(&wrong));
    submission.failed("a wrong password");
    let clear = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args([
            "--server",
            "127.0.0.1",
            "--port",
            &submission.port(Mode::StartTls),
            "--from",
            USER,
            "--to",
            "ann@example.test",
        ]);
        command.args(arguments).output().unwrap()
    };
    let offered = clear(&["--auth", "PLAIN", "--auth-user", USER, "--auth-password", PASSWORD]);
    assert_eq!(offered.status.code(), Some(28), "{}", text(&offered));
    assert!(!text(&offered).contains("250-AUTH") && text(&offered).contains("STARTTLS"), "{}", text(&offered));
    // 23: MAIL was refused.
    let stranger = clear(&[]);
    assert_eq!(stranger.status.code(), Some(23), "{}", text(&stranger));
    assert!(submission.server.events("accepted").is_empty());
}

#[test]
fn msmtp_logs_in_in_both_modes() {
    let Some(program) = find("msmtp") else { return };
    let mut submission = Submission::start();
    fs::write(submission.home.at("msmtprc"), "").unwrap();
    for mode in MODES {
        for (mechanism, name) in [("plain", "PLAIN"), ("login", "LOGIN"), ("scram-sha-256", "SCRAM-SHA-256")] {
            let what = format!("msmtp {} {mechanism}", mode.word());
            let mut command = Command::new(&program);
            command.arg(format!("--file={}", submission.home.at("msmtprc").display()));
            command.args(["--host=127.0.0.1", "--domain=msmtp.test", "--tls=on", "--tls-certcheck=off"]);
            command.arg(format!("--port={}", submission.port(mode)));
            command.arg(if mode == Mode::StartTls { "--tls-starttls=on" } else { "--tls-starttls=off" });
            command.args([format!("--auth={mechanism}"), format!("--user={USER}"), format!("--from={USER}")]);
            command.arg(format!("--passwordeval=printf %s '{PASSWORD}'"));
            command.args(["--set-from-header=off", "--set-date-header=off", "--set-msgid-header=off", "ann@example.test"]);
            run(command.stdin(fs::File::open(submission.text()).unwrap()));
            submission.text_arrived(&what, name);
        }
    }
}

#[test]
fn curl_logs_in_in_both_modes() {
    let Some(program) = find("curl") else { return };
    let mut submission = Submission::start();
    for mode in MODES {
        for mechanism in ["PLAIN", "LOGIN"] {
            let what = format!("curl {} {mechanism}", mode.word());
            let scheme = if mode == Mode::StartTls { "smtp" } else { "smtps" };
            let mut command = Command::new(&program);
            command.args(["--silent", "--show-error", "--insecure", "--ssl-reqd", "--crlf", "--mail-from", USER]);
            command.args(["--mail-rcpt", "ann@example.test", "--user", &format!("{USER}:{PASSWORD}")]);
            command.args(["--login-options", &format!("AUTH={mechanism}"), "--upload-file"]).arg(submission.text());
            run(command.arg(format!("{scheme}://127.0.0.1:{}/curl.test", submission.port(mode))));
            submission.text_arrived(&what, mechanism);
        }
    }
}

#[test]
fn s_nail_logs_in_and_sends() {
    let Some(program) = find("s-nail") else { return };
    let mut submission = Submission::start();
    for mode in MODES {
        let scheme = if mode == Mode::StartTls { "smtp" } else { "smtps" };
        let octet = |octet: u8| {
            if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
                char::from(octet).to_string()
            } else {
                format!("%{octet:02X}")
            }
        };
        let encode = |text: &str| text.bytes().map(octet).collect::<String>();
        let mta = format!("mta={scheme}://{}:{}@127.0.0.1:{}", encode(USER), encode(PASSWORD), submission.port(mode));
        let mut command = Command::new(&program);
        command.args([
            "-:/",
            "-S",
            "v15-compat",
            "-S",
            &mta,
            "-S",
            "smtp-config=plain",
            "-S",
            "tls-verify=ignore",
            "-S",
            "hostname=nail.test",
        ]);
        if mode == Mode::StartTls {
            command.args(["-S", "smtp-use-starttls"]);
        }
        command
            .args(["-S", &format!("from={USER}"), "-s", "from s-nail", "ann@example.test"])
            .env("HOME", submission.home.path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"Gr\xc3\xbc\xc3\x9fe\nend\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        let mail = submission.arrived(&format!("s-nail {}", mode.word()), "PLAIN");
        assert!(mail.contains("Subject: from s-nail\r\n"), "{mail}");
    }
}

/// One of Python's libraries; none if it isn't there.
fn python(submission: &Submission, library: &str, mode: Mode, password: &str) -> Option<Value> {
    let port = submission.port(mode);
    helper("login.py", [library, "127.0.0.1", &port, mode.word(), USER, password, "ann@example.test"])
}

#[test]
fn pythons_libraries_log_in_in_both_modes() {
    let mut submission = Submission::start();
    for library in ["smtplib", "aiosmtplib"] {
        for mode in MODES {
            let what = format!("{library} {}", mode.word());
            let Some(report) = python(&submission, library, mode, PASSWORD) else { return };
            if report["error"] == "ModuleNotFoundError" {
                return missing(library);
            }
            assert_eq!(report["refused"], serde_json::json!({}), "{what}: {report}");
            let mail = submission.arrived(&what, "PLAIN");
            assert!(mail.ends_with("\r\n\r\nGrüße\r\n.\r\nend\r\n"), "{what}: {mail}");
        }
    }
}

#[test]
fn pythons_libraries_are_told_of_a_wrong_password() {
    let submission = Submission::start();
    for library in ["smtplib", "aiosmtplib"] {
        let Some(report) = python(&submission, library, Mode::Implicit, "wrong") else { return };
        if report["error"] == "ModuleNotFoundError" {
            return missing(library);
        }
        assert_eq!((&report["error"], &report["code"]), (&"SMTPAuthenticationError".into(), &535.into()), "{report}");
    }
    submission.failed("a wrong password");
}

#[test]
fn nodemailer_logs_in_in_both_modes() {
    let Some(node) = find("node") else { return };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !root.join("target/neighbours/node_modules/nodemailer").is_dir() {
        return missing("nodemailer");
    }
    let mut submission = Submission::start();
    for mode in MODES {
        for mechanism in ["PLAIN", "LOGIN"] {
            let what = format!("nodemailer {} {mechanism}", mode.word());
            let mut command = Command::new(&node);
            command.arg(root.join("tests/interop/js/nodemailer.js")).args([
                "127.0.0.1",
                &submission.port(mode),
                mode.word(),
                USER,
                PASSWORD,
            ]);
            let output = run(command.args([mechanism, "ann@example.test"]));
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(report["accepted"], serde_json::json!(["ann@example.test"]), "{what}: {report}");
            let mail = submission.arrived(&what, mechanism);
            assert!(mail.contains("Subject: from nodemailer\r\n"), "{what}: {mail}");
        }
    }
}

#[test]
fn openssl_finds_tls_1_2_and_1_3_and_nothing_older() {
    let Some(program) = find("openssl") else { return };
    let submission = Submission::start();
    for mode in MODES {
        for (version, works) in [("-tls1_3", true), ("-tls1_2", true), ("-tls1_1", false)] {
            let mut command = Command::new(&program);
            command.args(["s_client", "-quiet", "-no_ign_eof", "-ign_eof", "-servername", "mail.example.test", version]);
            command.args(["-connect", &format!("127.0.0.1:{}", submission.port(mode))]);
            if mode == Mode::StartTls {
                command.args(["-starttls", "smtp"]);
            }
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            // A handshake that fails leaves nobody to read it.
            let _ = child.stdin.take().unwrap().write_all(b"EHLO openssl.test\r\nQUIT\r\n");
            let said = String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned();
            assert_eq!(
                said.contains("250") && said.contains("AUTH ") && said.contains("221 2.0.0"),
                works,
                "{} {version}: {said}",
                mode.word()
            );
            assert!(!said.contains("STARTTLS"), "{said}");
        }
    }
}

/// lettre sends with every password mechanism that it shares with us, and is told of a wrong password.
fn lettre(submission: &mut Submission, port: u16, tls: &lettre::transport::smtp::client::Tls, protocol: &str) {
    use lettre::transport::smtp::authentication::{Credentials, Mechanism};
    use lettre::{SmtpTransport, Transport as _};
    for (mechanism, name) in [(Mechanism::Plain, "PLAIN"), (Mechanism::Login, "LOGIN")] {
        let message = lettre::Message::builder().from(USER.parse().unwrap()).to("ann@example.test".parse().unwrap());
        let message = message.subject(name).body("Gr\u{fc}\u{df}e\n.\nend\n".to_owned()).unwrap();
        let transport = |password: &str| {
            let builder = SmtpTransport::builder_dangerous("127.0.0.1").port(port).tls(tls.clone());
            builder.credentials(Credentials::new(USER.to_owned(), password.to_owned())).authentication(vec![mechanism]).build()
        };
        let refused = transport("wrong").send(&message).unwrap_err();
        assert_eq!(refused.status().map(|code| code.to_string()).as_deref(), Some("535"), "{refused}");
        transport(PASSWORD).send(&message).unwrap();
        let accepted = submission.server.accepted(submission.seen);
        assert_eq!((field(&accepted, "login"), field(&accepted, "protocol")), (USER, protocol));
        submission.server.finished(field(&accepted, "id"));
        submission.seen += 1;
        assert_eq!(maildir::files(&submission.home.maildir("ann")).len(), submission.seen);
    }
}

#[test]
fn lettre_logs_in_in_both_modes() {
    use lettre::transport::smtp::client::{Tls, TlsParameters};
    let mut submission = Submission::start();
    // The certificate is the self-signed one of the first start.
    let parameters = TlsParameters::builder("mail.example.test".to_owned()).dangerous_accept_invalid_certs(true);
    let parameters = parameters.dangerous_accept_invalid_hostnames(true).build().unwrap();
    let (starttls, implicit) = (submission.starttls, submission.implicit);
    lettre(&mut submission, starttls, &Tls::Required(parameters.clone()), "ESMTPSA");
    lettre(&mut submission, implicit, &Tls::Wrapper(parameters), "ESMTPSA");
}

#[test]
fn lettre_logs_in_where_the_admin_allows_it_without_tls() {
    let mut submission = Submission::start_with("require_tls = false\n", "none");
    let port = submission.starttls;
    lettre(&mut submission, port, &lettre::transport::smtp::client::Tls::None, "ESMTPA");
}
