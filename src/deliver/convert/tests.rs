//! Conversion by example, and against another reader of mail: what mail-parser decodes is the same before and after.

use mail_parser::{MessageParser, MimeHeaders, PartType};
use proptest::prelude::*;

use super::check::LINE_SIZE_MAX;
use super::*;

/// The findings, and the converted form where there is one; content comes in pieces of this size.
fn convert(content: &[u8], form: Form, size: usize) -> (Findings, Option<Vec<u8>>) {
    let mut walk = Walk::new(Survey::new(form));
    content.chunks(size).for_each(|piece| walk.push(piece));
    walk.end();
    let findings = walk.visitor().findings();
    let Remedy::Plan(plan) = &findings.remedy else { return (findings, None) };
    let mut walk = Walk::new(Rewrite::new(plan.clone()));
    let mut out = Vec::new();
    for piece in content.chunks(size) {
        walk.push(piece);
        out.extend(walk.visitor().take());
    }
    walk.end();
    out.extend(walk.visitor().end());
    (findings, Some(out))
}

fn seven_bit(content: &str) -> String {
    let (findings, converted) = convert(content.as_bytes(), Form::SevenBit, 1000);
    String::from_utf8(converted.unwrap_or_else(|| panic!("{findings:?}"))).unwrap()
}

fn obstacle(content: &str) -> Obstacle {
    match convert(content.as_bytes(), Form::SevenBit, 1000).0.remedy {
        Remedy::Impossible(obstacle) => obstacle,
        other => panic!("{other:?}"),
    }
}

fn fits(content: &[u8], form: Form) -> bool {
    let text: Vec<_> = content.split(|b| *b == b'\n').collect();
    let (last, lines) = text.split_last().unwrap();
    last.is_empty()
        && lines.iter().all(|line| {
            line.strip_suffix(b"\r").is_some_and(|line| line.len() <= LINE_SIZE_MAX && line.iter().all(|b| form.takes(*b)))
        })
}

#[test]
fn a_text_becomes_quoted_printable() {
    let content = "MIME-Version: 1.0\r\nContent-Transfer-Encoding: 8bit\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n\
                   Grüße = Gruß \t\r\n.\r\n\r\nlast";
    let expected = "MIME-Version: 1.0\r\nContent-Transfer-Encoding: quoted-printable\r\nContent-Type: text/plain; charset=utf-8\r\n\
                    \r\nGr=C3=BC=C3=9Fe =3D Gru=C3=9F =09\r\n.\r\n\r\nlast\r\n";
    assert_eq!(seven_bit(content), expected);
}

#[test]
fn a_message_that_knows_no_mime_learns_it() {
    let expected = "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=unknown-8bit\r\n\
                    Content-Transfer-Encoding: quoted-printable\r\n\r\n=C3=BC\r\n";
    assert_eq!(seven_bit("Subject: x\r\n\r\nü\r\n"), expected);
}

#[test]
fn parts_are_encoded_each_in_its_way_and_the_frame_says_7bit() {
    let content = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"a b\"\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\
                   für alte Leser\r\n--a b  \r\n\r\nplain\r\n--a b\r\nContent-Type: text/html\r\n\r\n<p>ü\r\n\r\n--a b\r\n\
                   Content-Type: image/x\r\nContent-Transfer-Encoding: binary\r\n\r\nü\u{0}\r\n--a b\r\n\
                   Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\nSubject: in\r\n\r\nö\r\n--a b--\r\nende: ü\r\n";
    let expected = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"a b\"\r\nContent-Transfer-Encoding: 7bit\r\n\r\n\
                    f??r alte Leser\r\n--a b  \r\n\r\nplain\r\n--a b\r\nContent-Type: text/html\r\n\
                    Content-Transfer-Encoding: quoted-printable\r\n\r\n<p>=C3=BC\r\n\r\n--a b\r\nContent-Type: image/x\r\n\
                    Content-Transfer-Encoding: base64\r\n\r\nw7wA\r\n--a b\r\nContent-Type: message/rfc822\r\n\
                    Content-Transfer-Encoding: 7bit\r\n\r\nSubject: in\r\nMIME-Version: 1.0\r\n\
                    Content-Type: text/plain; charset=unknown-8bit\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
                    =C3=B6\r\n--a b--\r\nende: ??\r\n";
    assert_eq!(seven_bit(content), expected);
}

