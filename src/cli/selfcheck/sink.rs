//! The next hop of the checks: a server that offers every extension, takes everything, and tells what it got.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::system::{BoxStream, Listener};

/// What it offers: what mail may ask for. Not REQUIRETLS, which would need TLS here.
const GREETING: &[u8] = b"250-sink.test\r\n250-PIPELINING\r\n250-SIZE\r\n250-8BITMIME\r\n250-CHUNKING\r\n250-BINARYMIME\r\n\
                          250-SMTPUTF8\r\n250-DSN\r\n250-DELIVERBY\r\n250-MT-PRIORITY\r\n250-FUTURERELEASE 864000 2100-01-01T00:00:00Z\r\n\
                          250 ENHANCEDSTATUSCODES\r\n";

/// A message that came.
#[derive(Clone, Debug, Default)]
pub(super) struct Got {
    /// MAIL and RCPT, as they were said.
    pub(super) commands: Vec<String>,
    pub(super) content: Vec<u8>,
}

impl Got {
    /// Whether a command has this in it.
    pub(super) fn was_asked(&self, part: &str) -> bool {
        self.commands.iter().any(|command| command.split(' ').any(|word| word == part))
    }
}

/// Takes connections until it is dropped.
pub(super) async fn run(listener: Box<dyn Listener>, got: mpsc::Sender<Got>) {
    let mut sessions = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let got = got.clone();
        sessions.spawn(async move {
            // A connection that breaks is the server's to deal with.
            let _ = session(stream, got).await;
        });
    }
}

/// Where it listens.
pub(super) fn address(listener: &dyn Listener) -> SocketAddr {
    listener.local_address()
}

async fn session(stream: BoxStream, got: mpsc::Sender<Got>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 sink.test ESMTP\r\n").await?;
    let mut message = Got::default();
    loop {
        stream.flush().await?;
        let mut line = Vec::new();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let verb = line.split(' ').next().unwrap_or("").to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" => stream.write_all(GREETING).await?,
            "MAIL" | "RCPT" => {
                if verb == "MAIL" {
                    message = Got::default();
                }
                message.commands.push(line);
                stream.write_all(b"250 2.1.0 Ok\r\n").await?;
            }
            "DATA" => {
                stream.write_all(b"354 Go on\r\n").await?;
                stream.flush().await?;
                read_data(&mut stream, &mut message.content).await?;
                finish(&mut stream, &mut message, &got).await?;
            }
            "BDAT" => {
                let mut words = line.split(' ').skip(1);
                let size = words.next().and_then(|size| size.parse::<u64>().ok()).unwrap_or(0);
                (&mut stream).take(size).read_to_end(&mut message.content).await?;
                if words.next().is_some_and(|word| word.eq_ignore_ascii_case("LAST")) {
                    finish(&mut stream, &mut message, &got).await?;
                } else {
                    stream.write_all(b"250 2.0.0 Ok\r\n").await?;
                }
            }
            "QUIT" => {
                stream.write_all(b"221 2.0.0 Bye\r\n").await?;
                return stream.flush().await;
            }
            _ => stream.write_all(b"250 2.0.0 Ok\r\n").await?,
        }
    }
}

async fn finish(stream: &mut BufReader<BoxStream>, message: &mut Got, got: &mpsc::Sender<Got>) -> std::io::Result<()> {
    // Nobody listens any more: the checks are over.
    let _ = got.send(std::mem::take(message)).await;
    stream.write_all(b"250 2.0.0 Ok: taken\r\n").await
}

async fn read_data(stream: &mut BufReader<BoxStream>, content: &mut Vec<u8>) -> std::io::Result<()> {
    loop {
        let mut line = Vec::new();
        if stream.read_until(b'\n', &mut line).await? == 0 || line == b".\r\n" {
            return Ok(());
        }
        content.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
    }
}
