//! Wrong starts: each says what is wrong, where it is set and what to do, and exits with the status of sysexits.h.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Output};

use crate::support::home::Home;
use crate::support::server::{Server, listing, posthouse, run};

/// Status and all that was written.
fn outcome(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn a_second_server_on_the_same_spool_is_refused_and_the_first_goes_on() {
    let home = Home::new("");
    let mut server = Server::start(&home);
    let (status, text) = outcome(&run(&home, &["serve"]));
    assert!(matches!(status, Some(69 | 73 | 75)), "{status:?}: {text}");
    assert!(text.contains("spool"), "{text}");
    assert!(["another", "already", "in use", "locked"].iter().any(|word| text.contains(word)), "{text}");
    // Its control socket still answers, and mail is taken.
    assert!(listing(&home, &["queue", "list", "--json"]).is_empty());
    server.client().send("sue@client.test", &["ann@example.test"], b"Subject: x\r\n\r\nx\r\n").unwrap();
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn a_port_that_is_taken_is_named_with_its_key() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let home = Home::new("");
    home.configure_listener(&address, "", "");
    let (status, text) = outcome(&run(&home, &["serve"]));
    assert!(matches!(status, Some(73 | 77 | 78)), "{status:?}: {text}");
    assert!(text.contains(&address) && text.contains("listener"), "{text}");
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    let home = Home::new("[limits]\nmessage_sise = \"5MiB\"\n");
    for command in ["check", "serve"] {
        let (status, text) = outcome(&run(&home, &[command]));
        assert_eq!(status, Some(78), "{command}: {text}");
        for word in ["posthouse.toml", "message_sise", "message_size"] {
            assert!(text.contains(word), "{command} doesn't name {word}: {text}");
        }
    }
}

#[test]
fn a_missing_users_file_is_named_with_the_command_that_makes_it() {
    let home = Home::new("");
    fs::remove_file(home.at("conf/users")).unwrap();
    for command in ["check", "serve"] {
        let (status, text) = outcome(&run(&home, &[command]));
        assert_eq!(status, Some(78), "{command}: {text}");
        assert!(text.contains("conf/users") && text.contains("posthouse user add"), "{command}: {text}");
    }
}

#[test]
fn a_configuration_file_that_is_not_there_is_named() {
    let home = Home::new("");
    let (status, text) = outcome(&run(&home, &["check", "--config", "conf/missing.toml"]));
    assert_eq!(status, Some(78), "{text}");
    assert!(text.contains("conf/missing.toml"), "{text}");
}

#[test]
fn a_wrong_command_line_exits_with_64() {
    let home = Home::new("");
    let (status, text) = outcome(&run(&home, &["quque"]));
    assert_eq!(status, Some(64), "{text}");
}

#[test]
fn a_good_configuration_checks_with_0() {
    let home = Home::new("");
    let (status, text) = outcome(&run(&home, &["check"]));
    assert_eq!(status, Some(0), "{text}");
}

#[test]
fn a_server_that_is_not_given_its_threads_says_so_and_ends() {
    // Run as root, it becomes another user first: root's threads aren't bounded.
    let home = Home::new("");
    let mut program = posthouse(&home);
    program.args(["serve"]).env("POSTHOUSE_USER", "nobody");
    let mut bounded = Command::new("prlimit");
    bounded.arg("--nproc=1").arg(program.get_program()).args(program.get_args()).current_dir(home.path());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => bounded.env(name, value),
            None => bounded.env_remove(name),
        };
    }
    let (status, text) = outcome(&bounded.output().unwrap());
    assert_eq!(status, Some(69), "{text}");
    assert!(text.contains("threads that the server needs") && text.contains("TasksMax="), "{text}");
}
