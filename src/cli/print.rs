//! What is printed: aligned tables, sizes and ages for people, JSON lines, and nothing that could move a terminal's cursor.

use std::io::{self, BufWriter, Write};
use std::time::Duration;

use serde::Serialize;

use super::may_colour;
use crate::mail::{MessageState, Timestamp};

/// Rows that a table looks at to find its widths; later rows keep them, so that a long listing never is whole in memory.
const MEASURED_MAX: usize = 1000;
/// Widest column, except the last; longer cells push theirs to the right.
const WIDTH_MAX: usize = 60;
/// Where the lines after a row's first begin, when a terminal is too narrow for all columns side by side.
const INDENT: usize = 4;

/// Standard output, or a buffer in tests.
pub(super) struct Out<'a> {
    sink: Box<dyn Write + 'a>,
    colour: bool,
    /// Columns of the terminal, if it is one: rows are folded there. Programs always get a row a line.
    width: Option<usize>,
}

impl<'a> Out<'a> {
    /// Standard output; colours only for a terminal.
    pub(super) fn standard() -> Self {
        let stdout = io::stdout();
        let colour = may_colour(&stdout);
        let width = rustix::termios::tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col)).filter(|width| *width > 0);
        Self { sink: Box::new(BufWriter::with_capacity(64 * 1024, stdout)), colour, width }
    }

    /// Somewhere else, without colours.
    #[cfg(test)]
    pub(super) fn to(sink: impl Write + 'a) -> Self {
        Self { sink: Box::new(sink), colour: false, width: None }
    }

    /// One line; whatever strangers wrote in it is made harmless.
    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.sink, "{}", shown(text))
    }

    /// One JSON document a line.
    pub(super) fn json(&mut self, document: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.sink, document).map_err(io::Error::from)?;
        self.sink.write_all(b"\n")
    }

    /// Where bytes go as they are.
    pub(super) fn raw(&mut self) -> &mut dyn Write {
        &mut self.sink
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }

    /// The beginning and end of a colour, if there are colours.
    fn paint(&self, colour: Colour) -> (&'static str, &'static str) {
        let begin = match colour {
            Colour::Plain => "",
            Colour::Bold => "\x1b[1m",
            Colour::Green => "\x1b[32m",
            Colour::Yellow => "\x1b[33m",
            Colour::Red => "\x1b[31m",
        };
        if self.colour && !begin.is_empty() { (begin, "\x1b[0m") } else { ("", "") }
    }
}

/// How a cell looks on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Plain,
    Bold,
    Green,
    Yellow,
    Red,
}

/// The colour of a message's state.
pub(super) fn state_colour(state: MessageState) -> Colour {
    match state {
        MessageState::Active => Colour::Green,
        MessageState::Deferred => Colour::Yellow,
        MessageState::Held => Colour::Red,
    }
}

/// A cell of a table.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    text: String,
    colour: Colour,
    right: bool,
}

impl Cell {
    pub(super) fn new(text: impl AsRef<str>) -> Self {
        Self { text: shown(text.as_ref()), colour: Colour::Plain, right: false }
    }

    /// A number: aligned to the right.
    pub(super) fn number(text: impl AsRef<str>) -> Self {
        Self { right: true, ..Self::new(text) }
    }

