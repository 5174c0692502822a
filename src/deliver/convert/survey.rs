//! The first pass: what must become of each entity, or why nothing can. State: a treatment an entity.

use super::check::Check;
use super::field::{Encoding, Kind};
use super::walk::{Entity, Visitor};
use super::{Form, Obstacle, Treatment};

/// Entities of a message; one octet each.
const ENTITIES_MAX: usize = 16 * 1024;

/// The visitor.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) form: Form,
    pub(super) treatments: Vec<Treatment>,
    pub(super) obstacle: Option<Obstacle>,
    /// Something doesn't fit, and has its treatment.
    pub(super) needed: bool,
    /// No octet is above 127: in any header, and at all.
    pub(super) header_is_ascii: bool,
    pub(super) is_ascii: bool,
    body: Check,
    aside: Check,
}

impl Survey {
    pub(super) fn new(form: Form) -> Self {
        Self {
            form,
            treatments: Vec::new(),
            obstacle: None,
            needed: false,
            header_is_ascii: true,
            is_ascii: true,
            body: Check::new(form),
            aside: Check::new(form),
        }
    }

    fn impossible(&mut self, obstacle: Obstacle) {
        self.obstacle.get_or_insert(obstacle);
    }
}

impl Visitor for Survey {
    fn begin(&mut self) {
        if self.treatments.len() < ENTITIES_MAX {
            self.treatments.push(Treatment::Keep);
        } else {
            self.impossible(Obstacle::TooComplex);
        }
    }

    fn header(&mut self, octets: &[u8]) {
        if !octets.is_ascii() {
            (self.header_is_ascii, self.is_ascii) = (false, false);
            if self.form == Form::SevenBit {
                self.impossible(Obstacle::Header);
            }
        }
        if !lines_fit(octets, Form::EightBit) {
            self.impossible(Obstacle::Malformed);
        }
    }

    fn encoding(&mut self, field: &[u8]) {
        self.header(field);
    }

    fn header_end(&mut self, _entity: &Entity) {
        self.body = Check::new(self.form);
    }

    fn body(&mut self, octets: &[u8]) {
        self.is_ascii &= octets.is_ascii();
        self.body.push(octets);
    }

    fn body_line_end(&mut self) {
        self.body.line_end();
    }

    fn body_end(&mut self, entity: &Entity) {
        if self.body.fits() {
            return;
        }
        let treatment = match (&entity.kind, entity.encoding) {
            (Kind::Frozen(obstacle), _) => return self.impossible(*obstacle),
            (_, Encoding::Unknown) => return self.impossible(Obstacle::Malformed),
            (_, Encoding::QuotedPrintable) => Treatment::MendQuotedPrintable,
            (_, Encoding::Base64) => Treatment::MendBase64,
            (Kind::Text, _) => Treatment::QuotedPrintable,
            _ => Treatment::Base64,
        };
        self.needed = true;
        // A body follows its own header: it is that of the last entity.
        if let Some(last) = self.treatments.last_mut() {
            *last = treatment;
        }
    }

    fn frame(&mut self, octets: &[u8]) {
        self.is_ascii &= octets.is_ascii();
        // A boundary, which we may not change without changing the field that names it.
        if !lines_fit(octets, self.form) {
            self.impossible(Obstacle::Malformed);
        }
    }

    fn aside(&mut self, octets: &[u8]) {
        self.is_ascii &= octets.is_ascii();
        self.aside.push(octets);
        self.needed |= !self.aside.fits();
    }

    fn aside_line_end(&mut self) {
        self.aside.line_end();
    }

    fn partless(&mut self) {
        if !self.aside.fits() {
            self.impossible(Obstacle::Malformed);
        }
    }
}

/// Whether there is nothing but octets that the form takes, and whole line ends.
fn lines_fit(octets: &[u8], form: Form) -> bool {
    let mut rest = octets;
    while let Some(end) = memchr::memmem::find(rest, b"\r\n") {
        if !rest[..end].iter().all(|octet| form.takes(*octet)) {
            return false;
        }
        rest = &rest[end + 2..];
    }
    rest.iter().all(|octet| form.takes(*octet))
}
