//! Programs of this machine send by way of `sendmail`: git and s-nail, with the server down, taken up when it starts.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use crate::neighbour::{find, run};
use crate::support::home::Home;
use crate::support::maildir;
use crate::support::server::{Server, field, without_settings};

/// A home whose server ran once, and `sendmail` in it.
fn prepared() -> Home {
    let home = Home::new("");
    let mut server = Server::start(&home);
    assert_eq!(server.stop().code(), Some(0));
    symlink(env!("CARGO_BIN_EXE_posthouse"), home.at("sendmail")).unwrap();
    home
}

/// Starts the server; the one mail that waited, as ann has it.
fn arrived(home: &Home) -> String {
    let server = Server::start(home);
    let accepted = server.accepted(0);
    assert_eq!(field(&accepted, "protocol"), "local");
    server.finished(field(&accepted, "id"));
    String::from_utf8(maildir::only(&home.maildir("ann"))).unwrap()
}

#[test]
fn git_send_email_sends_a_patch() {
    let Some(git) = find("git") else { return };
    let home = prepared();
    let folder = home.at("repository");
    fs::create_dir(&folder).unwrap();
    let git = |arguments: &[&str]| {
        let mut command = Command::new(&git);
        without_settings(&mut command);
        command.current_dir(&folder).env("HOME", &folder).env("GIT_CONFIG_NOSYSTEM", "1");
        run(command.args(["-c", "user.name=Sue Exämple", "-c", "user.email=sue@example.org"]).args(arguments))
    };
    git(&["init", "--quiet"]);
    fs::write(folder.join("file"), "Grüße\n.\n").unwrap();
    git(&["add", "file"]);
    git(&["commit", "--quiet", "-m", "add a file"]);
    let program = format!("{} -C {} -i", home.at("sendmail").display(), home.at("conf/posthouse.toml").display());
    // The drop folder is named from the server's folder; programs call sendmail anywhere.
    home.fragment("drop", &format!("[sendmail]\ndrop = {:?}\n", home.at("spool/drop")));
    git(&[
        "send-email",
        "--quiet",
        "--confirm=never",
        "--suppress-cc=all",
        "--to=ann@example.test",
        "--from=sue@example.org",
        "--envelope-sender=sue@example.org",
        &format!("--sendmail-cmd={program}"),
        "--transfer-encoding=8bit",
        "-1",
    ]);
    let mail = arrived(&home);
    assert!(mail.contains("Return-Path: <sue@example.org>\r\n") && mail.contains("\r\n+Grüße\r\n+.\r\n"), "{mail}");
}

#[test]
fn s_nail_sends_through_sendmail() {
    let Some(nail) = find("s-nail") else { return };
    let home = prepared();
    let mut command = Command::new(nail);
    without_settings(&mut command);
    command.args(["-:/", "-S", "v15-compat", "-S", &format!("mta={}", home.at("sendmail").display())]);
    command.args(["-S", &format!("mta-arguments=-C {}", home.at("conf/posthouse.toml").display())]);
    command.args(["-r", "sue@example.org", "-s", "from s-nail", "-b", "bob@example.test", "ann@example.test"]);
    let mut child =
        command.current_dir(home.path()).env("HOME", home.path()).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"first\n.\nlast\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let mail = arrived(&home);
    assert!(mail.contains("Subject: from s-nail\r\n") && mail.ends_with("\r\n\r\nfirst\r\n.\r\nlast\r\n"), "{mail}");
    assert!(!mail.contains("Bcc") && maildir::files(&home.maildir("bob")).len() == 1, "{mail}");
}
