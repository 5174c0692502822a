//! Messages to send: made ones with every kind of difficulty, and random ones that a number brings back.

use super::random::Random;

/// The header that every made message begins with.
pub fn header(subject: &str) -> String {
    format!(
        "From: Ann <ann@example.test>\r\nTo: somebody\r\nSubject: {subject}\r\nDate: Sun, 22 Nov 2026 02:00:00 +0000\r\n\
         Message-ID: <{}@client.test>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: 8bit\r\n\r\n",
        subject.replace(' ', ".")
    )
}

/// A message with 8-bit text, dots at all the wrong places, trailing blanks, tabs, empty lines and lines of 998 octets.
pub fn difficult(subject: &str) -> Vec<u8> {
    let mut content = header(subject).into_bytes();
    content.extend_from_slice("Grüße aus Köln, 郵便馬車, \u{1f4ec}\r\n".as_bytes());
    content.extend_from_slice(b".\r\n..\r\n...\r\n.leading\r\ntrailing.\r\n. \r\n.\t.\r\n");
    content.extend_from_slice(b"From here on\r\n>From there\r\nblanks behind   \r\n\ttab\t\r\n\r\n\r\n");
    content.extend_from_slice(&line(998));
    content.extend_from_slice(&line(997));
    content.extend_from_slice(b".");
    content.extend_from_slice(&line(997));
    content.extend_from_slice(b"QUIT\r\nDATA\r\n\r\n.\r\n\r\nend\r\n");
    content
}

/// The same, and lines that are longer than the standard allows.
pub fn overlong(subject: &str) -> Vec<u8> {
    let mut content = difficult(subject);
    for length in [999, 1000, 1023, 1024, 2047, 2048, 2049, 4096, 8192, 65_536, 200_001] {
        content.extend_from_slice(&line(length));
    }
    content.extend_from_slice(b"end\r\n");
    content
}

/// A message of at least `size` octets, with text in it that doesn't repeat.
pub fn large(subject: &str, size: usize) -> Vec<u8> {
    let mut content = header(subject).into_bytes();
    let mut random = Random::with(size as u64);
    content.reserve(size + 80);
    while content.len() < size {
        for _ in 0..4 {
            content.extend_from_slice(format!("{:016x}", random.next()).as_bytes());
        }
        content.extend_from_slice(b"\r\n");
    }
    content
}

/// A line of this many octets, line end not counted.
fn line(length: usize) -> Vec<u8> {
    let mut line: Vec<u8> = (0..length).map(|at| b'a' + (at % 26) as u8).collect();
    line.extend_from_slice(b"\r\n");
    line
}