    pub(super) fn colour(mut self, colour: Colour) -> Self {
        self.colour = colour;
        self
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

/// A table that prints itself as its rows come.
pub(super) struct Table {
    rows: Vec<Vec<Cell>>,
    widths: Vec<usize>,
    /// For each column, whether it begins a line of its own.
    folds: Vec<bool>,
    columns: usize,
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Self {
        let head: Vec<Cell> = head.iter().map(|name| Cell::new(name).colour(Colour::Bold)).collect();
        Self { columns: head.len(), rows: vec![head], widths: Vec::new(), folds: Vec::new() }
    }

    /// Adds a row; it may be printed at once.
    pub(super) fn row(&mut self, out: &mut Out<'_>, row: Vec<Cell>) -> io::Result<()> {
        if self.widths.is_empty() {
            self.rows.push(row);
            if self.rows.len() > MEASURED_MAX {
                self.measured(out)?;
            }
            return Ok(());
        }
        self.write(out, &row)
    }

    /// Prints what is left. A table without rows prints nothing.
    pub(super) fn end(mut self, out: &mut Out<'_>) -> io::Result<()> {
        if self.widths.is_empty() && self.rows.len() > 1 {
            self.measured(out)?;
        }
        Ok(())
    }

    fn measured(&mut self, out: &mut Out<'_>) -> io::Result<()> {
        let rows = std::mem::take(&mut self.rows);
        let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(Cell::width).max().unwrap_or(0);
        self.widths = (0..self.columns).map(|column| width(column).min(WIDTH_MAX)).collect();
        self.folds = folds(&self.widths, out.width);
        // The head of a column of numbers stands over their ends.
        let right: Vec<bool> = rows.get(1).map(|row| row.iter().map(|cell| cell.right).collect()).unwrap_or_default();
        for (at, mut row) in rows.into_iter().enumerate() {
            if at == 0 {
                row.iter_mut().zip(&right).for_each(|(cell, right)| cell.right = *right);
            }
            self.write(out, &row)?;
        }
        Ok(())
    }

    fn write(&self, out: &mut Out<'_>, row: &[Cell]) -> io::Result<()> {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let folded = self.folds.get(column) == Some(&true);
            if folded {
                writeln!(out.sink, "{}", line.trim_end())?;
                line = " ".repeat(INDENT);
            }
            let last = column + 1 == row.len();
            let padding = " ".repeat(self.widths.get(column).copied().unwrap_or(0).saturating_sub(cell.width()));
            let (begin, end) = out.paint(cell.colour);
            // Numbers stand right below each other; at the beginning of a folded line they would only be far away.
            let right = cell.right && !folded;
            if right {
                line.push_str(&padding);
            }
            line.push_str(begin);
            line.push_str(&cell.text);
            line.push_str(end);
            if !last {
                if !right {
                    line.push_str(&padding);
                }
                line.push_str("  ");
            }
        }
        writeln!(out.sink, "{}", line.trim_end())
    }
}

/// Which columns begin a line of their own, so that no line is wider than the terminal if that can be helped.
fn folds(widths: &[usize], width: Option<usize>) -> Vec<bool> {
    let mut end = 0;
    let fold = |(column, cell): (usize, &usize)| {
        let beside = if column == 0 { *cell } else { end + 2 + cell };
        let folded = column > 0 && width.is_some_and(|width| beside > width);
        end = if folded { INDENT + cell } else { beside };
        folded
    };
    widths.iter().enumerate().map(fold).collect()
}

/// A text with everything escaped that is no printable ASCII and no letter or digit: strangers' words can't move the cursor,
/// end a line or change the direction of what follows. Spaces and the punctuation of other scripts stay.
pub(super) fn shown(text: &str) -> String {
    let harmless = |c: char| matches!(c, ' '..='~') || (!c.is_ascii() && !c.is_control() && !is_format(c));
    if text.chars().all(harmless) {
        return text.to_owned();
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            c if harmless(c) => safe.push(c),
            '\t' => safe.push(' '),
            c => safe.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
        }
    }
    safe
}

/// Characters that change how others are shown: line and paragraph separators, directions, joiners, tags.
fn is_format(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff0}'..='\u{ffff}' | '\u{e0000}'..='\u{e0fff}')
}

/// A text as one word of a shell command.
pub(super) fn shell(text: &str) -> String {
    let plain = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c));
    if plain { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// `1234` → `1.2 KiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// The two largest units: `3d4h`, `5m`, `12s`.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let parts = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    match parts.iter().position(|(count, _)| *count > 0) {
        None => "0s".to_owned(),
        Some(first) => {
            let (count, unit) = parts[first];
            match parts.get(first + 1) {
                // Seconds beside ten minutes are noise.
                Some((rest, small)) if *rest > 0 && (*small != "s" || count < 10) => format!("{count}{unit}{rest}{small}"),
                _ => format!("{count}{unit}"),
            }
        }
    }
}

/// How long it is until a time: `now` or `in 5m`.
pub(super) fn until(time: Timestamp, now: Timestamp) -> String {
    let wait = time.since(now);
    if wait < Duration::from_secs(1) { "now".to_owned() } else { format!("in {}", self::duration(wait)) }
}