#[test]
fn signed_encrypted_and_partial_content_stays_as_it_is_or_has_an_obstacle() {
    for (kind, expected) in [
        ("multipart/signed; boundary=x", Obstacle::Signed),
        ("multipart/encrypted; boundary=x", Obstacle::Signed),
        ("message/partial; id=a; number=1", Obstacle::Fragment),
        ("message/delivery-status", Obstacle::Fragment),
        ("multipart/mixed", Obstacle::Malformed),
    ] {
        let content = |text: &str| format!("Content-Type: {kind}\r\n\r\n--x\r\n\r\n{text}\r\n--x--\r\n");
        assert_eq!(obstacle(&content("ü")), expected, "{kind}");
        assert_eq!(obstacle(&content(&"x".repeat(999))), expected, "{kind}");
        assert!(matches!(convert(content("u").as_bytes(), Form::SevenBit, 9).0.remedy, Remedy::Needless), "{kind}");
        // Beside a part that is converted it stays, octet for octet.
        let part = format!("--y\r\n{}--y", content("u"));
        let mixed = format!("Content-Type: multipart/mixed; boundary=y\r\n\r\n{part}\r\n\r\nü\r\n--y--\r\n");
        assert!(seven_bit(&mixed).contains(&part), "{kind}");
    }
}

#[test]
fn a_header_that_is_not_ascii_is_an_obstacle_only_for_7_bit() {
    for content in ["Subject: ü\r\n\r\n", "Content-Type: text/plain; name=ü\r\n\r\n", "X: \r\n ü\r\n\r\nü\r\n"] {
        assert_eq!(obstacle(content), Obstacle::Header);
        let findings = convert(content.as_bytes(), Form::EightBit, 1000).0;
        assert!(!findings.header_is_ascii && matches!(findings.remedy, Remedy::Needless));
    }
    let inner = "Content-Type: message/rfc822\r\n\r\nSubject: ü\r\n\r\n";
    assert!(!convert(inner.as_bytes(), Form::EightBit, 1000).0.header_is_ascii);
    let body = convert("Subject: u\r\n\r\nü".as_bytes(), Form::EightBit, 1000).0;
    assert!(body.header_is_ascii && !body.is_ascii);
    assert!(convert(format!("\r\n{}", "u".repeat(999)).as_bytes(), Form::SevenBit, 1000).0.is_ascii);
}

#[test]
fn what_cannot_be_understood_has_an_obstacle() {
    for (content, expected) in [
        ("Content-Transfer-Encoding: x-uuencode\r\n\r\nü", Obstacle::Malformed),
        ("Content-Transfer-Encoding: base64\r\nContent-Transfer-Encoding: 8bit\r\n\r\nü", Obstacle::Malformed),
        ("Content-Type: text/plain\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\nü", Obstacle::Malformed),
        // Another reader may find a boundary where we found none.
        ("Content-Type: multipart/mixed; boundary=x\r\n\r\n-- x\r\n\r\nü", Obstacle::Malformed),
        ("Content-Type: multipart/mixed; boundary=x\r\n\r\nü\r\n--x--", Obstacle::Malformed),
        ("X: a\nb\r\n\r\n", Obstacle::Malformed),
        ("X: a\u{0}b\r\n\r\n", Obstacle::Malformed),
    ] {
        assert_eq!(obstacle(content), expected, "{content}");
    }
    let long = format!("Content-Type: text/plain; x=\"{}\"\r\n\r\nü", "x\r\n ".repeat(5000));
    assert_eq!(obstacle(&long), Obstacle::Malformed);
}

