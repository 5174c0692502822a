//! PLAIN (RFC 4616): one line with everything. Owns nothing.

/// What a client claims.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Claim<'a> {
    /// Whom it wants to act for; empty: itself.
    pub(super) authorization: &'a str,
    /// Who it says it is.
    pub(super) name: &'a str,
    /// How it wants to prove that.
    pub(super) password: &'a [u8],
}

/// `[authzid] NUL authcid NUL passwd`.
pub(super) fn parse(message: &[u8]) -> Option<Claim<'_>> {
    let mut parts = message.split(|octet| *octet == 0);
    let (authorization, name, password) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || name.is_empty() || password.is_empty() {
        return None;
    }
    Some(Claim { authorization: std::str::from_utf8(authorization).ok()?, name: std::str::from_utf8(name).ok()?, password })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first two are RFC 4616 section 4's.
    #[test]
    fn three_parts_and_no_more() {
        let claim = |authorization, name, password| Some(Claim { authorization, name, password });
        for (message, expected) in [
            (&b"\0tim\0tanstaaftanstaaf"[..], claim("", "tim", b"tanstaaftanstaaf")),
            (b"Ursel\0Kurt\0xipj3plmq", claim("Ursel", "Kurt", b"xipj3plmq")),
            ("\0\u{e9}\0\u{e9}".as_bytes(), claim("", "\u{e9}", "\u{e9}".as_bytes())),
            (b"\0tim\0\xff", claim("", "tim", b"\xff")),
            (b"", None),
            (b"\0", None),
            (b"tim\0secret", None),
            (b"\0\0secret", None),
            (b"\0tim\0", None),
            (b"\0tim\0secret\0", None),
            (b"\0\xff\0secret", None),
            (b"\xff\0tim\0secret", None),
        ] {
            assert_eq!(parse(message), expected, "{message:?}");
        }
    }
}
