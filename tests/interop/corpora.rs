//! Real mail: what mail-parser and CPython ship as test messages goes through to a Maildir and to a peer, byte for byte.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::neighbour::{missing, python};
use crate::support::home::Home;
use crate::support::maildir;
use crate::support::peer::Peer;
use crate::support::server::Server;

/// Line ends as they have to be on the wire: each CRLF, bare LF and bare CR is one line end, and the last line has one.
fn on_the_wire(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(content.len() + content.len() / 20);
    let mut bytes = content.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\r' => {
                bytes.next_if_eq(&b'\n');
                wire.extend_from_slice(b"\r\n");
            }
            b'\n' => wire.extend_from_slice(b"\r\n"),
            _ => wire.push(byte),
        }
    }
    if !wire.ends_with(b"\r\n") {
        wire.extend_from_slice(b"\r\n");
    }
    wire
}

/// All files below a folder for which `wanted` is true, in order.
fn files(folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if wanted(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Sends every file to a mailbox and, in the same message, to a peer; both have it unchanged.
fn pass_through(corpus: &[PathBuf]) {
    let peer = Peer::new();
    let home = Home::new(&format!(
        "[relay]\nnetworks = [\"127.0.0.1/32\"]\n[[route]]\ndomain = \"far.test\"\nhosts = [\"{}\"]\n",
        peer.address()
    ));
    let server = Server::start(&home);
    let mut client = server.client();
    let mut sent = BTreeMap::new();
    for file in corpus {
        let content = on_the_wire(&fs::read(file).unwrap());
        let reply = client.send("sue@client.test", &["ann@example.test", "x@far.test"], &content);
        let reply = reply.unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        sent.insert(reply.id().to_owned(), (file, content));
    }
    sent.keys().for_each(|id| server.finished(id));

    let kept = maildir::files(&home.maildir("ann"));
    assert_eq!(kept.len(), sent.len());
    for file in kept {
        let message = fs::read(&file).unwrap();
        let (name, content) = &sent[maildir::queue_id(&message)];
        assert!(message.ends_with(content), "{} has changed in the Maildir", name.display());
        maildir::assert_content(&message, content);
    }
    for _ in 0..sent.len() {
        let mail = peer.next();
        let (name, content) = &sent[maildir::queue_id(&mail.content)];
        assert!(mail.content.ends_with(content), "{} has changed on the way to the peer", name.display());
        assert_eq!(maildir::above(&mail.content, content).names(), ["Received"]);
    }
    eprintln!("{} messages, {} bytes", sent.len(), sent.values().map(|(_, content)| content.len()).sum::<usize>());
}

/// The platform that the compiler builds for.
fn host() -> String {
    let version = String::from_utf8(Command::new("rustc").arg("-vV").output().unwrap().stdout).unwrap();
    version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned()
}

#[test]
fn the_test_messages_of_mail_parser_pass_unchanged() {
    let output = Command::new(env!("CARGO"))
        // Other platforms' packages need not be on this machine.
        .args(["metadata", "--format-version", "1", "--offline", "--locked", "--filter-platform", &host()])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let manifest = metadata["packages"]
        .as_array()
        .and_then(|packages| packages.iter().find(|package| package["name"] == "mail-parser"))
        .and_then(|package| package["manifest_path"].as_str());
    let Some(resources) = manifest.map(|file| Path::new(file).with_file_name("resources")).filter(|folder| folder.is_dir())
    else {
        return missing("mail-parser's test messages are not there");
    };
    let corpus = files(&resources, &|file| {
        file.extension().is_some_and(|e| e == "eml") || file.parent().is_some_and(|f| f.ends_with("new") || f.ends_with("cur"))
    });
    assert!(corpus.len() > 100, "{} messages", corpus.len());
    pass_through(&corpus);
}

#[test]
fn the_test_messages_of_python_pass_unchanged() {
    let asked = "import test.test_email as t; print(t.__path__[0])";
    let pythons = python().into_iter().chain(["python3", "/usr/bin/python3"].map(PathBuf::from));
    let found = pythons
        .filter_map(|python| Command::new(python).args(["-c", asked]).output().ok())
        .find(|output| output.status.success());
    let folder = found.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()).join("data"));
    let Some(folder) = folder.filter(|folder| folder.is_dir()) else {
        return missing("Python's test messages are not there");
    };
    let corpus = files(&folder, &|file| file.extension().is_some_and(|e| e == "txt"));
    assert!(corpus.len() > 40, "{} messages", corpus.len());
    pass_through(&corpus);
}
