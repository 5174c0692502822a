//! Reads the header block of a message byte by byte, without trusting it: field names, values, hop count.

/// One header field: name and value as received, folded lines included, without the final line end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name, as spelled.
    pub name: &'a [u8],
    /// The value behind the colon, unfolded nowhere.
    pub value: &'a [u8],
}

impl Field<'_> {
    /// Whether the field has this name; case doesn't matter.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// The fields of a header block. Ends at the empty line, at the first line that is no field, or with the bytes.
pub fn fields(header: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut rest = header;
    std::iter::from_fn(move || {
        let end = field_end(rest);
        let (field, behind) = rest.split_at(end);
        let colon = field.iter().position(|b| *b == b':')?;
        let name = field[..colon].trim_ascii_end();
        if name.is_empty() || !name.iter().all(|b| (33..=126).contains(b)) {
            return None;
        }
        rest = behind;
        Some(Field { name, value: trim_line_end(&field[colon + 1..]) })
    })
}

/// Length of the first field with its continuation lines and its line end.
fn field_end(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        match bytes[at..].iter().position(|b| *b == b'\n') {
            None => return bytes.len(),
            Some(newline) => at += newline + 1,
        }
        if !matches!(bytes.get(at), Some(b' ' | b'\t')) {
            return at;
        }
    }
}

fn trim_line_end(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

/// Follows content as it streams by and keeps its header block, up to a bound.
#[derive(Debug)]
pub struct HeaderScan {
    header: Vec<u8>,
    size_max: usize,
    complete: bool,
}

impl HeaderScan {
    /// Keeps at most `size_max` octets of header; what lies beyond isn't looked at.
    pub fn new(size_max: usize) -> Self {
        Self { header: Vec::new(), size_max, complete: false }
    }

    /// Takes the next piece of content.
    pub fn receive(&mut self, chunk: &[u8]) {
        if self.complete {
            return;
        }
        let seen = self.header.len();
        if seen == 0
            && let Some(end) = block_end(chunk, 0).filter(|end| *end <= self.size_max)
        {
            // The usual case: all in the first chunk, and the rest of it isn't copied.
            self.header = chunk[..end].to_vec();
            self.complete = true;
            return;
        }
        let room = self.size_max - seen;
        self.header.extend_from_slice(&chunk[..chunk.len().min(room)]);
        // The empty line may straddle two chunks: look again at the last three octets.
        if let Some(end) = block_end(&self.header, seen.saturating_sub(3)) {
            self.header.truncate(end);
            self.complete = true;
        }
        self.complete |= self.header.len() == self.size_max;
    }

    /// The header block so far, without the empty line that ends it.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Whether the end of the header block, or the bound, was reached: what comes doesn't matter any more.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether the header block is longer than the bound: its end wasn't seen.
    pub fn is_cut(&self) -> bool {
        self.header.len() == self.size_max
    }

    /// Whether all of it is fields.
    pub fn is_sound(&self) -> bool {
        let mut rest = &self.header[..];
        while !rest.is_empty() {
            if fields(rest).next().is_none() {
                return false;
            }
            rest = &rest[field_end(rest)..];
        }
        true
    }

    /// How many fields have this name.
    pub fn count(&self, name: &str) -> usize {
        fields(&self.header).filter(|field| field.is(name)).count()
    }
}

/// Where the header block ends: before the empty line, searched from `from` on.
fn block_end(bytes: &[u8], from: usize) -> Option<usize> {
    if bytes.starts_with(b"\r\n") {
        return Some(0);
    }
    let found = memchr::memmem::find(&bytes[from..], b"\r\n\r\n")?;
    Some(from + found + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_with_folding_end_at_the_first_line_that_is_none() {
        let header = b"Received: a\r\n\tb\r\nSubject : x\r\nno field\r\nTo: y\r\n";
        let found: Vec<_> = fields(header).map(|f| (f.name, f.value)).collect();
        assert_eq!(found, [(&b"Received"[..], &b" a\r\n\tb"[..]), (b"Subject", b" x")]);
    }

    #[test]
    fn the_scan_stops_at_the_empty_line_however_the_chunks_fall() {
        let content = b"Received: a\r\nRECEIVED: b\r\n\r\nReceived: body\r\n\r\n";
        for cut in 0..content.len() {
            let mut scan = HeaderScan::new(1000);
            scan.receive(&content[..cut]);
            scan.receive(&content[cut..]);
            assert_eq!(scan.count("received"), 2, "cut at {cut}");
            assert_eq!(scan.header(), b"Received: a\r\nRECEIVED: b\r\n");
        }
    }

    #[test]
    fn the_scan_keeps_no_more_than_its_bound() {
        let mut scan = HeaderScan::new(10);
        scan.receive(&[b'x'; 100]);
        scan.receive(b"\r\n\r\n");
        assert_eq!(scan.header().len(), 10);
        let mut empty = HeaderScan::new(10);
        empty.receive(b"\r\nReceived: body\r\n\r\n");
        assert_eq!(empty.header(), b"");
    }
}
