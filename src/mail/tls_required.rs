//! The header field TLS-Required (RFC 8689 section 3): its sender would rather have the message arrive than have it secret. Owns nothing.

use super::fields;

/// Whether a header has the field with its one value. More than one may not be there, and then says nothing.
pub fn tls_is_optional(header: &[u8]) -> bool {
    let mut given = fields(header).filter(|field| field.is("TLS-Required"));
    match (given.next(), given.next()) {
        (Some(field), None) => without_comments(field.value).trim_ascii().eq_ignore_ascii_case(b"No"),
        _ => false,
    }
}

/// The text outside of parentheses, which may stand in each other (RFC 5322 section 3.2.2).
fn without_comments(value: &[u8]) -> Vec<u8> {
    let mut depth = 0_usize;
    let mut quoted = false;
    let mut text = Vec::new();
    for octet in value {
        match (octet, quoted) {
            (b'\\', false) if depth > 0 => {
                quoted = true;
                continue;
            }
            (b'(', false) => depth += 1,
            (b')', false) if depth > 0 => depth -= 1,
            _ if depth == 0 => text.push(*octet),
            _ => {}
        }
        quoted = false;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_field_that_says_no_says_it() {
        for (header, optional) in [
            ("TLS-Required: No\r\n", true),
            ("Subject: x\r\ntls-required:no\r\n\r\n", true),
            ("TLS-Required: (it (is)\r\n a \\) report) No (really)\r\n", true),
            ("TLS-Required: Yes\r\n", false),
            ("TLS-Required: No, thanks\r\n", false),
            ("TLS-Required: (No)\r\n", false),
            ("TLS-Required:\r\n", false),
            ("TLS-Required: No\r\nTLS-Required: No\r\n", false),
            ("Subject: x\r\n\r\nTLS-Required: No\r\n", false),
        ] {
            assert_eq!(tls_is_optional(header.as_bytes()), optional, "{header}");
        }
    }
}
