//! Lines and what they are, right and wrong.

use super::*;
use crate::mail::{DeliverBy, DeliverByMode, EnvelopeId, Hold, Priority, Ret};

fn parse(line: &str) -> Result<Command, CommandError> {
    Command::parse(line.as_bytes(), Parameters::default())
}

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

fn mail(path: &str, size: Option<u64>, body: BodyType) -> Command {
    Command::Mail(Mail { path: ReversePath::try_from(path.to_owned()).unwrap(), size, body, request: None })
}

/// The enhanced code that a line is refused with; empty if it is a command.
fn refusal(line: &str) -> String {
    parse(line).err().map(|error| error.reply()).map_or(String::new(), |r| format!("{} {}", r.code, r.enhanced.unwrap()))
}

#[test]
fn commands_in_any_case_and_with_trailing_space() {
    for (line, command) in [
        ("DATA", Command::Data),
        ("data  ", Command::Data),
        ("rSeT", Command::Rset),
        ("QUIT\t", Command::Quit),
        ("NOOP", Command::Noop),
        ("NOOP whatever <it> says", Command::Noop),
        ("HELP", Command::Help),
        ("help me", Command::Help),
        ("VRFY ann", Command::Vrfy),
        ("MAIL FROM:<>", mail("", None, BodyType::SevenBit)),
        ("mail from:<a@b.test> ", mail("a@b.test", None, BodyType::SevenBit)),
        ("MAIL FROM: <a@b.test>", mail("a@b.test", None, BodyType::SevenBit)),
        ("MAIL  FROM:<a@b.test>", mail("a@b.test", None, BodyType::SevenBit)),
        ("MAIL FROM:<a@b.test>  size=12  BODY=8bitmime", mail("a@b.test", Some(12), BodyType::EightBitMime)),
        ("MAIL FROM:<a@b.test> BODY=7BIT SIZE=0", mail("a@b.test", Some(0), BodyType::SevenBit)),
        ("MAIL FROM:<a@b.test> SIZE=99999999999999999999", mail("a@b.test", Some(u64::MAX), BodyType::SevenBit)),
    ] {
        assert_eq!(parse(line), Ok(command), "{line:?}");
    }
}

#[test]
fn forward_paths_are_what_remains_without_the_route() {
    for (path, expected) in [
        ("<ann@example.test>", "ann@example.test"),
        ("<Ann@Example.TEST>", "Ann@example.test"),
        ("<\"ann\"@example.test>", "ann@example.test"),
        ("<\"a > b\"@example.test>", "\"a > b\"@example.test"),
        ("<\"a\\\">\\\\\"@example.test>", "\"a\\\">\\\\\"@example.test"),
        ("<\"x@other.test\"@example.test>", "\"x@other.test\"@example.test"),
        ("<x%other.test@example.test>", "x%other.test@example.test"),
        ("<other.test!x@example.test>", "other.test!x@example.test"),
        ("<@a.test:x@b.test>", "x@b.test"),
        ("<@a.test,@b.test:x@c.test>", "x@c.test"),
        ("<@[IPv6:2001:db8::1],@[192.0.2.1]:x@c.test>", "x@c.test"),
        ("<x@[192.0.2.1]>", "x@[192.0.2.1]"),
        ("<x@[IPv6:2001:db8::1]>", "x@[IPv6:2001:db8::1]"),
        ("<postmaster@example.test>", "postmaster@example.test"),
    ] {
        let expected = Command::Rcpt { path: ForwardPath::Address(address(expected)), dsn: None, utf8: false };
        assert_eq!(parse(&format!("RCPT TO:{path}")), Ok(expected), "{path}");
    }
    assert_eq!(parse("RCPT TO:<PostMaster>"), Ok(Command::Rcpt { path: ForwardPath::Postmaster, dsn: None, utf8: false }));
}