#[test]
fn depth_and_number_of_parts_are_bounded() {
    let nested = |depth: usize| {
        let headers = "Content-Type: message/rfc822\r\n\r\n".repeat(depth);
        format!("{headers}Subject: x\r\n\r\nü\r\n")
    };
    assert!(seven_bit(&nested(walk::DEPTH_MAX)).ends_with("=C3=BC\r\n"));
    assert_eq!(obstacle(&nested(walk::DEPTH_MAX + 1)), Obstacle::TooComplex);
    assert_eq!(obstacle(&nested(50_000)), Obstacle::TooComplex);
    let many =
        |count: usize| format!("Content-Type: multipart/mixed; boundary=x\r\n\r\n{}\r\n\r\nü\r\n", "--x\r\n".repeat(count));
    assert!(seven_bit(&many(10_000)).ends_with("=C3=BC\r\n"));
    assert_eq!(obstacle(&many(17_000)), Obstacle::TooComplex);
}

#[test]
fn binary_becomes_8bit_where_that_is_enough() {
    let content = b"Content-Type: multipart/mixed; boundary=x\r\nContent-Transfer-Encoding: binary\r\n\r\n--x\r\n\
                    Content-Transfer-Encoding: binary\r\n\r\n\xc3\xbc\r\n--x\r\nContent-Transfer-Encoding: binary\r\n\
                    Content-Type: application/x\r\n\r\n\x00\n\xff\r\n--x\r\nContent-Transfer-Encoding: binary\r\n\r\n\xc3\xbc\ra\nb\r\n--x--\r\n";
    let expected = b"Content-Type: multipart/mixed; boundary=x\r\nContent-Transfer-Encoding: 8bit\r\n\r\n--x\r\n\
                     Content-Transfer-Encoding: 8bit\r\n\r\n\xc3\xbc\r\n--x\r\nContent-Transfer-Encoding: base64\r\n\
                     Content-Type: application/x\r\n\r\nAAr/\r\n--x\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
                     =C3=BC=0Da=0Ab\r\n--x--\r\n";
    let converted = convert(content, Form::EightBit, 1000).1.unwrap();
    assert_eq!(converted.escape_ascii().to_string(), expected.escape_ascii().to_string());
}

#[test]
fn what_is_encoded_already_but_not_well_is_mended() {
    let header = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: ";
    let long = "=C3=BC".repeat(500);
    let quoted = format!("{header}Quoted-Printable\r\n\r\nü=C3=BC=\r\n =3d \r\n{long}=\r\nx\r\n");
    let mended = seven_bit(&quoted);
    assert!(mended.starts_with(&format!("{header}Quoted-Printable\r\n\r\n=C3=BC=C3=BC=\r\n =3d \r\n=C3=BC=C3")), "{mended}");
    assert!(fits(mended.as_bytes(), Form::SevenBit));
    assert_eq!(bodies(mended.as_bytes()), bodies(quoted.as_bytes()));
    assert!(seven_bit(&format!("{header}quoted-printable\r\n\r\nü==4=a=\r\n=")).ends_with("\r\n\r\n=C3=BC==4=a=\r\n=\r\n"));
    let data = STANDARD_TEXT.repeat(100);
    let based = format!("{header}base64\r\n\r\n{data}\r\nAAAA\r\n");
    let mended = seven_bit(&based);
    assert!(fits(mended.as_bytes(), Form::SevenBit) && mended.ends_with("\r\nAAAA\r\n"));
    assert_eq!(bodies(mended.as_bytes()), bodies(based.as_bytes()));
    assert!(seven_bit(&format!("{header}base64\r\n\r\nQUü\u{0}FB\r\n")).ends_with("\r\nQUFB\r\n"));
}

const STANDARD_TEXT: &str = "R3LDvMOfZQ0KR3LDvMOfZQ0K";

#[test]
fn a_line_broken_by_us_never_looks_like_a_boundary() {
    let content = format!("Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\nü{}--x\r\n--x--\r\n", "y".repeat(69));
    let converted = seven_bit(&content);
    assert!(converted.contains("y=\r\n=2D-x\r\n--x--"), "{converted}");
}

