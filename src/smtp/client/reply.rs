//! Reads a server's replies out of a byte stream, however it is cut into pieces. State: the line and the reply begun.
//!
//! Lenient where real servers are sloppy (a bare `250`, LF alone as line end, text that isn't UTF-8), strict where leniency
//! would lose step with the peer: a reply is bounded, starts with a code, and keeps to it on all its lines.

use std::fmt;

use crate::mail::{EnhancedCode, Reply};

/// Longest line taken, line end included; octets. RFC 5321 section 4.5.3.1.5 asks for 512; servers that explain themselves
/// at length go beyond.
pub const LINE_SIZE_MAX: usize = 4096;
/// Most lines of a reply.
pub const LINES_MAX: usize = 100;
/// Longest reply, all lines; octets.
pub const REPLY_SIZE_MAX: usize = 64 * 1024;

/// Why a peer's bytes are not a reply. The connection is of no use afterwards: nobody knows where the next reply starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyError {
    /// A line without end.
    LineTooLong,
    /// A reply without end.
    TooLong,
    /// A line that doesn't start with a code from 200 to 599 and then a space, a hyphen or its end.
    Malformed,
    /// A reply whose lines have different codes.
    Inconsistent,
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LineTooLong => "a line of the reply is too long",
            Self::TooLong => "the reply is too long",
            Self::Malformed => "a line of the reply has no reply code",
            Self::Inconsistent => "the lines of the reply have different codes",
        })
    }
}

impl std::error::Error for ReplyError {}

/// Collects bytes to replies.
#[derive(Debug, Default)]
pub struct Parser {
    /// The line begun.
    line: Vec<u8>,
    /// The reply begun: whole lines so far.
    begun: Option<Reply>,
    lines: usize,
    size: usize,
    failed: Option<ReplyError>,
}

impl Parser {
    /// Takes bytes off the front of `bytes` up to the end of a reply, and returns that; `None` when all bytes are taken and
    /// the reply isn't whole. After an error it says the same error again for any bytes.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Option<Result<Reply, ReplyError>> {
        while !bytes.is_empty() {
            if let Some(error) = self.failed {
                *bytes = &[];
                return Some(Err(error));
            }
            let end = bytes.iter().position(|b| *b == b'\n').map(|newline| newline + 1);
            let (piece, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            *bytes = rest;
            let result = self.receive(piece, end.is_some()).transpose();
            if let Some(Err(error)) = result {
                self.failed = Some(error);
            }
            if result.is_some() {
                return result;
            }
        }
        None
    }

    /// Whether a reply has begun and isn't whole.
    pub fn is_inside(&self) -> bool {
        self.begun.is_some() || !self.line.is_empty()
    }

    fn receive(&mut self, piece: &[u8], whole: bool) -> Result<Option<Reply>, ReplyError> {
        // The limit that is met first counts, however much comes at once.
        let (line_room, reply_room) = (LINE_SIZE_MAX - self.line.len(), REPLY_SIZE_MAX - self.size);
        if piece.len() > line_room.min(reply_room) {
            return Err(if line_room <= reply_room { ReplyError::LineTooLong } else { ReplyError::TooLong });
        }
        self.size += piece.len();
        self.line.extend_from_slice(piece);
        if !whole {
            return Ok(None);
        }
        let line = std::mem::take(&mut self.line);
        let last = self.receive_line(line.trim_ascii_end())?;
        // The next line is as likely to be short as this one: its buffer serves again.
        self.line = line;
        self.line.clear();
        if !last {
            return Ok(None);
        }
        (self.lines, self.size) = (0, 0);
        Ok(self.begun.take())
    }

    /// Whether this was the reply's last line.
    fn receive_line(&mut self, line: &[u8]) -> Result<bool, ReplyError> {
        let code = line.get(..3).and_then(parse_code).ok_or(ReplyError::Malformed)?;
        let (last, text) = match line.get(3) {
            None => (true, &line[3..]),
            Some(b' ') => (true, &line[4..]),
            Some(b'-') => (false, &line[4..]),
            Some(_) => return Err(ReplyError::Malformed),
        };
        self.lines += 1;
        if self.lines > LINES_MAX {
            return Err(ReplyError::TooLong);
        }
        match &mut self.begun {
            None => {
                let (enhanced, text) = split_enhanced(code, text);
                self.begun = Some(Reply { code, enhanced, text: readable(text) });
            }
            Some(begun) if begun.code != code => return Err(ReplyError::Inconsistent),
            Some(begun) => {
                let (enhanced, rest) = split_enhanced(code, text);
                let text = if enhanced == begun.enhanced { rest } else { text };
                begun.text.push('\n');
                begun.text.push_str(&readable(text));
            }
        }
        Ok(last)
    }
}