#[test]
fn every_mistake_has_its_code() {
    let long = format!("EHLO {}", "a.".repeat(130));
    for (line, code) in [
        ("", "500 5.5.2"),
        (" NOOP", "500 5.5.2"),
        ("NO\0OP", "500 5.5.2"),
        ("MAIL\tFROM:<a@b.test>", "500 5.5.2"),
        ("FOO", "500 5.5.1"),
        ("MAILFROM:<a@b.test>", "500 5.5.1"),
        ("é", "500 5.5.1"),
        ("STARTTLS now", "501 5.5.4"),
        ("AUTH", "501 5.5.4"),
        ("AUTH CRAM-MD5", "504 5.5.4"),
        ("AUTH PLAIN x", "501 5.5.2"),
        ("AUTH PLAIN AGEAYg== x", "501 5.5.2"),
        ("AUTH PLAIN  AGEAYg==", "501 5.5.2"),
        ("AUTH PLAIN ==", "501 5.5.2"),
        ("BDAT", "501 5.5.4"),
        ("BDAT x", "501 5.5.4"),
        ("BDAT -1", "501 5.5.4"),
        ("BDAT 5 FIRST", "501 5.5.4"),
        ("BDAT 5 LAST LAST", "501 5.5.4"),
        ("BDAT 99999999999999999999", "501 5.5.4"),
        ("EXPN list", "502 5.5.1"),
        ("GET / HTTP/1.1", "554 5.5.1"),
        ("post / HTTP/1.1", "554 5.5.1"),
        ("Subject: x", "554 5.5.1"),
        ("DATA now", "501 5.5.4"),
        ("RSET x", "501 5.5.4"),
        ("QUIT x", "501 5.5.4"),
        ("VRFY", "501 5.5.4"),
        ("VRFY é", "553 5.6.7"),
        ("HELO", "501 5.5.4"),
        ("EHLO", "501 5.5.4"),
        ("EHLO a b", "501 5.5.4"),
        ("EHLO a..b", "501 5.5.4"),
        ("EHLO <a>", "501 5.5.4"),
        ("EHLO é", "501 5.5.4"),
        ("EHLO [1.2.3]", "501 5.5.4"),
        ("EHLO [:x]", "501 5.5.4"),
        ("EHLO [a:]", "501 5.5.4"),
        (&long, "501 5.5.4"),
    ] {
        assert_eq!(refusal(line), code, "{line:?}");
    }
}

#[test]
fn every_mistake_in_a_path_or_parameter_has_its_code() {
    for (line, code) in [
        ("MAIL", "501 5.5.4"),
        ("MAIL a@b.test", "501 5.5.4"),
        ("MAIL FROM", "501 5.5.4"),
        ("MAIL FROM:", "501 5.5.4"),
        ("MAIL FROM:a@b.test", "501 5.5.4"),
        ("MAIL FROM:<a@b.test", "501 5.5.4"),
        ("MAIL FROM:<a@b.test>>", "501 5.5.4"),
        ("MAIL FROM:<a@b.test>SIZE=1", "501 5.5.4"),
        ("MAIL FROM :<a@b.test>", "501 5.5.4"),
        ("MAIL TO:<a@b.test>", "501 5.5.4"),
        ("MAIL FROM:<\"a@b.test>", "501 5.5.4"),
        ("MAIL FROM:<a>", "501 5.1.7"),
        ("MAIL FROM:<postmaster>", "501 5.1.7"),
        ("MAIL FROM:< >", "501 5.1.7"),
        ("MAIL FROM:<a@>", "501 5.1.7"),
        ("MAIL FROM:<a b@c.test>", "501 5.1.7"),
        ("MAIL FROM:<é@b.test>", "553 5.6.7"),
        ("MAIL FROM:<a@é.test>", "553 5.6.7"),
        ("MAIL FROM:<a@b.test> é", "501 5.5.4"),
        ("MAIL FROM:<a@b.test> SIZE", "501 5.5.4"),
        ("MAIL FROM:<a@b.test> SIZE=", "501 5.5.4"),
        ("MAIL FROM:<a@b.test> SIZE=-1", "501 5.5.4"),
        ("MAIL FROM:<a@b.test> SIZE=+1", "501 5.5.4"),
        ("MAIL FROM:<a@b.test> SIZE=1=2", "501 5.5.4"),
        ("MAIL FROM:<a@b.test> SIZE=999999999999999999999", "501 5.5.4"),
        ("MAIL FROM:<a@b.test> SIZE=1 SIZE=1", "501 5.5.4"),
        ("MAIL FROM:<a@b.test> BODY=BINARYMIME", "501 5.5.4"),
        ("MAIL FROM:<a@b.test> BODY", "501 5.5.4"),
        ("MAIL FROM:<a@b.test> =1", "501 5.5.4"),
        ("MAIL FROM:<a@b.test> -X=1", "501 5.5.4"),
        ("MAIL FROM:<a@b.test> X_Y=1", "501 5.5.4"),
        ("MAIL FROM:<a@b.test> SMTPUTF8", "555 5.5.4"),
        ("MAIL FROM:<a@b.test> RET=HDRS", "555 5.5.4"),
        ("RCPT TO", "501 5.5.4"),
        ("RCPT TO:ann@example.test", "501 5.5.4"),
        ("RCPT TO:<>", "501 5.1.3"),
        ("RCPT TO:<ann>", "501 5.1.3"),
        ("RCPT TO:<\"postmaster\">", "501 5.1.3"),
        ("RCPT TO:<a@b@c.test>", "501 5.1.3"),
        ("RCPT TO:<@a.test>", "501 5.1.3"),
        ("RCPT TO:<@a.test,b.test:x@c.test>", "501 5.1.3"),
        ("RCPT TO:<@:x@c.test>", "501 5.1.3"),
        ("RCPT TO:<@a.test:>", "501 5.1.3"),
        ("RCPT TO:<@a.test:@b.test:x@c.test>", "501 5.1.3"),
        ("RCPT TO:<a.test:x@c.test>", "501 5.1.3"),
        ("RCPT TO:<ann@exa mple.test>", "501 5.1.3"),
        ("RCPT TO:<ann@[192.0.2.999]>", "501 5.1.3"),
        ("RCPT TO:<\u{fc}@c.test>", "553 5.6.7"),
        ("RCPT TO:<a@c.test> NOTIFY=NEVER", "555 5.5.4"),
        ("RCPT TO:<a@c.test> =", "501 5.5.4"),
    ] {
        assert_eq!(refusal(line), code, "{line:?}");
    }
}

