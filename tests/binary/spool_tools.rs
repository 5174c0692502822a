//! `spool check`, `export` and `import` on the real binary and the real disk.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use crate::support::home::Home;
use crate::support::server::{Server, field, listing, posthouse, run};

/// Nobody answers there: deliveries to other domains are deferred at once.
const UNREACHABLE: &str = "[relay]\nnetworks = [\"127.0.0.0/8\"]\n[[route]]\ndomain = \"*\"\nhosts = [\"127.0.0.1:1\"]\n";

fn outcome(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

fn documents(output: &Output) -> Vec<Value> {
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A stopped server with messages that wait, small and large, one of them held; their ids in order.
fn stopped(home: &Home) -> Vec<String> {
    let mut server = Server::start(home);
    let mut client = server.client();
    let mut ids = Vec::new();
    for number in 0..6 {
        let lines = if number == 2 || number == 4 { 8000 } else { 5 };
        let content = format!("Subject: {number}\r\n\r\n{}", "words and words and words and words and\r\n".repeat(lines));
        let reply = client.send("sue@client.test", &["joe@example.org", "jim@example.net"], content.as_bytes()).unwrap();
        ids.push(reply.id().to_owned());
    }
    for id in &ids {
        server.put_off(id);
    }
    assert!(run(home, &["queue", "hold", &ids[1]]).status.success());
    drop(client);
    assert_eq!(server.stop().code(), Some(0));
    ids
}

/// All files below a folder: path, bytes, when they were changed.
fn snapshot(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, i64, i64)> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let about = fs::symlink_metadata(&path).unwrap();
            let bytes = if about.is_dir() { Vec::new() } else { fs::read(&path).unwrap() };
            files.insert(path.clone(), (bytes, about.mtime(), about.mtime_nsec()));
            if about.is_dir() {
                folders.push(path);
            }
        }
    }
    files
}

/// The whole queue as its listing, and the contents.
fn queue(home: &Home, ids: &[String]) -> (Vec<Value>, Vec<Vec<u8>>) {
    let contents = ids.iter().map(|id| run(home, &["queue", "cat", id]).stdout).collect();
    (listing(home, &["queue", "list", "--json"]), contents)
}

/// Inverts a bit of a file.
fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 4;
    fs::write(path, bytes).unwrap();
}

fn find(haystack: &[u8], needle: &[u8]) -> usize {
    haystack.windows(needle.len()).position(|window| window == needle).expect("it is there")
}

