//! The command line beside a server: what it prints, what it changes, how it exits.

use std::fs;
use std::io::Write as _;
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::support::home::Home;
use crate::support::maildir;
use crate::support::server::{Server, field, listing, posthouse, run};

/// Nobody answers there: deliveries to other domains are deferred at once.
const UNREACHABLE: &str = "[relay]\nnetworks = [\"127.0.0.0/8\"]\n[[route]]\ndomain = \"*\"\nhosts = [\"127.0.0.1:1\"]\n";
const CONTENT: &[u8] = b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\n\x1b[2J\xff body\r\n";

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn status(output: &Output) -> Option<i32> {
    output.status.code()
}

/// A server with a message that is deferred for joe@example.org; its id.
fn deferred(home: &Home) -> (Server, String) {
    let server = Server::start(home);
    let reply = server.client().send("sue@client.test", &["joe@example.org"], CONTENT).unwrap();
    let id = reply.id().to_owned();
    server.event("deferred", |event| field(event, "id") == id);
    (server, id)
}

#[test]
fn a_message_can_be_listed_shown_and_read_while_the_server_runs_and_when_it_does_not() {
    let home = Home::new(UNREACHABLE);
    let (mut server, id) = deferred(&home);
    for running in [true, false] {
        let list = listing(&home, &["queue", "list", "--json", "--recipient", "joe@example.org", "--state", "deferred"]);
        assert_eq!(list.iter().map(|message| field(message, "id")).collect::<Vec<_>>(), [id.as_str()], "running: {running}");
        assert_eq!(list[0]["recipients"][0]["address"], "joe@example.org");
        assert_eq!(list[0]["recipients"][0]["state"], "deferred");
        assert!(listing(&home, &["queue", "list", "--json", "--domain", "example.net"]).is_empty());
        assert!(listing(&home, &["queue", "list", "--json", "--older-than", "1h"]).is_empty());
        let shown = text(&run(&home, &["queue", "show", &id]));
        for part in [id.as_str(), "<sue@client.test>", "<joe@example.org> deferred, 1 attempt", "Grüße"] {
            assert!(shown.contains(part), "{part} is missing in {shown}");
        }
        let content = run(&home, &["queue", "cat", &id]).stdout;
        assert!(content.starts_with(b"Received: ") && content.ends_with(CONTENT), "{}", String::from_utf8_lossy(&content));
        let stats = listing(&home, &["queue", "stats", "--json"]);
        let domain: Vec<&Value> = stats.iter().filter(|row| row["by"] == "domain").collect();
        assert_eq!((domain.len(), &domain[0]["name"], &domain[0]["messages"]), (1, &"example.org".into(), &1.into()));
        assert!(text(&run(&home, &["queue", "stats"])).contains("example.org"));
        if running {
            assert_eq!(server.stop().code(), Some(0));
        }
    }
    // Verbs need the server.
    assert_eq!(status(&run(&home, &["queue", "hold", &id])), Some(69));
}

#[test]
fn verbs_say_how_many_messages_they_touched() {
    let home = Home::new(UNREACHABLE);
    let (mut server, id) = deferred(&home);
    assert_eq!(text(&run(&home, &["queue", "hold", &id])), "held 1 message\n");
    let held = listing(&home, &["queue", "list", "--json", "--state", "held"]);
    assert_eq!((held.len(), &held[0]["next_attempt"], &held[0]["expires"]), (1, &Value::Null, &Value::Null));
    assert_eq!(text(&run(&home, &["queue", "release", "--all", "--json"])), "{\"touched\":1}\n");
    assert_eq!(text(&run(&home, &["queue", "hold", "--sender", "nobody@client.test"])), "held 0 messages\n");
    assert_eq!(text(&run(&home, &["queue", "pause", "--domain", "example.org"])), "paused delivery to example.org\n");
    assert!(text(&run(&home, &["queue", "stats"])).contains("Delivery is paused to example.org"));
    assert_eq!(text(&run(&home, &["queue", "resume"])), "resumed all delivery\n");
    assert_eq!(text(&run(&home, &["queue", "remove", "--domain", "example.org", "--limit", "5"])), "removed 1 message\n");
    assert!(listing(&home, &["queue", "list", "--json"]).is_empty());
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn wrong_uses_have_the_exit_statuses_of_sysexits() {
    let home = Home::new("");
    let server = Server::start(&home);
    for (arguments, expected) in [
        (&["queue", "hold"][..], 64),
        (&["queue", "hold", "--all", "--state", "held"], 64),
        (&["queue", "show", "12"], 64),
        (&["user", "add", "new@example.test"], 64),
        (&["queue", "show", "0000000000001"], 65),
        (&["queue", "cat", "0000000000001"], 65),
        (&["queue", "remove", "0000000000001"], 65),
        (&["user", "remove", "nobody@example.test"], 65),
        (&["check", "--config", "conf/none.toml"], 78),
    ] {
        let output = posthouse(&home).args(arguments).stdin(Stdio::null()).output().unwrap();
        assert_eq!(status(&output), Some(expected), "{arguments:?}: {output:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
    drop(server);
}

#[test]
fn a_new_user_gets_mail_without_a_restart() {
    let home = Home::new("");
    let mut server = Server::start(&home);
    assert!(server.client().send("sue@client.test", &["eve@example.test"], CONTENT).is_err());
    let mut command = posthouse(&home);
    command.args(["user", "add", "eve@example.test", "--password-stdin"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"a long secret\n").unwrap();
    let said = text(&child.wait_with_output().unwrap());
    assert_eq!(said, "added eve@example.test\nthe running server goes by it now\n");
    let reply = server.client().send("sue@client.test", &["eve@example.test"], CONTENT).unwrap();
    server.delivered(reply.id(), "eve@example.test");
    assert!(!fs::read_to_string(home.at("conf/users")).unwrap().contains("a long secret"));
    assert!(text(&run(&home, &["user", "list"])).contains("eve@example.test\n"));
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn output_to_a_closed_pipe_ends_quietly() {
    let home = Home::new("");
    let mut command = posthouse(&home);
    command.args(["config", "show", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((status(&output), output.stderr.as_slice()), (Some(0), &b""[..]), "{output:?}");
}

#[test]
fn explain_tells_the_way_without_sending() {
    let home = Home::new(UNREACHABLE);
    let explained = text(&run(&home, &["explain", "ann@example.test", "--from", "joe@example.org"]));
    assert!(explained.contains("mail/example.test/ann") && explained.contains("127.0.0.1:1"), "{explained}");
    for line in listing(&home, &["explain", "nobody@example.test", "--json"]) {
        assert!(field(&line, "text").contains("nobody@example.test"), "{line}");
    }
}

#[test]
fn explain_tells_a_senders_route_with_login_family_and_addresses() {
    let home = Home::new(
        "[[route]]\ndomain = \"*\"\nsender = \"*@news.test\"\nhosts = [\"198.51.100.7:587\"]\ntls = \"verify\"\n\
         login = \"news\"\npassword_file = \"conf/password\"\nfamily = \"ipv4\"\nsources = [\"192.0.2.25\"]\n\
         [[route]]\ndomain = \"far.test\"\nprotocol = \"lmtp\"\nhosts = [\"unix:/run/lmtp\"]\n",
    );
    std::fs::write(home.at("conf/password"), "sesame\n").unwrap();
    let explain = |from: &str| text(&run(&home, &["explain", "joe@far.test", "--from", from]));
    let told = explain("weekly@news.test");
    for line in [
        "route[0] (* from *@news.test) leads by SMTP to news@198.51.100.7:587#verify#ipv4#192.0.2.25\n",
        "  TLS always, with a certificate that is the host's\n",
        "  logged in as news, with the password in conf/password\n",
        "  only IPv4 addresses\n",
        "  called from 192.0.2.25\n",
        "  1. [198.51.100.7] at 198.51.100.7:587\n",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert!(!told.contains("sesame"));
    assert!(explain("ann@example.test").contains("(far.test from *) leads by LMTP to unix:/run/lmtp\n"));
}

#[test]
fn check_reads_the_operators_texts_of_notices() {
    let home = Home::new(&format!("{UNREACHABLE}[notice]\nlanguage = \"nl\"\ntemplates = \"conf/notices\"\n"));
    fs::create_dir(home.at("conf/notices")).unwrap();
    let missing = run(&home, &["check"]);
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(said.contains("notice.language: there are no texts in \"nl\"; choose one of de, en, es, fr, ja, pt"), "{said}");
    let english = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/notice/languages/en.toml")).unwrap();
    fs::write(home.at("conf/notices/nl.toml"), english.replace("{postmaster}", "{postmeester}")).unwrap();
    let wrong = run(&home, &["check"]);
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    let expected = "conf/notices/nl.toml: closing.help: {postmeester} stands for nothing; here it knows {postmaster}";
    assert!(said.contains(expected), "{said}");
    assert_eq!([&missing, &wrong].map(status), [Some(78); 2]);
    fs::write(home.at("conf/notices/nl.toml"), english.replace("Not delivered", "Niet bezorgd")).unwrap();
    assert!(text(&run(&home, &["check"])).contains("no problems"));
    let server = Server::start(&home);
    let id = server.client().send("ann@example.test", &["joe@example.org"], CONTENT).unwrap().id().to_owned();
    server.event("deferred", |event| field(event, "id") == id);
    assert_eq!(text(&run(&home, &["queue", "bounce", &id])), "bounced 1 message\n");
    let notified = server.event("notified", |event| field(event, "id") == id);
    server.finished(field(&notified, "notice"));
    let bounce = String::from_utf8(maildir::only(&home.maildir("ann"))).unwrap();
    assert!(bounce.contains("Subject: Niet bezorgd: "), "{bounce}");
}
