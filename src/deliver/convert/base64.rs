//! Base64 (RFC 2045 section 6.8): the encoder, and the mending of what claims to be it and has octets or lines that don't fit. State: the
//! octets that don't fill a line yet.

use ::base64::Engine as _;
use ::base64::engine::general_purpose::STANDARD;

/// Octets that make a line of 76.
const LINE_SIZE: usize = 57;
/// Longest line that mending leaves; lines between 76 octets and this stay as they are.
const MENDED_LINE_SIZE: usize = 900;

/// The encoder of one body.
#[derive(Debug, Default)]
pub(super) struct Base64 {
    held: Vec<u8>,
    /// A line stands there, without its end.
    begun: bool,
}

impl Base64 {
    pub(super) fn push(&mut self, mut octets: &[u8], out: &mut Vec<u8>) {
        while self.held.len() + octets.len() >= LINE_SIZE {
            let (line, rest) = octets.split_at(LINE_SIZE - self.held.len());
            self.held.extend_from_slice(line);
            octets = rest;
            self.line(out);
        }
        self.held.extend_from_slice(octets);
    }

    pub(super) fn end(mut self, out: &mut Vec<u8>) {
        if !self.held.is_empty() {
            self.line(out);
        }
    }

    fn line(&mut self, out: &mut Vec<u8>) {
        if self.begun {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(STANDARD.encode(&self.held).as_bytes());
        self.held.clear();
        self.begun = true;
    }
}

/// Mends one body that is base64 already: leaves out what doesn't fit, as readers do (RFC 2045 section 6.8), and breaks long lines.
#[derive(Debug, Default)]
pub(super) struct Mend {
    column: usize,
}

impl Mend {
    pub(super) fn push(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        for &octet in octets.iter().filter(|octet| matches!(octet, b'\t' | b' '..=b'~')) {
            // A line that begins by our doing must never look like a boundary, so it begins with what is surely data.
            if self.column >= MENDED_LINE_SIZE && octet.is_ascii_alphanumeric() {
                self.line_end(out);
            } else if self.column >= super::check::LINE_SIZE_MAX {
                continue;
            }
            out.push(octet);
            self.column += 1;
        }
    }

    pub(super) fn line_end(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\r\n");
        self.column = 0;
    }
}
