//! Maildirs, read byte for byte.

use std::fs;
use std::path::{Path, PathBuf};

/// What stands above a delivered message's content: the fields' names and values, unfolded, in order.
#[derive(Debug, PartialEq, Eq)]
pub struct Fields(pub Vec<(String, String)>);

impl Fields {
    /// The value of a field that is there once.
    pub fn get(&self, name: &str) -> &str {
        let mut found = self.0.iter().filter(|(n, _)| n == name);
        let (_, value) = found.next().unwrap_or_else(|| panic!("no {name} in {self:?}"));
        assert!(found.next().is_none(), "more than one {name} in {self:?}");
        value
    }

    /// The names, in order.
    pub fn names(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }
}

/// The files of a Maildir, new and read; empty if the Maildir isn't there.
pub fn files(maildir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in ["new", "cur"] {
        if let Ok(entries) = fs::read_dir(maildir.join(folder)) {
            files.extend(entries.map(|entry| entry.expect("own folder").path()));
        }
    }
    files.sort();
    files
}

/// The only message of a Maildir.
pub fn only(maildir: &Path) -> Vec<u8> {
    let files = files(maildir);
    assert_eq!(files.len(), 1, "messages in {}: {files:?}", maildir.display());
    let tmp = fs::read_dir(maildir.join("tmp")).expect("a Maildir has tmp").count();
    assert_eq!(tmp, 0, "files left in {}/tmp", maildir.display());
    fs::read(&files[0]).expect("own folder")
}

/// What is above `content` in a delivered message. Fails if the message doesn't end with exactly that.
pub fn above(message: &[u8], content: &[u8]) -> Fields {
    assert!(
        message.ends_with(content),
        "the content has changed: {} bytes sent, the message is now\n{}",
        content.len(),
        String::from_utf8_lossy(&message[..message.len().min(3000)])
    );
    let head = &message[..message.len() - content.len()];
    assert!(head.ends_with(b"\r\n"), "our own fields end with CRLF");
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in String::from_utf8_lossy(head).split_terminator("\r\n") {
        if line.starts_with([' ', '\t']) {
            let (_, value) = fields.last_mut().expect("no continuation at the top");
            value.push_str(line);
        } else {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no field: {line:?}"));
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }
    Fields(fields)
}

/// The content is exactly this, below Return-Path, Delivered-To and our Received.
pub fn assert_content(message: &[u8], content: &[u8]) -> Fields {
    let fields = above(message, content);
    assert_eq!(fields.names(), ["Return-Path", "Delivered-To", "Received"]);
    fields
}

/// The queue id in our own Received field, which is the first of a message.
pub fn queue_id(message: &[u8]) -> &str {
    let head = &message[..message.len().min(2000)];
    let at = head.windows(4).position(|word| word == b" id ").expect("our Received field has the id") + 4;
    let end = head[at..].iter().position(|byte| !byte.is_ascii_alphanumeric()).expect("something stands behind the id");
    std::str::from_utf8(&head[at..at + end]).unwrap()
}
