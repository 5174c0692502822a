//! Quoted-printable (RFC 2045 section 6.7): the encoder, and the mending of what claims to be it and has octets or lines that don't fit.
//! State: the column, and an octet or two that what follows decides about.

/// Octets of an encoded line before its soft line break.
const LINE_SIZE: usize = 75;
/// The same where a line only has to fit the transport: what was longer than quoted-printable allows before stays so.
const MENDED_LINE_SIZE: usize = 900;

/// Puts octets and tokens on lines.
#[derive(Debug)]
struct Writer {
    column: usize,
    size: usize,
}

impl Writer {
    fn token(&mut self, token: &[u8], out: &mut Vec<u8>) {
        let mut token = token;
        let escaped;
        if self.column + token.len() > self.size {
            out.extend_from_slice(b"=\r\n");
            self.column = 0;
            // A line that begins by our doing must never look like a boundary.
            if token == b"-" {
                escaped = escape(b'-');
                token = &escaped;
            }
        }
        out.extend_from_slice(token);
        self.column += token.len();
    }

    fn escaped(&mut self, octet: u8, out: &mut Vec<u8>) {
        self.token(&escape(octet), out);
    }

    fn line_end(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\r\n");
        self.column = 0;
    }
}

fn escape(octet: u8) -> [u8; 3] {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    [b'=', DIGITS[usize::from(octet >> 4)], DIGITS[usize::from(octet & 15)]]
}

/// The encoder of one body.
#[derive(Debug)]
pub(super) struct QuotedPrintable {
    writer: Writer,
    /// A space or tab: escaped if the line ends behind it.
    blank: Option<u8>,
}

impl Default for QuotedPrintable {
    fn default() -> Self {
        Self { writer: Writer { column: 0, size: LINE_SIZE }, blank: None }
    }
}

impl QuotedPrintable {
    /// Octets of a line: a CR or LF here is a bare one.
    pub(super) fn push(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        for &octet in octets {
            if let Some(blank) = self.blank.take() {
                self.writer.token(&[blank], out);
            }
            match octet {
                b' ' | b'\t' => self.blank = Some(octet),
                b'!'..=b'<' | b'>'..=b'~' => self.writer.token(&[octet], out),
                _ => self.writer.escaped(octet, out),
            }
        }
    }

    pub(super) fn line_end(&mut self, out: &mut Vec<u8>) {
        self.flush(out);
        self.writer.line_end(out);
    }

    pub(super) fn end(mut self, out: &mut Vec<u8>) {
        self.flush(out);
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        if let Some(blank) = self.blank.take() {
            self.writer.escaped(blank, out);
        }
    }
}

/// Mends one body that is quoted-printable already: escapes what doesn't fit and breaks lines, and changes nothing else.
#[derive(Debug)]
pub(super) struct Mend {
    writer: Writer,
    /// An escape begun: `=` and perhaps its first digit, which no line break may part.
    escape: Vec<u8>,
}

impl Default for Mend {
    fn default() -> Self {
        Self { writer: Writer { column: 0, size: MENDED_LINE_SIZE }, escape: Vec::with_capacity(3) }
    }
}

impl Mend {
    pub(super) fn push(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        for &octet in octets {
            if !self.escape.is_empty() {
                if octet.is_ascii_hexdigit() {
                    self.escape.push(octet);
                    if self.escape.len() == 3 {
                        self.flush(out);
                    }
                    continue;
                }
                self.flush(out);
            }
            match octet {
                b'=' => self.escape.push(octet),
                b'\t' | b' '..=b'~' => self.writer.token(&[octet], out),
                _ => self.writer.escaped(octet, out),
            }
        }
    }

    pub(super) fn line_end(&mut self, out: &mut Vec<u8>) {
        self.flush(out);
        self.writer.line_end(out);
    }

    pub(super) fn end(mut self, out: &mut Vec<u8>) {
        self.flush(out);
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        if !self.escape.is_empty() {
            self.writer.token(&self.escape, out);
            self.escape.clear();
        }
    }
}
