//! A mail client for stories: says what it is told and keeps every reply. State: the connection and what was read ahead.

use std::io;
use std::net::{IpAddr, SocketAddr};

use posthouse::system::sim::SimNet;
use posthouse::system::{BoxStream, Endpoint};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// One connection to the server.
pub(crate) struct Client {
    stream: BoxStream,
    input: Vec<u8>,
}

/// The server's end of the connection is gone.
#[derive(Debug)]
pub(crate) struct Gone;

impl From<io::Error> for Gone {
    fn from(_: io::Error) -> Self {
        Gone
    }
}

impl Client {
    /// Connects; says and reads nothing.
    pub(crate) async fn connect(net: &SimNet, from: IpAddr, to: SocketAddr) -> Result<Self, Gone> {
        Self::connect_at(net, from, &Endpoint::Tcp(to)).await
    }

    /// The same to wherever somebody listens.
    pub(crate) async fn connect_at(net: &SimNet, from: IpAddr, to: &Endpoint) -> Result<Self, Gone> {
        let stream = net.connect_from(from, to).await?;
        Ok(Self { stream, input: Vec::new() })
    }

    /// The next reply, its lines joined by newlines.
    pub(crate) async fn reply(&mut self) -> Result<String, Gone> {
        let mut lines = Vec::new();
        loop {
            let line = self.line().await?;
            let last = line.as_bytes().get(3) != Some(&b'-');
            lines.push(line);
            if last {
                return Ok(lines.join("\n"));
            }
        }
    }

    /// Sends octets as they are.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }

    /// Sends a line and reads the reply.
    pub(crate) async fn command(&mut self, line: &str) -> Result<String, Gone> {
        self.send(format!("{line}\r\n").as_bytes()).await?;
        self.reply().await
    }

    /// Sends content with dot-stuffing and the final dot, and reads the reply.
    pub(crate) async fn content(&mut self, content: &[u8]) -> Result<String, Gone> {
        let mut stuffed = Vec::with_capacity(content.len() + 5);
        for line in content.split_inclusive(|b| *b == b'\n') {
            if line.starts_with(b".") {
                stuffed.push(b'.');
            }
            stuffed.extend_from_slice(line);
        }
        stuffed.extend_from_slice(b".\r\n");
        self.send(&stuffed).await?;
        self.reply().await
    }

    /// Reads the greeting and says EHLO.
    pub(crate) async fn hello(&mut self) -> Result<String, Gone> {
        let greeting = self.reply().await?;
        if !greeting.starts_with("220 ") {
            return Ok(greeting);
        }
        self.command("EHLO client.test").await
    }

    /// One transaction, as far as the server goes along: the replies from MAIL on.
    pub(crate) async fn transaction(&mut self, from: &str, to: &[&str], content: &[u8]) -> Result<Vec<String>, Gone> {
        self.transaction_with(from, to, "", content).await
    }

    /// The same, with these parameters for each recipient.
    pub(crate) async fn transaction_with(
        &mut self,
        from: &str,
        to: &[&str],
        parameters: &str,
        content: &[u8],
    ) -> Result<Vec<String>, Gone> {
        let mut replies = vec![self.command(&format!("MAIL FROM:<{from}>")).await?];
        if !replies[0].starts_with("250") {
            return Ok(replies);
        }
        let mut taken = false;
        for recipient in to {
            let reply = self.command(&format!("RCPT TO:<{recipient}>{parameters}")).await?;
            taken |= reply.starts_with("250");
            replies.push(reply);
        }
        if !taken {
            return Ok(replies);
        }
        let go = self.command("DATA").await?;
        let started = go.starts_with("354");
        replies.push(go);
        if started {
            replies.push(self.content(content).await?);
        }
        Ok(replies)
    }

    /// Reads so many octets.
    pub(crate) async fn octets(&mut self, count: usize) -> Result<Vec<u8>, Gone> {
        while self.input.len() < count {
            self.read().await?;
        }
        Ok(self.input.drain(..count).collect())
    }

    /// One transaction with parameters behind the paths, content by DATA; every reply must be positive. The queue id's reply.
    pub(crate) async fn ask(&mut self, mail: &str, rcpts: &[&str], content: &str) -> String {
        let mut commands = vec![format!("MAIL FROM:{mail}")];
        commands.extend(rcpts.iter().map(|rcpt| format!("RCPT TO:{rcpt}")));
        for command in commands {
            let reply = self.command(&command).await.unwrap();
            assert!(reply.starts_with("250"), "{command}: {reply}");
        }
        assert!(self.command("DATA").await.unwrap().starts_with("354"));
        let reply = self.content(content.as_bytes()).await.unwrap();
        assert!(reply.starts_with("250"), "{reply}");
        reply
    }

    async fn line(&mut self) -> Result<String, Gone> {
        loop {
            if let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.input.drain(..end + 2).take(end).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), Gone> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer).await? {
            0 => Err(Gone),
            size => {
                self.input.extend_from_slice(&buffer[..size]);
                Ok(())
            }
        }
    }
}
