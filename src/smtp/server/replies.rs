//! What the session says when no policy was asked, as it stands on the wire without CR LF. A test holds every line to the
//! form that RFC 2034 asks for.

pub(super) const SENDER_OK: &str = "250 2.1.0 Sender ok";
pub(super) const RECIPIENT_OK: &str = "250 2.1.5 Recipient ok";
pub(super) const START_CONTENT: &str = "354 End data with <CR><LF>.<CR><LF>";
pub(super) const OK: &str = "250 2.0.0 Ok";
pub(super) const READY_FOR_TLS: &str = "220 2.0.0 Ready to start TLS";
pub(super) const NOT_VERIFIED: &str = "252 2.5.0 Not verified; send mail to it and see";
pub(super) const BYE: &str = "221 2.0.0 Bye";

pub(super) const TLS_ALREADY: &str = "503 5.5.1 TLS is on already";
pub(super) const NOT_IN_TRANSACTION: &str = "503 5.5.1 Not within a transaction; RSET ends it";
pub(super) const HELLO_FIRST: &str = "503 5.5.1 Send HELO or EHLO first";
pub(super) const LHLO_FIRST: &str = "503 5.5.1 Send LHLO first";
pub(super) const LMTP_HERE: &str = "500 5.5.1 This is LMTP; send LHLO";
pub(super) const MAIL_FIRST: &str = "503 5.5.1 Send MAIL first";
pub(super) const MAIL_NESTED: &str = "503 5.5.1 A sender was already given; RSET starts again";
pub(super) const RECIPIENT_FIRST: &str = "503 5.5.1 Send RCPT first";
pub(super) const NO_VALID_RECIPIENTS: &str = "554 5.5.1 No valid recipients";
pub(super) const NOT_OFFERED: &str = "502 5.5.1 Command not offered";
pub(super) const CHUNKS_BEGUN: &str = "503 5.5.1 The content has begun; send BDAT, or RSET";
pub(super) const CHUNKS_NEEDED: &str = "503 5.5.1 BINARYMIME needs BDAT";
pub(super) const HOLD_TOO_LONG: &str = "501 5.5.4 This server doesn't hold mail that long";
pub(super) const TOO_MANY_RECIPIENTS: &str = "452 4.5.3 Too many recipients; send the rest in another transaction";
pub(super) const TOO_LARGE: &str = "552 5.3.4 Message larger than this server takes";
pub(super) const BARE_LINE_END: &str = "554 5.6.0 Bare CR or LF in the message; lines end with CR LF";
pub(super) const HIDDEN_END: &str = "554 5.6.0 A line of NUL and a dot: some servers take it for the end of a message";
pub(super) const LINE_MALFORMED: &str = "500 5.5.2 Bare CR or LF in a command; lines end with CR LF";
pub(super) const LINE_TOO_LONG: &str = "500 5.5.2 Line too long";

pub(super) const LOGGED_IN: &str = "235 2.7.0 Authentication succeeded";
pub(super) const AUTH_CANCELLED: &str = "501 5.7.0 Authentication cancelled";
pub(super) const AUTH_ALREADY: &str = "503 5.5.1 Already authenticated";
pub(super) const AUTH_IN_TRANSACTION: &str = "503 5.5.1 AUTH is not permitted during a transaction";
pub(super) const AUTH_NOT_OFFERED: &str = "502 5.5.1 Command not offered";
pub(super) const MECHANISM_NOT_OFFERED: &str = "504 5.5.4 Authentication mechanism not offered";
pub(super) const ENCRYPTION_FIRST: &str = "538 5.7.11 Encryption required for requested authentication mechanism";
pub(super) const EHLO_FIRST: &str = "503 5.5.1 Send EHLO first";
pub(super) const BAD_BASE64: &str = "501 5.5.2 Cannot decode base64";
pub(super) const RESPONSE_TOO_LONG: &str = "500 5.5.6 Authentication exchange line is too long";

pub(super) const TOO_MANY_LOGINS: &str = "421 4.7.0 Too many failed logins; closing";
pub(super) const EARLY_TALKER: &str = "554 5.5.1 You spoke before the greeting; closing";
pub(super) const TOO_MANY_ERRORS: &str = "421 4.7.0 Too many errors; closing";
pub(super) const TOO_MANY_COMMANDS: &str = "421 4.7.0 Too many commands without a message; closing";
pub(super) const TIMED_OUT: &str = "421 4.4.2 Waited too long; closing";
pub(super) const STOPPING: &str = "421 4.3.2 Server is stopping; try again later";
pub(super) const BROKEN: &str = "451 4.3.0 Local error; try again later";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::EnhancedCode;

    #[test]
    fn every_reply_has_an_enhanced_code_of_its_class() {
        let all = [
            SENDER_OK,
            RECIPIENT_OK,
            OK,
            READY_FOR_TLS,
            NOT_OFFERED,
            TLS_ALREADY,
            NOT_IN_TRANSACTION,
            NOT_VERIFIED,
            BYE,
            HELLO_FIRST,
            LHLO_FIRST,
            LMTP_HERE,
            MAIL_FIRST,
            MAIL_NESTED,
            RECIPIENT_FIRST,
            NO_VALID_RECIPIENTS,
            CHUNKS_BEGUN,
            CHUNKS_NEEDED,
            HOLD_TOO_LONG,
            TOO_MANY_RECIPIENTS,
            TOO_LARGE,
            BARE_LINE_END,
            HIDDEN_END,
            LINE_MALFORMED,
            LINE_TOO_LONG,
            EARLY_TALKER,
            TOO_MANY_ERRORS,
            TOO_MANY_COMMANDS,
            TIMED_OUT,
            STOPPING,
            BROKEN,
            LOGGED_IN,
            AUTH_CANCELLED,
            AUTH_ALREADY,
            AUTH_IN_TRANSACTION,
            AUTH_NOT_OFFERED,
            MECHANISM_NOT_OFFERED,
            ENCRYPTION_FIRST,
            EHLO_FIRST,
            BAD_BASE64,
            RESPONSE_TOO_LONG,
            TOO_MANY_LOGINS,
        ];
        for reply in all {
            let mut words = reply.splitn(3, ' ');
            let (code, enhanced, text) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            let enhanced = EnhancedCode::parse(enhanced).unwrap();
            assert!(code.len() == 3 && code.starts_with(&enhanced.0.to_string()), "{reply}");
            assert!(text.bytes().all(|octet| (b' '..=b'~').contains(&octet)), "{reply}");
        }
        assert!(START_CONTENT.starts_with("354 "));
    }
}
