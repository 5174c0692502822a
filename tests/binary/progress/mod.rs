//! Long work shows how far it is: a bar where somebody looks (a pseudo-terminal, by `script`), lines in the log where nobody does. No
//! work here is long; a preloaded clock makes it seem so.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::preload::{is_required, library};
use crate::support::PATIENCE;
use crate::support::home::Home;
use crate::support::process::Process;
use crate::support::server::{Server, field, posthouse, without_settings};

/// As many messages as make a log of several MiB: progress is told once for each.
const MESSAGES: usize = 100;
/// What passes between two looks at the clock, in milliseconds.
const SECOND: &str = "1000";

/// A stopped server's home with some mail in its log, and no index.
fn home() -> Home {
    let home = Home::new("[relay]\nnetworks = [\"127.0.0.1/32\"]\n[queue]\npaused = true\n");
    let mut server = Server::start(&home);
    let mut client = server.client();
    let content = format!("Subject: long\r\n\r\n{}", "words and words and words and words and\r\n".repeat(2500));
    for _ in 0..MESSAGES {
        client.send("sue@client.test", &["joe@example.org"], content.as_bytes()).unwrap();
    }
    drop(client);
    assert_eq!(server.stop().code(), Some(0));
    fs::remove_dir_all(home.at("spool/index")).unwrap();
    home
}

/// A command of the binary on a pseudo-terminal, by a clock that runs ahead; none if there is no `script` here.
fn on_terminal(home: &Home, clock: &Path, step: &str, arguments: &str) -> Option<Command> {
    let found = Command::new("script").arg("--version").output();
    if found.is_err() {
        assert!(!is_required(), "script is not installed");
        eprintln!("passed over, script is not installed");
        return None;
    }
    let binary = posthouse(home).get_program().to_owned();
    let line = format!("CLOCK_STEP={step} LD_PRELOAD='{}' exec '{}' {arguments}", clock.display(), binary.display());
    let mut command = Command::new("script");
    command.args(["--quiet", "--flush", "--return", "--command", &line, "/dev/null"]).current_dir(home.path());
    without_settings(command.env("TERM", "xterm"));
    Some(command)
}

/// What a command writes without a terminal, by the same clock; it must succeed.
fn without_terminal(home: &Home, clock: &Path, step: &str, arguments: &str) -> String {
    let output = posthouse(home).args(arguments.split(' ')).env("CLOCK_STEP", step).env("LD_PRELOAD", clock).output().unwrap();
    assert!(output.status.success(), "{arguments}: {output:?}");
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

#[test]
fn long_work_on_the_spool_shows_a_bar_on_a_terminal_only() {
    let build = TempDir::new().unwrap();
    let Some(clock) = library(build.path(), "progress/clock.c") else { return };
    let (home, other, third) = (home(), Home::new(""), Home::new(""));
    let out = home.at("out");
    let import = format!("spool import {}", out.display());
    // An import opens the spool to write, and what that does from time to time it would do all the time.
    let commands = [
        (&home, SECOND, "spool check", vec!["reading the log ["]),
        (&home, SECOND, "spool export out", vec!["reading the log [", "exporting ["]),
        (&other, "20", import.as_str(), vec!["importing ["]),
    ];
    for (home, step, arguments, bars) in commands {
        let Some(mut command) = on_terminal(home, &clock, step, arguments) else { return };
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{arguments}: {text}");
        for bar in bars {
            assert!(text.contains(bar) && text.contains(" % "), "{arguments}: {text:?}");
        }
    }
    for (home, step, arguments) in
        [(&home, SECOND, "spool check"), (&home, SECOND, "spool export again"), (&third, "20", import.as_str())]
    {
        let text = without_terminal(home, &clock, step, arguments);
        assert!(!text.contains(" % ") && !text.contains('\r'), "{arguments}: {text:?}");
    }
}

#[test]
fn a_long_recovery_shows_a_bar_on_a_terminal_and_lines_in_the_log() {
    let build = TempDir::new().unwrap();
    let Some(clock) = library(build.path(), "progress/clock.c") else { return };
    let home = home();
    let Some(mut command) = on_terminal(&home, &clock, SECOND, "serve") else { return };
    let mut server = Process::start("script", &mut command);
    // What the bar draws has no end of line: the next event has.
    server.output().wait("a bar", PATIENCE, |line| line.contains("reading the log [").then_some(()));
    server.signal(rustix::process::Signal::TERM);
    server.wait(PATIENCE);

    fs::remove_dir_all(home.at("spool/index")).unwrap();
    let mut server = Server::launch_with(&home, |command| {
        command.env("CLOCK_STEP", SECOND).env("LD_PRELOAD", &clock);
    });
    let event = server.event("recovering", |event| field(event, "phase") == "log");
    assert!(event["done"].as_u64() <= event["total"].as_u64() && event["done"].as_u64() > Some(0), "{event}");
    assert!(!server.process().output().text().contains("reading the log ["), "no bar without a terminal");
    server.kill();
}