#[tokio::test]
async fn converted_content_is_read_from_the_front_and_again() {
    let text = "Grüße\r\n".repeat(50_000);
    let content = format!("Subject: x\r\n\r\n{text}").into_bytes();
    let findings = survey(&content, Form::SevenBit).await.unwrap();
    let Remedy::Plan(plan) = findings.remedy else { panic!("{findings:?}") };
    let whole = convert(&content, Form::SevenBit, 777).1.unwrap();
    let converted = Converted::new(Arc::new(content), plan).await.unwrap();
    assert_eq!(converted.size(), whole.len() as u64);
    for _ in 0..2 {
        let mut found = Vec::new();
        while let Some(piece) = Some(converted.read_at(found.len() as u64, 10_000).await.unwrap()).filter(|p| !p.is_empty()) {
            assert!(piece.len() <= 10_000);
            found.extend(piece);
        }
        assert!(found == whole);
    }
    assert_eq!(converted.read_at(1000, 50).await.unwrap(), whole[1000..1050]);
    assert_eq!(converted.read_at(9000, 50).await.unwrap(), whole[9000..9050]);
    assert_eq!(converted.read_at(10, 50).await.unwrap(), whole[10..60]);
    assert!(converted.read_at(whole.len() as u64, 50).await.unwrap().is_empty());
}

