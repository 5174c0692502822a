//! A mail server that follows a script and keeps what it took, over simulated or real sockets. State: script, messages, commands.
//!
//! It reads leniently and believes everything: what is tested is the other side.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{JoinHandle, JoinSet};

use super::{Act, Script, Stage};
use crate::system::{BoxStream, Listener, TlsServer};

/// A message that a peer took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Which connection brought it, from 1 on.
    pub connection: u64,
    /// Where that came from.
    pub client: IpAddr,
    /// Whether that was TLS.
    pub encrypted: bool,
    /// MAIL's argument between the angle brackets.
    pub reverse_path: String,
    /// MAIL's parameters, as sent.
    pub parameters: String,
    /// RCPT's arguments that were accepted; in LMTP those for whom the end was, too.
    pub recipients: Vec<String>,
    /// The content, without dot-stuffing.
    pub content: Vec<u8>,
}

/// A running scripted server. It stops when it is dropped.
pub struct Peer {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    script: Mutex<Script>,
    records: Mutex<Records>,
    tls: Option<Arc<dyn TlsServer>>,
    watcher: Mutex<Option<Arc<Tell>>>,
}

/// Who is told of each command: whence it comes, and its line.
type Tell = dyn Fn(IpAddr, &str) + Send + Sync;

#[derive(Default)]
struct Records {
    taken: Vec<Taken>,
    commands: Vec<String>,
    connections: u64,
}

impl Peer {
    /// Serves connections from a listener, simulated or real.
    pub fn start(listener: Box<dyn Listener>, script: Script) -> Self {
        Self::begin(listener, script, None)
    }

    /// The same, and goes over to TLS when it is asked to; what it says about that in EHLO is the script's.
    pub fn start_with_tls(listener: Box<dyn Listener>, script: Script, tls: Arc<dyn TlsServer>) -> Self {
        Self::begin(listener, script, Some(tls))
    }

    fn begin(listener: Box<dyn Listener>, script: Script, tls: Option<Arc<dyn TlsServer>>) -> Self {
        let address = listener.local_address();
        let shared = Arc::new(Shared { script: Mutex::new(script), records: Mutex::default(), tls, watcher: Mutex::default() });
        let task = tokio::spawn(serve(listener, shared.clone()));
        Self { address, shared, task }
    }

    /// Goes on at another listener with script and records as they are: after a crash that took its runtime along.
    pub fn restart(&mut self, listener: Box<dyn Listener>) {
        self.task.abort();
        self.address = listener.local_address();
        self.task = tokio::spawn(serve(listener, self.shared.clone()));
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it does from now on.
    pub fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut lock(&self.shared.script));
    }

    /// The messages it took so far, in order.
    pub fn taken(&self) -> Vec<Taken> {
        lock(&self.shared.records).taken.clone()
    }

    /// All command lines so far, in order; content not included.
    pub fn commands(&self) -> Vec<String> {
        lock(&self.shared.records).commands.clone()
    }

    /// Tells of every command from now on.
    pub fn watch(&self, watcher: impl Fn(IpAddr, &str) + Send + Sync + 'static) {
        *lock(&self.shared.watcher) = Some(Arc::new(watcher));
    }

    /// How many connections it accepted so far.
    pub fn connections(&self) -> u64 {
        lock(&self.shared.records).connections
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: Box<dyn Listener>, shared: Arc<Shared>) {
    // Dropped with this task, and its connections with it.
    let mut connections = JoinSet::new();
    while let Ok((stream, client)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let number = {
            let mut records = lock(&shared.records);
            records.connections += 1;
            records.connections
        };
        let mut connection = Connection {
            stream,
            client: client.ip(),
            encrypted: false,
            input: Vec::new(),
            shared: shared.clone(),
            number,
            envelope: Envelope::default(),
        };
        connections.spawn(async move {
            // However it ends, it ends: the stream closes.
            let _ = connection.run().await;
        });
    }
}

#[derive(Default)]
struct Envelope {
    reverse_path: Option<String>,
    parameters: String,
    recipients: Vec<String>,
    /// From chunks.
    content: Vec<u8>,
}

struct Connection {
    stream: BoxStream,
    client: IpAddr,
    encrypted: bool,
    input: Vec<u8>,
    shared: Arc<Shared>,
    number: u64,
    envelope: Envelope,
}

/// The connection is over; not worth a reason.
struct Over;

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Self {
        Over
    }
}