/// `1 message`, `3 messages`.
pub(super) fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_numbers_stand_right() {
        let mut bytes = Vec::new();
        let mut out = Out::to(&mut bytes);
        let mut table = Table::new(&["NAME", "COUNT", "WORDS"]);
        table.row(&mut out, vec![Cell::new("a"), Cell::number("5"), Cell::new("x")]).unwrap();
        table.row(&mut out, vec![Cell::new("longer"), Cell::number("1234567"), Cell::new("é\x1b[2J\r\n")]).unwrap();
        table.end(&mut out).unwrap();
        Table::new(&["NONE"]).end(&mut out).unwrap();
        drop(out);
        let expected = "NAME      COUNT  WORDS\na             5  x\nlonger  1234567  é\\u{1b}[2J\\u{d}\\u{a}\n";
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn long_tables_keep_the_widths_of_their_beginning() {
        let mut bytes = Vec::new();
        let mut out = Out::to(&mut bytes);
        let mut table = Table::new(&["N", "X"]);
        for number in 0..MEASURED_MAX + 5 {
            table.row(&mut out, vec![Cell::new(number.to_string()), Cell::new("x")]).unwrap();
        }
        table.end(&mut out).unwrap();
        drop(out);
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.lines().count(), MEASURED_MAX + 6);
        assert_eq!(text.lines().last(), Some("1004  x"));
    }

    #[test]
    fn a_narrow_terminal_folds_rows_between_columns() {
        let mut bytes = Vec::new();
        let mut out = Out { sink: Box::new(&mut bytes), colour: false, width: Some(12) };
        let mut table = Table::new(&["ID", "SIZE", "SENDER", "REPLY"]);
        table.row(&mut out, vec![Cell::new("one"), Cell::number("12 B"), Cell::new("<a@x>"), Cell::new("busy")]).unwrap();
        table.end(&mut out).unwrap();
        drop(out);
        assert_eq!(String::from_utf8(bytes).unwrap(), "ID   SIZE\n    SENDER\n    REPLY\none  12 B\n    <a@x>\n    busy\n");
        let mut bytes = Vec::new();
        let mut out = Out { sink: Box::new(&mut bytes), colour: false, width: Some(12) };
        let mut table = Table::new(&["DOMAIN", "OLDEST"]);
        table.row(&mut out, vec![Cell::new("x.test"), Cell::number("3d")]).unwrap();
        table.end(&mut out).unwrap();
        drop(out);
        assert_eq!(String::from_utf8(bytes).unwrap(), "DOMAIN\n    OLDEST\nx.test\n    3d\n");
        assert_eq!(folds(&[3, 4, 5], Some(16)), [false, false, false]);
        assert_eq!(folds(&[30, 4, 5], Some(16)), [false, true, false]);
        assert_eq!(folds(&[300, 400], None), [false, false]);
    }

    #[test]
    fn colours_stand_around_the_text_and_not_in_its_width() {
        let mut bytes = Vec::new();
        let mut out = Out { sink: Box::new(&mut bytes), colour: true, width: None };
        let mut table = Table::new(&["A", "B"]);
        table.row(&mut out, vec![Cell::new("held").colour(Colour::Red), Cell::new("x")]).unwrap();
        table.end(&mut out).unwrap();
        drop(out);
        let expected = "\x1b[1mA\x1b[0m     \x1b[1mB\x1b[0m\n\x1b[31mheld\x1b[0m  x\n";
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn sizes_and_times_are_for_people() {
        assert_eq!([0, 1023, 1024, 1_048_575, 52_428_800].map(size), ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "50.0 MiB"]);
        let times = [0, 59, 61, 601, 3600, 3661, 90_000, 259_200].map(|s| duration(Duration::from_secs(s)));
        assert_eq!(times, ["0s", "59s", "1m1s", "10m", "1h", "1h1m", "1d1h", "3d"]);
        assert_eq!(until(Timestamp::from_millis(500), Timestamp::ZERO), "now");
        assert_eq!(until(Timestamp::from_millis(60_500), Timestamp::ZERO), "in 1m");
        assert_eq!(shell("it's"), "'it'\\''s'");
        assert_eq!(shown("a\u{202e}b – ü"), "a\\u{202e}b – ü");
    }
}
