//! A plain SMTP client over a blocking socket: what a test says is what goes over the wire.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;

/// A whole reply as it came, for those who look at every octet of it.
pub fn raw_reply(stream: &mut impl BufRead) -> String {
    let mut reply = String::new();
    loop {
        let mut line = String::new();
        assert_ne!(stream.read_line(&mut line).unwrap(), 0, "closed behind {reply:?}");
        reply.push_str(&line);
        if line.as_bytes().get(3) == Some(&b' ') {
            return reply;
        }
    }
}

/// A connection.
pub struct Client {
    reader: BufReader<TcpStream>,
}

/// A reply: its code and its lines without the codes.
#[derive(Clone, Debug)]
pub struct Reply {
    pub code: u16,
    pub text: String,
}

impl Reply {
    /// The queue id in the reply to the final dot.
    pub fn id(&self) -> &str {
        let at = self.text.rfind("queued as ").unwrap_or_else(|| panic!("no queue id in {self:?}"));
        self.text[at + "queued as ".len()..].trim()
    }
}

impl Client {
    /// Connects, takes the greeting and says EHLO.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut client = Self { reader: BufReader::new(stream) };
        client.expect(220)?;
        client.say("EHLO client.test")?;
        client.expect(250)?;
        Ok(client)
    }

    /// Writes bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// Writes a line.
    pub fn say(&mut self, line: &str) -> io::Result<()> {
        self.write(format!("{line}\r\n").as_bytes())
    }

    /// Reads a reply, of one line or several.
    pub fn reply(&mut self) -> io::Result<Reply> {
        let mut text = String::new();
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let code = line.get(..3).and_then(|code| code.parse().ok()).ok_or_else(|| io::Error::other(line.clone()))?;
            text.push_str(line.get(4..).unwrap_or("").trim_end());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(Reply { code, text });
            }
            text.push('\n');
        }
    }

    /// Reads a reply that has to have this code.
    pub fn expect(&mut self, code: u16) -> io::Result<Reply> {
        let reply = self.reply()?;
        if reply.code == code { Ok(reply) } else { Err(io::Error::other(format!("expected {code}, got {reply:?}"))) }
    }

    /// A command and its reply.
    pub fn command(&mut self, line: &str) -> io::Result<Reply> {
        self.say(line)?;
        self.reply()
    }

    /// MAIL, RCPT for each recipient and DATA: the server waits for the content then.
    pub fn envelope(&mut self, from: &str, to: &[&str]) -> io::Result<()> {
        self.say(&format!("MAIL FROM:<{from}> BODY=8BITMIME"))?;
        self.expect(250)?;
        for to in to {
            self.say(&format!("RCPT TO:<{to}>"))?;
            self.expect(250)?;
        }
        self.say("DATA")?;
        self.expect(354)?;
        Ok(())
    }

    /// Sends a message whose lines all end with CRLF. An error also is any reply but the expected.
    pub fn send(&mut self, from: &str, to: &[&str], content: &[u8]) -> io::Result<Reply> {
        self.envelope(from, to)?;
        self.write(&stuffed(content))?;
        self.write(b".\r\n")?;
        self.expect(250)
    }
}

/// The content with a dot put before each line that begins with one (RFC 5321 4.5.2).
pub fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut stuffed = Vec::with_capacity(content.len() + content.len() / 64);
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            stuffed.push(b'.');
        }
        stuffed.extend_from_slice(line);
    }
    stuffed
}
