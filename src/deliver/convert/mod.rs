//! Converts content that a next hop can't take into the form that it can (RFC 6152 section 3, RFC 3030 section 3): bodies become
//! quoted-printable or base64, part by part, and the structure around them stays. State: none beyond one message on its way.
//!
//! Two passes over the spooled content, in pieces: a survey finds what each part needs, then the content is rewritten as it is sent.
//! Signed and encrypted parts are never touched; a message that can't be helped has an obstacle instead, which the sender is told.

mod base64;
mod check;
mod field;
mod lines;
mod quoted;
mod rewrite;
mod survey;
mod walk;

use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::system::{BoxFuture, Content};

use rewrite::Rewrite;
use survey::Survey;
use walk::Walk;

/// Octets read at a time. Converting makes three of one at the most.
const PIECE_SIZE: usize = 16 * 1024;

/// What a transport takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Octets from 1 to 127 in lines of 998 at the most.
    SevenBit,
    /// Octets from 1 to 255 in such lines: 8BITMIME.
    EightBit,
}

impl Form {
    /// Whether an octet may stand in a line.
    fn takes(self, octet: u8) -> bool {
        !matches!(octet, 0 | b'\r' | b'\n') && (octet < 128 || self == Self::EightBit)
    }
}

/// Why content can't be converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// A signed or encrypted part would have to change.
    Signed,
    /// A part of a kind that allows no encoding would have to change.
    Fragment,
    /// A header field has octets above 127.
    Header,
    /// The structure or an encoding can't be understood.
    Malformed,
    /// There are more parts than we look at, or deeper ones.
    TooComplex,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Signed => "a part of it is signed or encrypted and must not change",
            Self::Fragment => "a part of it is of a type that must not be encoded",
            Self::Header => "its header has non-ASCII characters",
            Self::Malformed => "its MIME structure is malformed",
            Self::TooComplex => "it has too many parts, or too deep ones",
        })
    }
}

/// What becomes of an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Treatment {
    /// It stays, except for the name of its encoding.
    Keep,
    /// Its body is encoded so.
    QuotedPrintable,
    Base64,
    /// Its body is encoded so already, but not well.
    MendQuotedPrintable,
    MendBase64,
}

/// How a message is to be converted.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    form: Form,
    /// By entity, in the order of their headers.
    treatments: Arc<[Treatment]>,
}

/// What the survey found.
#[derive(Debug)]
pub(super) struct Findings {
    /// All header fields, those of parts and messages within included, are ASCII.
    pub(super) header_is_ascii: bool,
    /// All octets are.
    pub(super) is_ascii: bool,
    /// What is to be done.
    pub(super) remedy: Remedy,
}

/// How content gets into the form asked for.
#[derive(Debug)]
pub(super) enum Remedy {
    /// It has that form.
    Needless,
    /// Converted according to this.
    Plan(Plan),
    /// Not at all.
    Impossible(Obstacle),
}

/// Reads all of the content and finds what it takes to bring it into a form.
pub(super) async fn survey(content: &dyn Content, form: Form) -> io::Result<Findings> {
    let mut walk = Walk::new(Survey::new(form));
    let mut at = 0;
    while let Some(piece) = piece(content, &mut at).await? {
        walk.push(&piece);
    }
    walk.end();
    Ok(walk.visitor().findings())
}

impl Survey {
    fn findings(&mut self) -> Findings {
        let plan = || Plan { form: self.form, treatments: self.treatments.as_slice().into() };
        let remedy = match self.obstacle {
            Some(obstacle) => Remedy::Impossible(obstacle),
            None if self.needed => Remedy::Plan(plan()),
            None => Remedy::Needless,
        };
        Findings { header_is_ascii: self.header_is_ascii, is_ascii: self.is_ascii, remedy }
    }
}

/// The next piece; `None` at the end. Content that ends before its size is unreadable.
async fn piece(content: &dyn Content, at: &mut u64) -> io::Result<Option<Vec<u8>>> {
    if *at >= content.size() {
        return Ok(None);
    }
    let piece = content.read_at(*at, PIECE_SIZE).await?;
    if piece.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    *at += piece.len() as u64;
    Ok(Some(piece))
}

/// Content in its converted form: made while it is read, from front to back. Another reading may start at the front again.
pub(super) struct Converted {
    content: Arc<dyn Content>,
    plan: Plan,
    size: u64,
    reading: Mutex<Reading>,
}

/// A reading under way.
struct Reading {
    walk: Walk<Rewrite>,
    /// Octets of the content that were read.
    read: u64,
    /// Octets of the converted form before `ready`.
    given: u64,
    ready: Vec<u8>,
    ended: bool,
}

impl Reading {
    fn new(plan: &Plan) -> Self {
        Self { walk: Walk::new(Rewrite::new(plan.clone())), read: 0, given: 0, ready: Vec::new(), ended: false }
    }

    /// Makes more ready; nothing more is when the end is reached.
    async fn advance(&mut self, content: &dyn Content) -> io::Result<()> {
        self.given += self.ready.len() as u64;
        self.ready.clear();
        while self.ready.is_empty() && !self.ended {
            self.ready = match piece(content, &mut self.read).await? {
                Some(piece) => {
                    self.walk.push(&piece);
                    self.walk.visitor().take()
                }
                None => {
                    self.ended = true;
                    self.walk.end();
                    self.walk.visitor().end()
                }
            };
        }
        Ok(())
    }
}

impl Converted {
    /// Converts once from end to end to know the size, which a next hop is told first.
    pub(super) async fn new(content: Arc<dyn Content>, plan: Plan) -> io::Result<Self> {
        let mut reading = Reading::new(&plan);
        while !reading.ended {
            reading.advance(&*content).await?;
        }
        let size = reading.given + reading.ready.len() as u64;
        Ok(Self { content, reading: Mutex::new(Reading::new(&plan)), plan, size })
    }

    async fn read(&self, offset: u64, size_max: usize) -> io::Result<Vec<u8>> {
        let mut reading = self.reading.lock().await;
        if offset < reading.given {
            *reading = Reading::new(&self.plan);
        }
        while offset >= reading.given + reading.ready.len() as u64 {
            if reading.ended {
                return Ok(Vec::new());
            }
            reading.advance(&*self.content).await?;
        }
        let from = (offset - reading.given) as usize;
        let to = from.saturating_add(size_max).min(reading.ready.len());
        Ok(reading.ready[from..to].to_vec())
    }
}

impl Content for Converted {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, size_max: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        Box::pin(self.read(offset, size_max))
    }
}

#[cfg(test)]
mod tests;
