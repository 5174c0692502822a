//! An SMTP client that says exactly what it is told to: one connection of a check. Not the server's own client, so that each is
//! proved by somebody else.

use std::io;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::system::tls::probe;
use crate::system::{BoxStream, Endpoint, Net as _, SystemNet};

/// A server on loopback that doesn't answer within this time doesn't work.
const REPLY_MAX: Duration = Duration::from_secs(20);
/// Longest reply; octets.
const REPLY_SIZE_MAX: usize = 64 * 1024;

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) code: u16,
    /// Its lines, without the code.
    pub(super) lines: Vec<String>,
}

impl Reply {
    pub(super) fn text(&self) -> String {
        format!("{} {}", self.code, self.lines.join(" / "))
    }
}

/// The connection.
pub(super) struct Client {
    stream: Option<BoxStream>,
    /// What was read and not used.
    input: Vec<u8>,
    /// The keywords of the last EHLO's reply, with their values.
    pub(super) keywords: Vec<String>,
    /// Since the handshake: version, and what a login may be bound to.
    pub(super) tls: Option<(&'static str, Option<[u8; 32]>)>,
}

type Result<T> = std::result::Result<T, String>;

fn text(error: io::Error) -> String {
    error.to_string()
}

impl Client {
    /// Connects, by TLS from the first octet if `implicit`, and says EHLO.
    pub(super) async fn connect(to: std::net::SocketAddr, implicit: bool) -> Result<Self> {
        let stream = SystemNet.connect(&Endpoint::Tcp(to), None).await.map_err(text)?;
        let mut client = Self { stream: Some(stream), input: Vec::new(), keywords: Vec::new(), tls: None };
        if implicit {
            client.handshake().await?;
        }
        client.read().await?.expect(220)?;
        client.hello().await?;
        Ok(client)
    }

    /// STARTTLS and EHLO. A command that is sent behind STARTTLS in clear text must not be answered (RFC 3207 section 4.2).
    pub(super) async fn start_tls(&mut self) -> Result<()> {
        self.send(b"STARTTLS\r\nNOOP\r\n").await?;
        self.read().await?.expect(220)?;
        self.input.clear();
        self.handshake().await?;
        self.hello().await?;
        if self.offers("STARTTLS").is_some() {
            return Err("STARTTLS is still offered within TLS".to_owned());
        }
        // If the NOOP had been kept, this would be its reply and not VRFY's.
        self.say("VRFY postmaster").await?.expect(252)?;
        Ok(())
    }

    async fn handshake(&mut self) -> Result<()> {
        let stream = self.stream.take().ok_or("the connection is gone")?;
        let probed = probe(stream).await.map_err(|error| format!("the handshake failed: {error}"))?;
        self.stream = Some(probed.stream);
        self.tls = Some((probed.version, probed.exporter));
        Ok(())
    }

    async fn hello(&mut self) -> Result<()> {
        let reply = self.say("EHLO selfcheck.test").await?.expect(250)?;
        self.keywords = reply.lines.get(1..).unwrap_or_default().to_vec();
        Ok(())
    }

    /// The values of a keyword, if it is offered.
    pub(super) fn offers(&self, keyword: &str) -> Option<&str> {
        let of = |line: &'_ String| line.split(' ').next() == Some(keyword);
        self.keywords.iter().find(|line| of(line)).map(|line| line[keyword.len()..].trim_start())
    }

    /// Sends octets.
    pub(super) async fn send(&mut self, octets: &[u8]) -> Result<()> {
        let stream = self.stream.as_mut().ok_or("the connection is gone")?;
        stream.write_all(octets).await.map_err(text)?;
        stream.flush().await.map_err(text)
    }

    /// Says a command and waits for its reply.
    pub(super) async fn say(&mut self, command: &str) -> Result<Reply> {
        self.send(format!("{command}\r\n").as_bytes()).await?;
        self.read().await
    }

    /// The next reply.
    pub(super) async fn read(&mut self) -> Result<Reply> {
        let mut lines = Vec::new();
        loop {
            let line = tokio::time::timeout(REPLY_MAX, self.line()).await.map_err(|_| "no reply came".to_owned())??;
            let code = line.get(..3).and_then(|code| code.parse().ok()).ok_or_else(|| format!("{line:?} is no reply"))?;
            lines.push(line.get(4..).unwrap_or("").to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(Reply { code, lines });
            }
        }
    }

    async fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.input.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&self.input[..end]).into_owned();
                self.input.drain(..end + 2);
                return Ok(line);
            }
            let mut piece = [0; 4096];
            let stream = self.stream.as_mut().ok_or("the connection is gone")?;
            let read = stream.read(&mut piece).await.map_err(text)?;
            if read == 0 || self.input.len() > REPLY_SIZE_MAX {
                return Err("the server closed the connection".to_owned());
            }
            self.input.extend_from_slice(&piece[..read]);
        }
    }

    /// Logs in by PLAIN (RFC 4616).
    pub(super) async fn log_in(&mut self, user: &str, password: &str) -> Result<()> {
        let response = STANDARD.encode(format!("\0{user}\0{password}"));
        self.say(&format!("AUTH PLAIN {response}")).await?.expect(235)?;
        Ok(())
    }
}

impl Reply {
    /// The reply, if it has this code.
    pub(super) fn expect(self, code: u16) -> Result<Self> {
        if self.code == code { Ok(self) } else { Err(format!("{code} was expected, and not: {}", self.text())) }
    }

    /// The same with an enhanced code.
    pub(super) fn expect_enhanced(self, code: u16, enhanced: &str) -> Result<Self> {
        let reply = self.expect(code)?;
        let is_it = reply.lines.iter().all(|line| line.split(' ').next() == Some(enhanced));
        if is_it { Ok(reply) } else { Err(format!("{code} {enhanced} was expected, and not: {}", reply.text())) }
    }
}