impl Connection {
    async fn run(&mut self) -> Result<(), Over> {
        let name = lock(&self.shared.script).name.clone();
        self.act(&[Stage::Greeting], &format!("220 {name} ESMTP")).await?;
        loop {
            let line = self.read_line().await?;
            let line = String::from_utf8_lossy(&line).into_owned();
            let watcher = lock(&self.shared.watcher).clone();
            if let Some(watcher) = watcher {
                watcher(self.client, &line);
            }
            lock(&self.shared.records).commands.push(line.clone());
            let verb = line.split([' ', ':']).next().unwrap_or("").to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" | "LHLO" => self.ehlo(&name).await?,
                "HELO" => self.act(&[Stage::Helo], &format!("250 {name}")).await.map(drop)?,
                "MAIL" => self.mail(&line).await?,
                "RCPT" => self.recipient(&line).await?,
                "DATA" => self.data().await?,
                "BDAT" => self.chunk(&line).await?,
                "RSET" => {
                    self.envelope = Envelope::default();
                    self.act(&[Stage::Rset], "250 2.0.0 Ok").await?;
                }
                "STARTTLS" => self.secure().await?,
                "AUTH" => self.log_in(&line).await?,
                "QUIT" => {
                    self.act(&[Stage::Quit], "221 2.0.0 Bye").await?;
                    return Err(Over);
                }
                _ => self.say("500 5.5.2 What?").await?,
            }
        }
    }

    async fn secure(&mut self) -> Result<(), Over> {
        let Some(tls) = self.shared.tls.clone() else { return self.say("502 5.5.1 What?").await };
        if self.act(&[Stage::StartTls], "220 2.0.0 Go").await? {
            let plain = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
            (self.stream, _) = tls.accept(plain).await?;
            (self.encrypted, self.envelope) = (true, Envelope::default());
        }
        Ok(())
    }

    async fn log_in(&mut self, line: &str) -> Result<(), Over> {
        if line.eq_ignore_ascii_case("AUTH LOGIN") {
            for prompt in ["334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6"] {
                self.say(prompt).await?;
                let answer = self.read_line().await?;
                lock(&self.shared.records).commands.push(String::from_utf8_lossy(&answer).into_owned());
            }
        }
        self.act(&[Stage::Auth], "235 2.7.0 Ok").await.map(drop)
    }

    async fn ehlo(&mut self, name: &str) -> Result<(), Over> {
        let extensions = lock(&self.shared.script).extensions.clone();
        let lines: Vec<_> = std::iter::once(name.to_owned()).chain(extensions).collect();
        let reply: Vec<_> = lines
            .iter()
            .enumerate()
            .map(|(at, line)| format!("250{}{line}", if at + 1 < lines.len() { '-' } else { ' ' }))
            .collect();
        self.act(&[Stage::Ehlo], &reply.join("\r\n")).await.map(drop)
    }

    async fn mail(&mut self, line: &str) -> Result<(), Over> {
        if self.act(&[Stage::Mail], "250 2.1.0 Ok").await? {
            let (path, parameters) = argument(line);
            self.envelope = Envelope { reverse_path: Some(path), parameters, ..Envelope::default() };
        }
        Ok(())
    }

    async fn recipient(&mut self, line: &str) -> Result<(), Over> {
        let (path, _) = argument(line);
        if self.envelope.reverse_path.is_none() {
            self.say("503 5.5.1 MAIL first").await?;
        } else if self.act(&[Stage::Recipient(path.clone()), Stage::AnyRecipient], "250 2.1.5 Ok").await? {
            self.envelope.recipients.push(path);
        }
        Ok(())
    }

    async fn data(&mut self) -> Result<(), Over> {
        if self.envelope.recipients.is_empty() {
            let lenient = lock(&self.shared.script).take(&Stage::Data);
            let Some(Act::Say(reply)) = lenient else { return self.say("503 5.5.1 RCPT first").await };
            self.say(&reply).await?;
            if !reply.starts_with('3') {
                return Ok(());
            }
        } else if !self.act(&[Stage::Data], "354 Go").await? {
            return Ok(());
        }
        let content = self.read_content().await?;
        self.end(content).await
    }

    /// A chunk; one without recipients is read and thrown away.
    async fn chunk(&mut self, line: &str) -> Result<(), Over> {
        let mut words = line.split(' ').skip(1);
        let size = words.next().and_then(|size| size.parse().ok()).ok_or(Over)?;
        let last = words.next().is_some_and(|word| word.eq_ignore_ascii_case("LAST"));
        if self.input.is_empty() && size > 0 {
            self.read().await?;
        }
        if self.envelope.content.is_empty() {
            let act = lock(&self.shared.script).take(&Stage::Content);
            if let Some(act) = act {
                self.perform(act, "").await?;
            }
        }
        while self.input.len() < size {
            self.read().await?;
        }
        self.envelope.content.extend(self.input.drain(..size));
        if self.envelope.recipients.is_empty() {
            self.envelope = Envelope::default();
            return self.say("503 5.5.1 RCPT first").await;
        }
        if last {
            let content = std::mem::take(&mut self.envelope.content);
            return self.end(content).await;
        }
        if !self.act(&[Stage::Chunk], &format!("250 2.0.0 {size} octets received")).await? {
            self.envelope = Envelope::default();
        }
        Ok(())
    }

    /// The content is complete.
    async fn end(&mut self, content: Vec<u8>) -> Result<(), Over> {
        let envelope = std::mem::take(&mut self.envelope);
        if lock(&self.shared.script).lmtp {
            return self.end_lmtp(envelope, content).await;
        }
        let empty = if envelope.recipients.is_empty() { "554 5.5.1 no recipients" } else { "250 2.0.0 Ok: taken" };
        let act = lock(&self.shared.script).take(&Stage::End).unwrap_or(Act::Usual);
        let positive = match &act {
            Act::Usual | Act::Slow(_) | Act::TakeAndClose => !envelope.recipients.is_empty(),
            Act::Say(text) | Act::SayAndClose(text) => text.starts_with('2'),
            Act::Close | Act::Stall => false,
        };
        if positive {
            let recipients = envelope.recipients.clone();
            self.take(&envelope, recipients, content);
        }
        self.perform(act, empty).await.map(drop)
    }

    async fn end_lmtp(&mut self, envelope: Envelope, content: Vec<u8>) -> Result<(), Over> {
        for recipient in envelope.recipients.clone() {
            let stage = Stage::EndFor(recipient.clone());
            let act = {
                let mut script = lock(&self.shared.script);
                script.take(&stage).or_else(|| script.take(&Stage::End)).unwrap_or(Act::Usual)
            };
            let positive = match &act {
                Act::Usual | Act::Slow(_) | Act::TakeAndClose => true,
                Act::Say(text) | Act::SayAndClose(text) => text.starts_with('2'),
                Act::Close | Act::Stall => false,
            };
            if positive {
                self.take(&envelope, vec![recipient], content.clone());
            }
            self.perform(act, "250 2.0.0 Ok: taken").await?;
        }
        Ok(())
    }

    fn take(&self, envelope: &Envelope, recipients: Vec<String>, content: Vec<u8>) {
        lock(&self.shared.records).taken.push(Taken {
            connection: self.number,
            client: self.client,
            encrypted: self.encrypted,
            reverse_path: envelope.reverse_path.clone().unwrap_or_default(),
            parameters: envelope.parameters.clone(),
            recipients,
            content,
        });
    }

    /// Does what the script has for the first of the stages that it knows; true if the reply was positive.
    async fn act(&mut self, stages: &[Stage], usual: &str) -> Result<bool, Over> {
        let act = {
            let mut script = lock(&self.shared.script);
            stages.iter().find_map(|stage| script.take(stage)).unwrap_or(Act::Usual)
        };
        self.perform(act, usual).await
    }

    async fn perform(&mut self, act: Act, usual: &str) -> Result<bool, Over> {
        if let Act::Slow(time) = act {
            tokio::time::sleep(time).await;
        }
        match act {
            Act::Usual | Act::Slow(_) => {
                self.say(usual).await?;
                Ok(matches!(usual.as_bytes().first(), Some(b'2' | b'3')))
            }
            Act::Say(text) => {
                self.say(&text).await?;
                Ok(matches!(text.as_bytes().first(), Some(b'2' | b'3')))
            }
            Act::SayAndClose(text) => {
                self.say(&text).await?;
                Err(Over)
            }
            Act::Close | Act::TakeAndClose => Err(Over),
            Act::Stall => std::future::pending().await,
        }
    }

    async fn say(&mut self, text: &str) -> Result<(), Over> {
        self.stream.write_all(format!("{text}\r\n").as_bytes()).await?;
        Ok(self.stream.flush().await?)
    }

    async fn read_line(&mut self) -> Result<Vec<u8>, Over> {
        loop {
            if let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.input.drain(..end + 2).take(end).collect();
                return Ok(line);
            }
            self.read().await?;
        }
    }

    /// The content up to the dot, unstuffed.
    async fn read_content(&mut self) -> Result<Vec<u8>, Over> {
        if self.input.is_empty() {
            self.read().await?;
        }
        let act = lock(&self.shared.script).take(&Stage::Content);
        if let Some(act) = act {
            self.perform(act, "").await?;
        }
        let mut content = Vec::new();
        loop {
            // Line by line, without rescanning what was read already.
            let mut from = 0;
            while let Some(end) = self.input[from..].windows(2).position(|pair| pair == b"\r\n") {
                let line = &self.input[from..from + end + 2];
                from += end + 2;
                if line == b".\r\n" {
                    self.input.drain(..from);
                    return Ok(content);
                }
                content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
            }
            self.input.drain(..from);
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), Over> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer).await? {
            0 => Err(Over),
            size => {
                self.input.extend_from_slice(&buffer[..size]);
                Ok(())
            }
        }
    }
}

/// `MAIL FROM:<path> parameters`.
fn argument(line: &str) -> (String, String) {
    let (_, rest) = line.split_once('<').unwrap_or(("", ""));
    let (path, parameters) = rest.rsplit_once('>').unwrap_or((rest, ""));
    (path.to_owned(), parameters.trim().to_owned())
}
