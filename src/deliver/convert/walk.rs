//! Walks through the MIME structure of content (RFC 2045, RFC 2046) as it streams by, and tells a visitor what each octet is. State: the
//! multiparts that are open, and where in an entity the next line falls.

use super::Obstacle;
use super::field::{self, Encoding, Kind, Name};
use super::lines::{Line, Lines, START_SIZE};

/// Entities within entities; what lies deeper is one body.
pub(super) const DEPTH_MAX: usize = 32;
/// Longest Content-Type field, folded lines included, that is looked at; octets.
const FIELD_SIZE_MAX: usize = 8 * 1024;

/// Everything there is to know about an entity once its header is over.
#[derive(Clone, Debug)]
pub(super) struct Entity {
    pub(super) kind: Kind,
    pub(super) encoding: Encoding,
    /// A message's own, not a part of one.
    pub(super) root: bool,
    pub(super) has_version: bool,
    pub(super) has_type: bool,
    pub(super) has_encoding: bool,
}

/// What the walk tells. All octets come in their order, and exactly once.
pub(super) trait Visitor {
    /// The header of another entity begins: of the message, of a part, of a message within.
    fn begin(&mut self);
    /// Octets of its header.
    fn header(&mut self, octets: &[u8]);
    /// A whole Content-Transfer-Encoding field of its header.
    fn encoding(&mut self, field: &[u8]);
    /// The header is over. The empty line behind it comes as `frame`.
    fn header_end(&mut self, entity: &Entity);
    /// Octets of its body, if that isn't made of entities itself. A CR or LF among them is a bare one.
    fn body(&mut self, octets: &[u8]);
    /// A line end within the body.
    fn body_line_end(&mut self);
    /// The body is over. Every header of a `Text`, `Other` or `Frozen` entity has one.
    fn body_end(&mut self, entity: &Entity);
    /// Boundary lines, and empty lines behind headers.
    fn frame(&mut self, octets: &[u8]);
    /// What stands before the first and behind the last part of a multipart, and nobody reads: octets of a line.
    fn aside(&mut self, octets: &[u8]);
    /// A line end there.
    fn aside_line_end(&mut self);
    /// A multipart was without any part: perhaps its boundary isn't what we took it for, and somebody else sees parts.
    fn partless(&mut self);
}

/// The walking machine.
pub(super) struct Walk<V> {
    lines: Lines,
    state: State<V>,
}

/// A multipart that is open.
struct Level {
    boundary: Vec<u8>,
    digest: bool,
    /// Of its parts.
    depth: usize,
    parts: bool,
}

/// Where the next line falls.
enum Place {
    Header(Header),
    Body(Entity),
    /// Before the first or behind the last part of the innermost multipart.
    Aside,
}

/// A header under way.
#[derive(Default)]
struct Header {
    root: bool,
    /// A part of a multipart/digest.
    digest: bool,
    /// The field that the last line belongs to, if it is one that matters; it is kept in `field` then.
    name: Option<Name>,
    field: Vec<u8>,
    kind: Option<Kind>,
    encoding: Option<Encoding>,
    has_version: bool,
}

struct State<V> {
    visitor: V,
    levels: Vec<Level>,
    depth: usize,
    place: Place,
    /// A line of a body ended. The line end is part of the body, unless a boundary line follows.
    line_end: bool,
}

impl<V: Visitor> Walk<V> {
    pub(super) fn new(mut visitor: V) -> Self {
        visitor.begin();
        let place = Place::Header(Header { root: true, ..Header::default() });
        Self { lines: Lines::default(), state: State { visitor, levels: Vec::new(), depth: 0, place, line_end: false } }
    }

    /// Takes the next piece of content.
    pub(super) fn push(&mut self, piece: &[u8]) {
        let Self { lines, state } = self;
        lines.push(piece, |line| state.line(line));
    }

    /// The content is over.
    pub(super) fn end(&mut self) {
        let Self { lines, state } = self;
        lines.end(|line| state.line(line));
        if std::mem::take(&mut state.line_end) {
            state.visitor.body_line_end();
        }
        state.leave(0);
    }

    pub(super) fn visitor(&mut self) -> &mut V {
        &mut self.state.visitor
    }
}

impl<V: Visitor> State<V> {
    fn line(&mut self, line: Line<'_>) {
        if line.first
            && let Some((level, closes)) = self.boundary(line)
        {
            return self.cross(level, closes, line);
        }
        match &mut self.place {
            Place::Header(_) => self.header(line),
            Place::Body(_) => {
                if std::mem::take(&mut self.line_end) {
                    self.visitor.body_line_end();
                }
                self.visitor.body(line.octets);
                self.line_end = line.last;
            }
            Place::Aside => {
                self.visitor.aside(line.octets);
                if line.last {
                    self.visitor.aside_line_end();
                }
            }
        }
    }

    /// The open multipart that a line is a boundary of, and whether it closes that. The innermost counts.
    fn boundary(&self, line: Line<'_>) -> Option<(usize, bool)> {
        let behind = line.octets.strip_prefix(b"--").filter(|behind| behind.len() < START_SIZE)?;
        let blank = |rest: &[u8]| rest.iter().all(|b| matches!(b, b' ' | b'\t'));
        self.levels.iter().enumerate().rev().find_map(|(at, level)| {
            let rest = behind.strip_prefix(&level.boundary[..])?;
            let closes = rest.strip_prefix(b"--").is_some_and(blank);
            (closes || blank(rest)).then_some((at, closes))
        })
    }

