//! What a server offers in its reply to EHLO, as far as we make use of it.

use crate::mail::Reply;

/// The extensions that change what we say. Those of a server that only knows HELO are all absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// 8BITMIME (RFC 6152).
    pub eight_bit_mime: bool,
    /// SIZE (RFC 1870).
    pub size: bool,
    /// SIZE's argument: octets of the largest message; none where the server names no limit.
    pub size_max: Option<u64>,
}

impl Extensions {
    /// Reads them out of the reply to EHLO or LHLO: keywords without regard to case, one a line, from the second line on.
    pub fn parse(reply: &Reply) -> Self {
        let mut extensions = Self::default();
        for line in reply.text.split('\n').skip(1) {
            let mut words = line.split_ascii_whitespace();
            let keyword = words.next().unwrap_or("");
            if keyword.eq_ignore_ascii_case("PIPELINING") {
                extensions.pipelining = true;
            } else if keyword.eq_ignore_ascii_case("8BITMIME") {
                extensions.eight_bit_mime = true;
            } else if keyword.eq_ignore_ascii_case("SIZE") {
                extensions.size = true;
                // Zero means that there is no fixed limit; a number that can't be read is no limit either.
                extensions.size_max = words.next().and_then(|size| size.parse().ok()).filter(|size| *size > 0);
            }
        }
        extensions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_read_without_regard_to_case() {
        let parse = |text: &str| Extensions::parse(&Reply::plain(250, text));
        let all = Extensions { pipelining: true, eight_bit_mime: true, size: true, size_max: Some(1000) };
        assert_eq!(parse("mx.test\nPIPELINING\nSIZE 1000\n8BITMIME\nHELP"), all);
        assert_eq!(parse("mx.test\npipelining\nsize 1000\n8BitMime"), all);
        assert_eq!(parse("PIPELINING\nX"), Extensions::default(), "the first line is the server's name");
        for unlimited in ["mx\nSIZE", "mx\nSIZE 0", "mx\nSIZE 99999999999999999999999", "mx\nSIZE big"] {
            assert_eq!(parse(unlimited), Extensions { size: true, ..Extensions::default() }, "{unlimited}");
        }
    }
}
