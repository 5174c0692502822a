//! The form of a file in the drop folder, read strictly: whoever wrote it may be anybody.
//!
//! ```text
//! the content, as it will be sent: CR LF line ends, no dots added
//! MAIL FROM:<…> …\r\n
//! RCPT TO:<…> …\r\n         one for each recipient
//! posthouse-drop 1 CONTENT ENVELOPE CHECKSUM\n
//! ```
//!
//! The last line has a fixed length: octets of content and of envelope, and the CRC-32 of all that stands before it, in
//! hexadecimal. The envelope is in SMTP's own words, so that it is read by the one parser that strangers' words are read by.

use std::fmt;
use std::io;
use std::path::Path;

use crate::system::{Disk, DiskFile, Origin};

const MARK: &str = "posthouse-drop 1";
/// Octets of the last line.
const TRAILER_SIZE: usize = MARK.len() + 1 + 16 + 1 + 8 + 1 + 8 + 1;
/// Largest envelope; octets. A recipient has some hundred.
pub(super) const ENVELOPE_SIZE_MAX: u64 = 4 * 1024 * 1024;

/// The last line.
pub(super) fn trailer(content: u64, envelope: u32, crc: u32) -> String {
    format!("{MARK} {content:016x} {envelope:08x} {crc:08x}\n")
}

/// Why a file isn't a message.
#[derive(Debug)]
pub enum OpenError {
    /// It can't be read now.
    Io(io::Error),
    /// It never will be one.
    Wrong(&'static str),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Wrong(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A message in the drop folder, open for reading.
pub struct Dropped {
    file: Box<dyn DiskFile>,
    origin: Origin,
    content_size: u64,
    envelope: Vec<u8>,
    crc: u32,
}

impl Dropped {
    /// Opens one. Blocking, as all of it.
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Self, OpenError> {
        let (file, origin) = disk.open_strange(path)?;
        if !origin.is_plain {
            return Err(OpenError::Wrong("it is no file that has one name"));
        }
        let length = file.len()?;
        let Some(trailer_at) = length.checked_sub(TRAILER_SIZE as u64) else {
            return Err(OpenError::Wrong("it is too short for a message"));
        };
        let mut line = [0; TRAILER_SIZE];
        read_exact(&*file, trailer_at, &mut line)?;
        let (content_size, envelope_size, crc) =
            parse(&line).ok_or(OpenError::Wrong("its last line is not that of a message"))?;
        if content_size.checked_add(envelope_size) != Some(trailer_at) || envelope_size > ENVELOPE_SIZE_MAX {
            return Err(OpenError::Wrong("its parts don't have the lengths that its last line says"));
        }
        let mut envelope = vec![0; usize::try_from(envelope_size).map_err(io::Error::other)?];
        read_exact(&*file, content_size, &mut envelope)?;
        if !envelope.ends_with(b"\r\n") {
            return Err(OpenError::Wrong("its envelope is cut off"));
        }
        Ok(Self { file, origin, content_size, envelope, crc })
    }

    /// Whose it is.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Octets of content.
    pub fn content_size(&self) -> u64 {
        self.content_size
    }

    /// The checksum that content and envelope should have.
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// The envelope's octets.
    pub fn envelope(&self) -> &[u8] {
        &self.envelope
    }

    /// The envelope's lines, each with its line end: MAIL, then RCPT, as many as there are.
    pub fn commands(&self) -> impl Iterator<Item = &[u8]> {
        self.envelope.split_inclusive(|octet| *octet == b'\n')
    }

    /// At most `size_max` octets of content from `offset` on; empty at its end.
    pub fn content(&self, offset: u64, size_max: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.content_size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut piece = vec![0; left.min(size_max)];
        read_exact(&*self.file, offset, &mut piece)?;
        Ok(piece)
    }
}

fn parse(line: &[u8; TRAILER_SIZE]) -> Option<(u64, u64, u32)> {
    let text = std::str::from_utf8(line).ok()?.strip_prefix(MARK)?.strip_prefix(' ')?;
    let (content, rest) = text.split_once(' ')?;
    let (envelope, rest) = rest.split_once(' ')?;
    let crc = u32::from_str_radix(rest.strip_suffix('\n')?, 16).ok()?;
    let (content, envelope) = (u64::from_str_radix(content, 16).ok()?, u32::from_str_radix(envelope, 16).ok()?);
    // One way to write each number, and no other.
    (trailer(content, envelope, crc).as_bytes() == line).then_some((content, u64::from(envelope), crc))
}

fn read_exact(file: &dyn DiskFile, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(offset + filled as u64, &mut buffer[filled..])? {
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter")),
            read => filled += read,
        }
    }
    Ok(())
}
