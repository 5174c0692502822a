//! An SMTP server that a test brings along: takes mail and hands it to the test, or refuses as the test's rule says.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;

use super::PATIENCE;

/// The peer. Its threads end with the test.
pub struct Peer {
    address: SocketAddr,
    mail: Mutex<Receiver<Mail>>,
}

/// A message that the peer took.
#[derive(Debug)]
pub struct Mail {
    pub from: String,
    pub to: Vec<String>,
    pub content: Vec<u8>,
}

impl Mail {
    fn from(from: String) -> Self {
        Self { from, to: Vec::new(), content: Vec::new() }
    }
}

/// Says what to reply to a command line instead of yes, if anything. The final dot comes as ".".
type Rule = dyn Fn(&str) -> Option<String> + Send + Sync;

impl Peer {
    /// A peer that takes everything.
    pub fn new() -> Self {
        Self::with(|_| None)
    }

    /// A peer with a rule.
    pub fn with(rule: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (sender, mail) = mpsc::channel();
        let rule: Arc<Rule> = Arc::new(rule);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (sender, rule) = (sender.clone(), Arc::clone(&rule));
                // A client that goes away in the middle is its own matter.
                thread::spawn(move || serve(stream, &sender, &*rule).ok());
            }
        });
        Self { address, mail: Mutex::new(mail) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next message; waits for it.
    pub fn next(&self) -> Mail {
        self.mail.lock().expect("one reader").recv_timeout(PATIENCE).expect("a message arrives at the peer")
    }

    /// Everything that arrived and wasn't asked for yet.
    pub fn all(&self) -> Vec<Mail> {
        self.mail.lock().expect("one reader").try_iter().collect()
    }
}

fn serve(stream: TcpStream, sender: &Sender<Mail>, rule: &Rule) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut out = stream.try_clone()?;
    let mut input = BufReader::new(stream);
    let mut mail = Mail::from(String::new());
    out.write_all(b"220 peer.test ESMTP\r\n")?;
    loop {
        let mut line = Vec::new();
        if input.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let verb = line.split([' ', ':']).next().unwrap_or("").to_ascii_uppercase();
        let refusal = rule(&line);
        let refused = refusal.is_some();
        let reply = refusal.unwrap_or_else(|| yes(&verb).to_owned());
        out.write_all(format!("{reply}\r\n").as_bytes())?;
        match verb.as_str() {
            "QUIT" => return Ok(()),
            "MAIL" => mail = Mail::from(path(&line)),
            "RCPT" if !refused => mail.to.push(path(&line)),
            "DATA" if !refused => {
                mail.content = content(&mut input)?;
                let refusal = rule(".");
                let done = std::mem::replace(&mut mail, Mail::from(String::new()));
                // The test has it before the client knows that it is taken: what a server calls delivered is there for `all`.
                if refusal.is_none() && sender.send(done).is_err() {
                    return Ok(());
                }
                out.write_all(format!("{}\r\n", refusal.as_deref().unwrap_or("250 2.0.0 taken")).as_bytes())?;
            }
            _ => {}
        }
    }
}

fn yes(verb: &str) -> &'static str {
    match verb {
        "EHLO" => "250-peer.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE 0\r\n250 ENHANCEDSTATUSCODES",
        "DATA" => "354 go on",
        "QUIT" => "221 2.0.0 bye",
        _ => "250 2.0.0 Ok",
    }
}

fn path(line: &str) -> String {
    line.split_once('<').and_then(|(_, rest)| rest.rsplit_once('>')).map_or("", |(path, _)| path).to_owned()
}

/// Reads up to the final dot, taking the stuffed dots away.
fn content(input: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let start = content.len();
        if input.read_until(b'\n', &mut content)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = &content[start..];
        // A line can end only with CRLF; what read_until split at a bare LF goes on.
        let fresh = start == 0 || content[..start].ends_with(b"\r\n");
        if fresh && line == b".\r\n" {
            content.truncate(start);
            return Ok(content);
        }
        if fresh && line.starts_with(b".") {
            content.remove(start);
        }
    }
}
