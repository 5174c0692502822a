//! Makes strangers' words fit to print: no control characters, bounded, wrapped.

/// Width of wrapped lines (RFC 5322 section 2.1.1 recommends 78).
const WIDTH: usize = 76;
/// Words longer than this are broken, come what may: a line has at most 998 octets.
const WORD_MAX: usize = 200;

/// One line of text: runs of control characters and white space become single spaces; cut after `count_max` characters.
pub(super) fn clean(text: &str, count_max: usize) -> String {
    let mut clean = String::with_capacity(text.len().min(4 * count_max));
    let printable = text.split(|c: char| c.is_whitespace() || c.is_control() || is_invisible(c));
    for word in printable.filter(|word| !word.is_empty()) {
        if !clean.is_empty() {
            clean.push(' ');
        }
        clean.push_str(word);
        if clean.len() > 4 * count_max {
            break;
        }
    }
    if clean.chars().count() > count_max {
        clean = clean.chars().take(count_max.saturating_sub(1)).collect();
        clean.push('…');
    }
    clean
}

/// Characters that turn the direction of text or hide in it.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// The same in printable ASCII; what isn't becomes a question mark.
pub(super) fn ascii(text: &str, count_max: usize) -> String {
    clean(text, count_max).chars().map(|c| if c.is_ascii() { c } else { '?' }).collect()
}

/// Appends a paragraph, or one for each of its lines, wrapped, each line behind `indent` and ended by CRLF.
pub(super) fn wrap(out: &mut String, indent: &str, text: &str) {
    for line in text.split('\n') {
        fill(out, indent, indent, line);
        out.push_str("\r\n");
    }
}

/// Appends a field of a machine-readable part: `name: value`, folded, ended by CRLF. The value is our own, or cleaned.
pub(super) fn field(out: &mut String, name: &str, value: &str) {
    fill(out, &format!("{name}: "), "    ", value);
    out.push_str("\r\n");
}

fn fill(out: &mut String, first: &str, further: &str, text: &str) {
    out.push_str(first);
    let mut column = first.len();
    let mut fresh = true;
    for (at, word) in text.split(' ').enumerate() {
        for (piece_at, piece) in pieces(word).enumerate() {
            let space = usize::from(at > 0 && piece_at == 0);
            let width: usize = piece.chars().map(width).sum();
            if !fresh && column + space + width > WIDTH {
                out.push_str("\r\n");
                out.push_str(further);
                column = further.len();
            } else if !fresh && space > 0 {
                out.push(' ');
                column += 1;
            }
            out.push_str(piece);
            column += width;
            fresh = false;
        }
    }
}

/// What a word may be broken into: endless ones after a bounded length, and scripts that write without spaces before each wide
/// character, except one that ends something.
fn pieces(word: &str) -> impl Iterator<Item = &str> {
    let mut rest = word;
    let mut begun = false;
    std::iter::from_fn(move || {
        if rest.is_empty() && begun {
            return None;
        }
        begun = true;
        let mut before = None;
        let end = rest.char_indices().enumerate().find(|(count, (_, c))| {
            let breaks = before.is_some_and(|before| may_break(before, *c));
            before = Some(*c);
            breaks || *count == WORD_MAX
        });
        let (piece, behind) = rest.split_at(end.map_or(rest.len(), |(_, (at, _))| at));
        rest = behind;
        Some(piece)
    })
}

/// Whether a line may end between two characters without a space between them.
fn may_break(before: char, c: char) -> bool {
    let ends = matches!(
        c,
        '、' | '。' | '，' | '．' | '：' | '；' | '！' | '？' | '）' | '」' | '』' | '】' | 'ー' | 'っ' | 'ッ' | '々'
    );
    let opens = matches!(before, '（' | '「' | '『' | '【');
    (width(before) == 2 || width(c) == 2) && !ends && !opens
}

/// Columns that a character takes: two in scripts that write without spaces.
fn width(c: char) -> usize {
    if matches!(c, '\u{1100}'..='\u{115f}' | '\u{2e80}'..='\u{a4cf}' | '\u{ac00}'..='\u{d7a3}' | '\u{f900}'..='\u{faff}' | '\u{fe30}'..='\u{fe4f}' | '\u{ff00}'..='\u{ff60}' | '\u{ffe0}'..='\u{ffe6}' | '\u{20000}'..='\u{3fffd}')
    {
        2
    } else {
        1
    }
}

/// Whether octets may go out as they are: ASCII, lines ended by CRLF and not too long, no other control character but tab.
pub(super) fn is_plain(bytes: &[u8]) -> bool {
    bytes.split_inclusive(|b| *b == b'\n').all(|line| {
        let text = line.strip_suffix(b"\r\n");
        text.is_some_and(|text| text.len() <= 998 && text.iter().all(|b| matches!(b, b'\t' | b' '..=b'~')))
    })
}

/// Octets made plain by force.
pub(super) fn to_plain(bytes: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    let mut plain = String::new();
    for line in text.lines() {
        wrap(&mut plain, "", &ascii(line, 2000));
    }
    plain.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cleaned_and_cut() {
        assert_eq!(clean("550 no\r\nBcc: x\0y\u{202e}z\t ", 100), "550 no Bcc: x y z");
        assert_eq!(clean("abcdef", 4), "abc…");
        assert_eq!(clean(&"é".repeat(10_000), 5).chars().count(), 5);
        assert_eq!(ascii("no füll\n", 100), "no f?ll");
    }

    #[test]
    fn lines_are_wrapped_and_endless_words_broken() {
        let mut out = String::new();
        wrap(&mut out, "    ", &"word ".repeat(40));
        assert!(out.ends_with("\r\n"));
        assert!(out.split("\r\n").all(|line| line.len() <= 78 && (line.is_empty() || line.starts_with("    w"))), "{out}");
        let mut out = String::new();
        field(&mut out, "Diagnostic-Code", &format!("smtp; {}", "x".repeat(5000)));
        assert!(out.trim_end().split("\r\n").skip(1).all(|line| line.starts_with("    ") && line.len() < 998), "{out}");
    }

    #[test]
    fn japanese_is_wrapped_without_spaces_and_no_line_begins_with_a_full_stop() {
        let sentence = "お送りになったメールは ann@example.test に配信できませんでした。";
        let mut out = String::new();
        wrap(&mut out, "  ", &sentence.repeat(8));
        let lines: Vec<&str> = out.trim_end().split("\r\n  ").collect();
        assert!(lines.len() > 5, "{out}");
        for line in &lines {
            let columns: usize = line.chars().map(width).sum();
            assert!((50..=78).contains(&columns) || line == lines.last().unwrap(), "{columns}: {line}");
            assert!(!line.starts_with('。'), "{out}");
        }
        assert_eq!(lines.concat().replace(' ', ""), sentence.repeat(8).replace(' ', ""));
    }

    #[test]
    fn lines_of_a_text_stay_apart() {
        let mut out = String::new();
        wrap(&mut out, "> ", "a b\n\nc");
        assert_eq!(out, "> a b\r\n> \r\n> c\r\n");
    }

    #[test]
    fn plain_is_ascii_in_crlf_lines() {
        assert!(is_plain(b"a: b\r\n\tc\r\n"));
        assert!(is_plain(b""));
        for bytes in [&b"a"[..], b"a\n", b"a\rb\r\n", b"\xe9\r\n", b"\0\r\n", &[b'x'; 1100]] {
            assert!(!is_plain(bytes), "{bytes:?}");
            assert!(is_plain(&to_plain(bytes)), "{bytes:?}");
        }
    }
}