    /// A boundary line ends whatever is open within its multipart.
    fn cross(&mut self, level: usize, closes: bool, line: Line<'_>) {
        let line_end = std::mem::take(&mut self.line_end);
        self.leave(level + 1);
        if line_end {
            self.visitor.frame(b"\r\n");
        }
        self.visitor.frame(line.octets);
        if line.last {
            self.visitor.frame(b"\r\n");
        }
        if closes {
            return self.leave(level);
        }
        let Some(open) = self.levels.last_mut() else { return };
        open.parts = true;
        self.depth = open.depth;
        self.place = Place::Header(Header { digest: open.digest, ..Header::default() });
        self.visitor.begin();
    }

    /// Ends the entity under way, and all multiparts but `count`.
    fn leave(&mut self, count: usize) {
        if let Place::Header(_) = self.place {
            self.header_end();
        }
        // A header here now is that of a message within that has no octet at all.
        if let Place::Body(entity) = std::mem::replace(&mut self.place, Place::Aside) {
            self.visitor.body_end(&entity);
        }
        while self.levels.len() > count {
            if self.levels.pop().is_some_and(|level| !level.parts) {
                self.visitor.partless();
            }
        }
    }

    fn header(&mut self, line: Line<'_>) {
        if line.first && line.last && line.octets.is_empty() {
            self.field_end();
            return self.body_begins();
        }
        if line.first && !line.octets.starts_with(b" ") && !line.octets.starts_with(b"\t") {
            self.field_end();
            if let Place::Header(header) = &mut self.place {
                header.name = Name::of(line.octets);
            }
        }
        let Place::Header(header) = &mut self.place else { return };
        let line_end: &[u8] = if line.last { b"\r\n" } else { b"" };
        if header.name.is_none() {
            self.visitor.header(line.octets);
            self.visitor.header(line_end);
        } else if header.field.len() + line.octets.len() + 2 <= FIELD_SIZE_MAX {
            header.field.extend_from_slice(line.octets);
            header.field.extend_from_slice(line_end);
        } else {
            // Too long to be looked at: it passes by, and what it speaks of stays as it is.
            let (name, field) = (header.name.take(), std::mem::take(&mut header.field));
            self.visitor.header(&field);
            self.visitor.header(line.octets);
            self.visitor.header(line_end);
            if name != Some(Name::Version) {
                header.kind = Some(Kind::Frozen(Obstacle::Malformed));
            }
        }
    }

    /// The field under way is whole.
    fn field_end(&mut self) {
        let Place::Header(header) = &mut self.place else { return };
        let Some(name) = header.name.take() else { return };
        let field = std::mem::take(&mut header.field);
        match name {
            Name::Encoding => {
                let found = field::encoding(&field);
                // Two that differ are read by some so and by others otherwise.
                let doubtful = header.encoding.is_some_and(|encoding| encoding != found);
                header.encoding = Some(if doubtful { Encoding::Unknown } else { found });
                return self.visitor.encoding(&field);
            }
            Name::Type => {
                let found = field::kind(&field);
                let doubtful = header.kind.as_ref().is_some_and(|kind| *kind != found);
                header.kind = Some(if doubtful { Kind::Frozen(Obstacle::Malformed) } else { found });
            }
            Name::Version => header.has_version = true,
        }
        self.visitor.header(&field);
    }

    /// The empty line behind a header came.
    fn body_begins(&mut self) {
        self.header_end();
        self.visitor.frame(b"\r\n");
        if let Place::Header(_) = self.place {
            self.visitor.begin();
        }
    }

    /// Decides what an entity is whose header is over, and where the next line falls.
    fn header_end(&mut self) {
        self.field_end();
        let Place::Header(header) = std::mem::replace(&mut self.place, Place::Aside) else { return };
        let default = if header.digest { Kind::Message } else { Kind::Text };
        let (has_type, encoding) = (header.kind.is_some(), header.encoding.unwrap_or_default());
        let mut kind = header.kind.unwrap_or(default);
        if let Kind::Multipart { .. } | Kind::Message = kind {
            if self.depth >= DEPTH_MAX {
                kind = Kind::Frozen(Obstacle::TooComplex);
            } else if !encoding.is_identity() {
                // Not allowed (RFC 2045 section 6.4), but seen; then its octets are one body.
                kind = if encoding == Encoding::Unknown { Kind::Frozen(Obstacle::Malformed) } else { Kind::Other };
            }
        }
        let entity = Entity {
            kind,
            encoding,
            root: header.root,
            has_version: header.has_version,
            has_type,
            has_encoding: header.encoding.is_some(),
        };
        self.visitor.header_end(&entity);
        self.place = match &entity.kind {
            Kind::Multipart { boundary, digest } => {
                self.depth += 1;
                self.levels.push(Level { boundary: boundary.clone(), digest: *digest, depth: self.depth, parts: false });
                Place::Aside
            }
            Kind::Message => {
                self.depth += 1;
                Place::Header(Header { root: true, ..Header::default() })
            }
            Kind::Text | Kind::Other | Kind::Frozen(_) => Place::Body(entity),
        };
    }
}
