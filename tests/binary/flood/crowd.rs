//! Many clients at a time, without a thread for each: sockets that are written to and read from by turns.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::support::PATIENCE;

/// How far a visitor goes before it does nothing, or drips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visitor {
    /// Doesn't even wait for a greeting.
    Nobody,
    /// Says EHLO, then nothing.
    Idle,
    /// Drips its EHLO.
    Hello,
    /// Drips its MAIL.
    Mail,
    /// Drips a RCPT.
    Recipient,
    /// Drips a header field.
    Header,
    /// Drips content without end.
    Body,
}

/// The clients, and what they last heard.
pub(super) struct Crowd {
    members: Vec<Member>,
}

struct Member {
    /// None: the server has closed.
    stream: Option<TcpStream>,
    heard: Vec<u8>,
}

/// As many descriptors as the system allows: crowds need them.
pub(super) fn raise_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("up to the hard limit everybody may");
}

impl Crowd {
    /// Opens `count` connections and takes each as far as the visitor goes.
    pub(super) fn open(address: SocketAddr, count: usize, visitor: Visitor) -> Self {
        Self { members: (0..count).map(|_| Member::open(address, visitor)).collect() }
    }

    /// One octet from each that is still there.
    pub(super) fn drip(&mut self) {
        for member in &mut self.members {
            member.try_write(b"x");
        }
    }

    /// Writes to each, as much as the socket takes, and all of it in the end.
    pub(super) fn write(&mut self, octets: &[u8]) {
        let mut left: Vec<&[u8]> = vec![octets; self.members.len()];
        while left.iter().any(|left| !left.is_empty()) {
            for (member, left) in self.members.iter_mut().zip(&mut left) {
                *left = &left[member.try_write(left)..];
            }
            thread::yield_now();
            self.members.iter_mut().for_each(Member::read);
        }
    }

    /// How many the server hasn't closed; reads what there is.
    pub(super) fn still_there(&mut self) -> usize {
        self.members.iter_mut().for_each(Member::read);
        self.members.iter().filter(|member| member.stream.is_some()).count()
    }

    /// Whether the last line to each began so.
    pub(super) fn all_heard(&self, start: &str) -> bool {
        self.last_words().iter().all(|words| words.starts_with(start))
    }

    /// The last line to each.
    pub(super) fn last_words(&self) -> Vec<String> {
        let last = |member: &Member| {
            let text = String::from_utf8_lossy(&member.heard).into_owned();
            text.trim_end().rsplit("\r\n").next().unwrap_or("").to_owned()
        };
        self.members.iter().map(last).collect()
    }
}

impl Member {
    fn open(address: SocketAddr, visitor: Visitor) -> Self {
        let stream = TcpStream::connect(address).expect("the server's backlog has room");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut member = Self { stream: Some(stream), heard: Vec::new() };
        let (lines, start): (&[&str], &str) = match visitor {
            Visitor::Nobody => (&[], ""),
            Visitor::Idle => (&["EHLO client.test"], ""),
            Visitor::Hello => (&[], "EH"),
            Visitor::Mail => (&["EHLO client.test"], "MAIL FROM:<"),
            Visitor::Recipient => (&["EHLO client.test", "MAIL FROM:<>"], "RCPT TO:<"),
            Visitor::Header => (&["EHLO client.test", "MAIL FROM:<>", "RCPT TO:<ann@example.test>", "DATA"], "Subject: "),
            Visitor::Body => (&["EHLO client.test", "MAIL FROM:<>", "RCPT TO:<ann@example.test>", "DATA"], "\r\n"),
        };
        if visitor != Visitor::Nobody {
            member.reply();
        }
        for line in lines {
            member.write_all(format!("{line}\r\n").as_bytes());
            member.reply();
        }
        member.write_all(start.as_bytes());
        if let Some(stream) = &member.stream {
            stream.set_nonblocking(true).expect("a socket");
        }
        member
    }

    fn write_all(&mut self, octets: &[u8]) {
        self.stream.as_mut().expect("just connected").write_all(octets).expect("the server listens");
    }

    /// Reads one reply to its end.
    fn reply(&mut self) {
        let stream = self.stream.as_mut().expect("just connected");
        self.heard.clear();
        loop {
            let mut piece = [0; 1024];
            let count = stream.read(&mut piece).expect("a reply in time");
            assert!(count > 0, "the server has closed: {}", String::from_utf8_lossy(&self.heard));
            self.heard.extend_from_slice(&piece[..count]);
            let text = String::from_utf8_lossy(&self.heard);
            let last = text.trim_end_matches("\r\n").rsplit("\r\n").next().unwrap_or("");
            if text.ends_with("\r\n") && last.as_bytes().get(3) == Some(&b' ') {
                return;
            }
        }
    }

    /// Writes what the socket takes now; what is written to a closed connection is as good as written.
    fn try_write(&mut self, octets: &[u8]) -> usize {
        let Some(stream) = &mut self.stream else { return octets.len() };
        match stream.write(octets) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(_) => {
                self.read();
                octets.len()
            }
        }
    }

    /// Reads what there is, and keeps the end of it.
    fn read(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        let mut piece = [0; 4096];
        loop {
            match stream.read(&mut piece) {
                Ok(count) if count > 0 => {
                    self.heard.extend_from_slice(&piece[..count]);
                    let surplus = self.heard.len().saturating_sub(1024);
                    self.heard.drain(..surplus);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // Closed, or cut because we wrote to what was closed.
                _ => {
                    self.stream = None;
                    return;
                }
            }
        }
    }
}
