//! The second pass: content in, its converted form out. State: which entity is under way, and the encoder of its body.

use super::base64::{self, Base64};
use super::check::LINE_SIZE_MAX;
use super::field::{self, Encoding, Kind};
use super::quoted::{self, QuotedPrintable};
use super::walk::{Entity, Visitor};
use super::{Form, Plan, Treatment};

/// The visitor; `out` has what is converted and wasn't taken yet.
#[derive(Debug)]
pub(super) struct Rewrite {
    plan: Plan,
    /// The entity after the one under way.
    next: usize,
    body: Body,
    /// Octets of the line under way outside of all parts.
    aside: usize,
    pub(super) out: Vec<u8>,
    /// The last two octets of all output.
    tail: [u8; 2],
}

/// The body under way.
#[derive(Debug)]
enum Body {
    AsItIs,
    QuotedPrintable(QuotedPrintable),
    Base64(Base64),
    MendQuotedPrintable(quoted::Mend),
    MendBase64(base64::Mend),
}

impl Rewrite {
    pub(super) fn new(plan: Plan) -> Self {
        Self { plan, next: 0, body: Body::AsItIs, aside: 0, out: Vec::new(), tail: [0; 2] }
    }

    /// Takes what is there.
    pub(super) fn take(&mut self) -> Vec<u8> {
        match self.out[..] {
            [] => {}
            [only] => self.tail = [self.tail[1], only],
            [.., last_but_one, last] => self.tail = [last_but_one, last],
        }
        std::mem::take(&mut self.out)
    }

    /// The walk is over: the last line gets its end, if it lacks it.
    pub(super) fn end(&mut self) -> Vec<u8> {
        let mut last = self.take();
        if self.tail != *b"\r\n" {
            last.extend_from_slice(b"\r\n");
        }
        last
    }

    /// Of the entity under way.
    fn treatment(&self) -> Treatment {
        self.plan.treatments.get(self.next.wrapping_sub(1)).copied().unwrap_or(Treatment::Keep)
    }

    /// What the entity's encoding becomes; `None` if it stays.
    fn encoding_becomes(&self, encoding: Encoding) -> Option<&'static str> {
        match (self.treatment(), encoding, self.plan.form) {
            (Treatment::QuotedPrintable, _, _) => Some("quoted-printable"),
            (Treatment::Base64, _, _) => Some("base64"),
            (_, Encoding::EightBit | Encoding::Binary, Form::SevenBit) => Some("7bit"),
            (_, Encoding::Binary, Form::EightBit) => Some("8bit"),
            _ => None,
        }
    }
}

impl Visitor for Rewrite {
    fn begin(&mut self) {
        self.next += 1;
    }

    fn header(&mut self, octets: &[u8]) {
        self.out.extend_from_slice(octets);
    }

    fn encoding(&mut self, octets: &[u8]) {
        match self.encoding_becomes(field::encoding(octets)) {
            Some(encoding) => {
                self.out.extend_from_slice(format!("Content-Transfer-Encoding: {encoding}\r\n").as_bytes());
            }
            None => self.out.extend_from_slice(octets),
        }
    }

    fn header_end(&mut self, entity: &Entity) {
        let treatment = self.treatment();
        self.body = match treatment {
            Treatment::Keep => Body::AsItIs,
            Treatment::QuotedPrintable => Body::QuotedPrintable(QuotedPrintable::default()),
            Treatment::Base64 => Body::Base64(Base64::default()),
            Treatment::MendQuotedPrintable => Body::MendQuotedPrintable(quoted::Mend::default()),
            Treatment::MendBase64 => Body::MendBase64(base64::Mend::default()),
        };
        if !matches!(treatment, Treatment::QuotedPrintable | Treatment::Base64) {
            return;
        }
        if entity.root && !entity.has_version {
            self.out.extend_from_slice(b"MIME-Version: 1.0\r\n");
            if !entity.has_type && entity.kind == Kind::Text {
                // It said nothing about itself (RFC 1428 section 3).
                self.out.extend_from_slice(b"Content-Type: text/plain; charset=unknown-8bit\r\n");
            }
        }
        if let (false, Some(encoding)) = (entity.has_encoding, self.encoding_becomes(entity.encoding)) {
            self.out.extend_from_slice(format!("Content-Transfer-Encoding: {encoding}\r\n").as_bytes());
        }
    }

    fn body(&mut self, octets: &[u8]) {
        match &mut self.body {
            Body::AsItIs => self.out.extend_from_slice(octets),
            Body::QuotedPrintable(encoder) => encoder.push(octets, &mut self.out),
            Body::Base64(encoder) => encoder.push(octets, &mut self.out),
            Body::MendQuotedPrintable(mend) => mend.push(octets, &mut self.out),
            Body::MendBase64(mend) => mend.push(octets, &mut self.out),
        }
    }

    fn body_line_end(&mut self) {
        match &mut self.body {
            Body::AsItIs => self.out.extend_from_slice(b"\r\n"),
            Body::QuotedPrintable(encoder) => encoder.line_end(&mut self.out),
            Body::Base64(encoder) => encoder.push(b"\r\n", &mut self.out),
            Body::MendQuotedPrintable(mend) => mend.line_end(&mut self.out),
            Body::MendBase64(mend) => mend.line_end(&mut self.out),
        }
    }

    fn body_end(&mut self, _entity: &Entity) {
        match std::mem::replace(&mut self.body, Body::AsItIs) {
            Body::AsItIs | Body::MendBase64(_) => {}
            Body::QuotedPrintable(encoder) => encoder.end(&mut self.out),
            Body::Base64(encoder) => encoder.end(&mut self.out),
            Body::MendQuotedPrintable(mend) => mend.end(&mut self.out),
        }
    }

    fn frame(&mut self, octets: &[u8]) {
        self.out.extend_from_slice(octets);
    }

    fn aside(&mut self, octets: &[u8]) {
        // Readers skip this, so nothing is lost; a new line here could look like a boundary, so there is none.
        let room = LINE_SIZE_MAX - self.aside;
        let form = self.plan.form;
        let octets = &octets[..octets.len().min(room)];
        self.out.extend(octets.iter().map(|octet| if form.takes(*octet) { *octet } else { b'?' }));
        self.aside += octets.len();
    }

    fn aside_line_end(&mut self) {
        self.out.extend_from_slice(b"\r\n");
        self.aside = 0;
    }

    fn partless(&mut self) {}
}