/// Three digits, the first from 2 to 5: servers never send 1xx (RFC 5321 section 4.2.1).
fn parse_code(digits: &[u8]) -> Option<u16> {
    let known = matches!(digits[0], b'2'..=b'5') && digits.iter().all(u8::is_ascii_digit);
    known.then(|| digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0')))
}

/// Takes the enhanced status code off the text, if there is one and its class is that of the reply.
fn split_enhanced(code: u16, text: &[u8]) -> (Option<EnhancedCode>, &[u8]) {
    let end = text.iter().position(|b| *b == b' ').unwrap_or(text.len());
    let enhanced = std::str::from_utf8(&text[..end]).ok().and_then(EnhancedCode::parse);
    match enhanced.filter(|enhanced| u16::from(enhanced.0) == code / 100) {
        Some(enhanced) => (Some(enhanced), text[end..].trim_ascii_start()),
        None => (None, text),
    }
}

/// A stranger's text for our logs and notices: valid UTF-8, no control characters.
fn readable(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(mut bytes: &[u8]) -> Vec<Result<Reply, ReplyError>> {
        let mut parser = Parser::default();
        std::iter::from_fn(|| parser.next(&mut bytes)).collect()
    }

    fn one(bytes: &[u8]) -> Result<Reply, ReplyError> {
        let mut replies = parse(bytes);
        assert_eq!(replies.len(), 1, "{:?}", String::from_utf8_lossy(bytes));
        replies.remove(0)
    }

    #[test]
    fn well_formed_and_sloppy_replies() {
        assert_eq!(one(b"250 2.1.5 Ok\r\n"), Ok(Reply::new(250, EnhancedCode(2, 1, 5), "Ok")));
        assert_eq!(one(b"250\r\n"), Ok(Reply::plain(250, "")));
        assert_eq!(one(b"250 \n"), Ok(Reply::plain(250, "")));
        assert_eq!(one(b"250-a\n250-b\n250 c\n"), Ok(Reply::plain(250, "a\nb\nc")));
        assert_eq!(
            one(b"550-5.1.1 No such\r\n550-5.1.2 other\r\n550 5.1.1 user\r\n"),
            Ok(Reply::new(550, EnhancedCode(5, 1, 1), "No such\n5.1.2 other\nuser"))
        );
        // A code of another class is no enhanced code but text.
        assert_eq!(one(b"450 5.1.1 odd\r\n"), Ok(Reply::plain(450, "5.1.1 odd")));
        assert_eq!(one(b"550 caf\xe9 \x07x\r\r\n"), Ok(Reply::plain(550, "caf\u{fffd}  x")));
    }

    #[test]
    fn what_is_no_reply_is_named() {
        for (bytes, error) in [
            (&b"hello\r\n"[..], ReplyError::Malformed),
            (b"\r\n", ReplyError::Malformed),
            (b"25\r\n", ReplyError::Malformed),
            (b"2500 x\r\n", ReplyError::Malformed),
            (b"150 x\r\n", ReplyError::Malformed),
            (b"650 x\r\n", ReplyError::Malformed),
            (b"250-a\r\n251 b\r\n", ReplyError::Inconsistent),
        ] {
            assert_eq!(one(bytes), Err(error), "{:?}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(one(&[b'2'; LINE_SIZE_MAX + 1]), Err(ReplyError::LineTooLong));
        assert_eq!(one(&b"250-x\r\n".repeat(LINES_MAX + 1)), Err(ReplyError::TooLong));
        let long = [b"250-".to_vec(), vec![b'x'; 4000], b"\r\n".to_vec()].concat();
        assert_eq!(one(&long.repeat(17)), Err(ReplyError::TooLong));
    }

    #[test]
    fn replies_follow_each_other_and_an_error_is_for_good() {
        assert_eq!(parse(b"250 a\r\n354 b\r\n250 half"), [Ok(Reply::plain(250, "a")), Ok(Reply::plain(354, "b"))]);
        let mut parser = Parser::default();
        assert_eq!(parser.next(&mut &b"x\n250 ok\r\n"[..]), Some(Err(ReplyError::Malformed)));
        assert_eq!(parser.next(&mut &b"250 ok\r\n"[..]), Some(Err(ReplyError::Malformed)));
    }

    proptest! {
        #[test]
        fn the_cut_into_pieces_never_matters(lines in prop::collection::vec("([2-5][0-9]{2}|[0-9a-z]{0,4})[ -]?[ -~\u{e9}\r]{0,12}(\r\n|\n)", 0..12), sizes in prop::collection::vec(1..9usize, 1..8)) {
            let bytes = lines.concat().into_bytes();
            let mut parser = Parser::default();
            let mut pieces = Vec::new();
            let (mut rest, mut sizes) = (&bytes[..], sizes.iter().cycle());
            while !rest.is_empty() {
                let size = (*sizes.next().unwrap()).min(rest.len());
                let (mut piece, behind) = rest.split_at(size);
                rest = behind;
                while let Some(reply) = parser.next(&mut piece) {
                    pieces.push(reply);
                }
            }
            // An error repeats with every piece behind it.
            let errors = pieces.iter().position(|reply| reply.is_err()).map_or(pieces.len(), |at| at + 1);
            pieces.truncate(errors);
            let mut whole = parse(&bytes);
            whole.truncate(whole.iter().position(|reply| reply.is_err()).map_or(whole.len(), |at| at + 1));
            prop_assert_eq!(pieces, whole);
        }
    }
}