#[test]
fn names_in_hello() {
    for name in
        ["client.test", "localhost", "under_score.test", "dot.test.", "[192.0.2.1]", "[IPv6:2001:db8::1]", "[IPv6:fe80::1%eth0]"]
    {
        assert_eq!(parse(&format!("EHLO {name}")), Ok(Command::Hello { name: name.to_owned(), extended: true }));
        assert_eq!(parse(&format!("HELO {name}")), Ok(Command::Hello { name: name.to_owned(), extended: false }));
    }
}

fn asks(parameters: &str) -> Request {
    match Command::parse(format!("MAIL FROM:<a@b.test> {parameters}").as_bytes(), Parameters::ALL) {
        Ok(Command::Mail(mail)) => mail.request.map(|request| *request).unwrap_or_default(),
        other => panic!("{parameters}: {other:?}"),
    }
}

#[test]
fn what_parameters_ask_for_is_kept() {
    let everything = asks("SMTPUTF8 REQUIRETLS RET=FULL ENVID=a+20b BY=-5;NT HOLDFOR=60 MT-PRIORITY=-3 AUTH=<>");
    let expected = Request {
        smtputf8: true,
        require_tls: true,
        ret: Some(Ret::Full),
        envid: EnvelopeId::new("a b"),
        deliver_by: Some(DeliverBy { seconds: -5, mode: DeliverByMode::Notify, trace: true, told: false }),
        hold: Some(Hold::For(60)),
        priority: Priority::new(-3),
    };
    assert_eq!(everything, expected);
    // What ordinary mail has takes no room.
    assert_eq!(asks("SIZE=5 BODY=8BITMIME MT-PRIORITY=0 AUTH=ann@example.test"), Request::default());
    assert_eq!(asks("HOLDUNTIL=1970-01-01T00:00:01.5Z").hold, Some(Hold::Until(crate::mail::Timestamp::from_millis(1000))));
}

#[test]
fn an_unknown_or_malformed_parameter_is_refused_even_if_all_are_offered() {
    for (parameters, code) in [
        ("X=1", 555),
        ("REQUIRETLS=1", 501),
        ("AUTH", 501),
        ("AUTH=<> AUTH=<>", 501),
        ("AUTH=a+b", 501),
        ("NOTIFY=NEVER", 555),
        ("ENVID=é", 501),
        ("SMTPUTF8=é", 501),
    ] {
        let line = format!("MAIL FROM:<a@b.test> {parameters}");
        let error = Command::parse(line.as_bytes(), Parameters::ALL).expect_err(parameters);
        assert_eq!(error.reply().code, code, "{parameters}");
    }
}