#[test]
fn a_check_changes_nothing_and_a_repair_leaves_a_sound_spool() {
    let home = Home::new(UNREACHABLE);
    let ids = stopped(&home);
    let spool = home.at("spool");
    let before = snapshot(&spool);
    let (status, text) = outcome(&run(&home, &["spool", "check"]));
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("6 messages, 2 content files") && text.contains("The spool is sound."), "{text}");
    assert!(snapshot(&spool) == before, "a check changes nothing");

    // A record's content, a content file, and a header copy.
    let log = spool.join("log");
    let mut segments: Vec<PathBuf> = fs::read_dir(&log).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.sort();
    let segment = &segments[0];
    flip(segment, find(&fs::read(segment).unwrap(), b"Subject: 3\r\n"));
    flip(segment, 20);
    flip(&spool.join("content").join(&ids[4]), 1000);
    let damaged = snapshot(&spool);
    let output = run(&home, &["spool", "check", "--json"]);
    assert_eq!(output.status.code(), Some(65), "{output:?}");
    assert!(snapshot(&spool) == damaged, "a check changes nothing");
    let found = documents(&output);
    let kinds: Vec<&str> = found.iter().filter(|line| line["level"] == "damage").map(|line| field(line, "finding")).collect();
    assert_eq!(kinds, ["header-copy-damaged", "records-damaged", "content-damaged", "record-lost"], "{found:?}");
    assert_eq!((&found.last().unwrap()["type"], &found.last().unwrap()["damage"]), (&"summary".into(), &4.into()));
    assert_eq!(field(&found[1], "id"), ids[3]);

    let (status, text) = outcome(&run(&home, &["spool", "check", "--repair"]));
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("2 messages lost their content and are held"), "{text}");
    let (status, text) = outcome(&run(&home, &["spool", "check"]));
    assert_eq!(status, Some(0), "{text}");
    // The server takes it, has all six, and tells the sender of the lost ones.
    let mut server = Server::start(&home);
    let held: Vec<Value> = listing(&home, &["queue", "list", "--json", "--state", "held"]);
    let held: Vec<&str> = held.iter().map(|message| field(message, "id")).collect();
    assert_eq!(held, [&ids[1], &ids[3], &ids[4]]);
    assert_eq!(listing(&home, &["queue", "list", "--json"]).len(), 6);
    assert!(run(&home, &["queue", "bounce", &ids[3], &ids[4]]).status.success());
    for id in [&ids[3], &ids[4]] {
        server.event("notified", |event| field(event, "id") == id && field(event, "kind") == "bounce");
    }
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn what_is_exported_can_be_imported_elsewhere_and_again() {
    let home = Home::new(UNREACHABLE);
    let ids = stopped(&home);
    let (list, contents) = queue(&home, &ids);
    let (status, text) = outcome(&run(&home, &["spool", "export", "out/mail"]));
    assert_eq!(status, Some(0), "{text}");
    assert!(text.starts_with("exported 6 messages, "), "{text}");
    for (id, content) in ids.iter().zip(&contents) {
        assert!(&fs::read(home.at(&format!("out/mail/{id}.eml"))).unwrap() == content);
    }
    let (status, text) = outcome(&run(&home, &["spool", "export", "out/mail"]));
    assert!(status == Some(73) && text.contains("out/mail is not empty"), "{status:?} {text}");

    // As after an interruption: a part is there already.
    let other = Home::new(UNREACHABLE);
    let folder = other.at("in");
    fs::create_dir(&folder).unwrap();
    let copy = |ids: &[String]| {
        for name in ids.iter().flat_map(|id| [format!("{id}.eml"), format!("{id}.json")]) {
            fs::copy(home.at("out/mail").join(&name), folder.join(&name)).unwrap();
        }
    };
    copy(&ids[..2]);
    let (status, text) = outcome(&run(&other, &["spool", "import", "in"]));
    assert!(status == Some(0) && text.starts_with("imported 2 messages, "), "{status:?} {text}");
    copy(&ids);
    let (status, text) = outcome(&run(&other, &["spool", "import", "in"]));
    assert!(status == Some(0) && text.contains("imported 4 messages"), "{status:?} {text}");
    assert!(text.contains("skipped 2 messages that the spool has already"), "{text}");
    assert!(queue(&other, &ids) == (list, contents), "the same queue, byte for byte");
    assert_eq!(outcome(&run(&other, &["spool", "check"])).0, Some(0));

    // A wrong envelope is named with file and field.
    let wrong = folder.join(format!("{}.json", ids[0]));
    fs::write(&wrong, fs::read_to_string(&wrong).unwrap().replace("joe@example.org", "joe")).unwrap();
    let (status, text) = outcome(&run(&other, &["spool", "import", "in"]));
    assert_eq!(status, Some(65), "{text}");
    assert!(text.contains(&format!("{}.json: recipients[0].address: \"joe\": the address has no domain", ids[0])), "{text}");

    // The server goes on with them, and gives out greater ids.
    let mut server = Server::start(&other);
    let reply = server.client().send("sue@client.test", &["joe@example.org"], b"Subject: x\r\n\r\nx\r\n").unwrap();
    assert!(reply.id() > ids.last().unwrap().as_str());
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn a_running_server_or_no_spool_is_said_with_status_69() {
    let home = Home::new("");
    for arguments in [&["spool", "check"][..], &["spool", "export", "out"]] {
        let (status, text) = outcome(&run(&home, arguments));
        assert!(status == Some(69) && text.contains("there is no spool at spool"), "{status:?} {text}");
    }
    let server = Server::start(&home);
    fs::create_dir(home.at("in")).unwrap();
    let uses =
        [&["spool", "check"][..], &["spool", "check", "--repair"], &["spool", "export", "out"], &["spool", "import", "in"]];
    for arguments in uses {
        let (status, text) = outcome(&run(&home, arguments));
        assert!(status == Some(69) && text.contains("stop the server first"), "{arguments:?}: {status:?} {text}");
    }
    assert!(!home.at("out").exists());
    let (status, text) = outcome(&run(&home, &["spool", "import", "none"]));
    assert!(status == Some(65) && text.contains("there is no folder none"), "{status:?} {text}");
    drop(server);
}

#[test]
fn temporary_folders_go_away() {
    let home = Home::new(UNREACHABLE);
    stopped(&home);
    let temporary = home.at("tmp");
    fs::create_dir(&temporary).unwrap();
    for arguments in [&["spool", "check"][..], &["spool", "export", "out"]] {
        let output = posthouse(&home).args(arguments).env("TMPDIR", &temporary).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
    }
    let output = posthouse(&home).args(["spool", "check"]).env("TMPDIR", home.at("none")).output().unwrap();
    let (status, text) = outcome(&output);
    assert!(status == Some(73) && text.contains("TMPDIR"), "{status:?} {text}");
}