#[tokio::test]
async fn content_that_ends_too_early_is_an_error() {
    struct Short;
    impl Content for Short {
        fn size(&self) -> u64 {
            10
        }
        fn read_at(&self, offset: u64, _: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
            Box::pin(async move { Ok(if offset == 0 { b"X: y\r\n".to_vec() } else { Vec::new() }) })
        }
    }
    assert_eq!(survey(&Short, Form::SevenBit).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

/// Every body that mail-parser finds, decoded, behind the type it has; messages within are looked into.
fn bodies(content: &[u8]) -> Vec<String> {
    fn collect(message: &mail_parser::Message<'_>, found: &mut Vec<String>) {
        for part in &message.parts {
            let kind = part.content_type().map(|kind| format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or("")));
            // A part whose lack of a type we mend is plain text either way.
            let kind = kind.unwrap_or_else(|| "text/plain".to_owned());
            match &part.body {
                PartType::Text(text) | PartType::Html(text) => found.push(format!("{kind} {text:?}")),
                PartType::Binary(octets) | PartType::InlineBinary(octets) => {
                    found.push(format!("{kind} {}", octets.escape_ascii()));
                }
                PartType::Message(within) => {
                    found.push(kind);
                    collect(within, found);
                }
                PartType::Multipart(parts) => found.push(format!("{kind} {}", parts.len())),
            }
        }
    }
    let mut found = Vec::new();
    collect(&MessageParser::default().parse(content).unwrap(), &mut found);
    found
}

/// Lines of text, some of them long, blanks at ends and signs that quoted-printable escapes included.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => "[ -~ü€\t=.]{0,90}".prop_map(String::into_bytes),
        2 => Just(b"\r\n".to_vec()),
        1 => "[a-z ]{990,1010}".prop_map(String::into_bytes),
        1 => Just(b"\r\n-".to_vec()),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

/// A leaf: the rest of its header, the empty line, its body; without final line end.
fn leaf() -> impl Strategy<Value = Vec<u8>> {
    let octets = prop::collection::vec(any::<u8>(), 0..300);
    // The parser that we compare with takes a lone LF for a line end.
    let octets = octets.prop_map(|octets| octets.into_iter().filter(|b| !matches!(b, b'\n' | b'\r' | b'-')).collect::<Vec<_>>());
    prop_oneof![
        text().prop_map(|text| [
            &b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"[..],
            &text
        ]
        .concat()),
        text().prop_map(|text| [
            &b"Content-Transfer-Encoding: 8bit\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"[..],
            &text
        ]
        .concat()),
        text().prop_map(|text| [&b"Content-Type: text/plain; charset=utf-8\r\n\r\n"[..], &text].concat()),
        octets.prop_map(
            |octets| [&b"Content-Type: application/x\r\nContent-Transfer-Encoding: binary\r\n\r\n"[..], &octets].concat()
        ),
        Just(b"Content-Type: application/x\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA\r\nBBBB".to_vec()),
        Just(
            b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=C3=BC=\r\nx"
                .to_vec()
        ),
    ]
}

/// An entity: a leaf, a multipart or a message, in all depths.
fn entity() -> impl Strategy<Value = Vec<u8>> {
    leaf().prop_recursive(4, 12, 3, |inner| {
        let parts = prop::collection::vec(inner.clone(), 1..4);
        let multipart = (parts, "[0-9]{8}", any::<bool>()).prop_map(|(parts, boundary, preamble)| {
            let mut all = format!("Content-Type: multipart/mixed; boundary=\"=_{boundary}\"\r\n").into_bytes();
            all.extend_from_slice(b"Content-Transfer-Encoding: 8bit\r\n\r\n");
            all.extend_from_slice(if preamble { "Präambel\r\n".as_bytes() } else { b"" });
            for part in parts {
                all.extend_from_slice(format!("--=_{boundary}\r\n").as_bytes());
                all.extend_from_slice(&part);
                all.extend_from_slice(b"\r\n");
            }
            all.extend_from_slice(format!("--=_{boundary}--").as_bytes());
            all
        });
        let message = inner.prop_map(|inner| {
            // A message that is nothing but a message: the parser that we compare with loses count of these.
            if inner.starts_with(b"Content-Type: message/") {
                return inner;
            }
            let header = b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: binary\r\n\r\nSubject: within\r\nMIME-Version: 1.0\r\n";
            [&header[..], &inner].concat()
        });
        prop_oneof![multipart, message]
    })
}

/// What structures are made of, and what spoils them.
const PIECES: [&[u8]; 18] = [
    b"\r\n",
    b"--x",
    b"--xy",
    b"--",
    b"\xff",
    b"\0",
    b"\n",
    b"\r",
    b"=",
    b" a",
    b"\r\n\r\n",
    &[b'y'; 700],
    b"Content-Type: multipart/mixed; boundary=x\r\n",
    b"Content-Type: multipart/digest; boundary=xy\r\n",
    b"Content-Type: message/rfc822\r\n",
    b"Content-Type: a/b\r\n",
    b"Content-Transfer-Encoding: base64\r\n",
    b"Content-Transfer-Encoding: quoted-printable\r\n",
];

proptest! {
    #[test]
    fn the_decoded_bodies_are_the_same_before_and_after(entity in entity(), seven in any::<bool>(), size in 1..2000usize) {
        let form = if seven { Form::SevenBit } else { Form::EightBit };
        let content = [&b"Subject: x\r\nMIME-Version: 1.0\r\n"[..], &entity, b"\r\n"].concat();
        let (findings, converted) = convert(&content, form, size);
        match findings.remedy {
            Remedy::Needless => prop_assert!(fits(&content, form)),
            Remedy::Plan(_) => {
                let converted = converted.unwrap();
                prop_assert!(fits(&converted, form), "{}", converted.escape_ascii());
                prop_assert_eq!(bodies(&converted), bodies(&content), "\n{}\n{}", content.escape_ascii(), converted.escape_ascii());
                let again = convert(&converted, form, size).0;
                prop_assert!(matches!(again.remedy, Remedy::Needless), "{again:?}");
                prop_assert_eq!(converted, convert(&content, form, content.len()).1.unwrap());
            }
            Remedy::Impossible(obstacle) => prop_assert!(false, "{obstacle}"),
        }
    }

    #[test]
    fn any_octets_come_out_fit_or_not_at_all(
        pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..30),
        seven in any::<bool>(),
        size in 1..50usize,
    ) {
        let form = if seven { Form::SevenBit } else { Form::EightBit };
        let content = pieces.concat();
        let (_, converted) = convert(&content, form, size);
        if let Some(converted) = &converted {
            let header = |line: &[u8]| line.len() > LINE_SIZE_MAX;
            // Long lines in headers stay.
            let long = converted.split(|b| *b == b'\n').any(header);
            prop_assert!(long || fits(converted, form), "{}\n{}", content.escape_ascii(), converted.escape_ascii());
            prop_assert!(matches!(convert(converted, form, size).0.remedy, Remedy::Needless));
        }
        prop_assert_eq!(&converted, &convert(&content, form, content.len().max(1)).1);
    }
}
