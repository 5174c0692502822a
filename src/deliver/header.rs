//! The header of a message, read from its content. State: none.

use crate::mail::HeaderScan;
use crate::system::Content;

/// Octets read at a time.
const CHUNK_SIZE: usize = 16 * 1024;

/// As much of the header as can be read, at most so many octets of it.
pub async fn read_header(content: &dyn Content, size_max: usize) -> HeaderScan {
    let (mut scan, mut offset) = (HeaderScan::new(size_max), 0);
    while !scan.is_complete() {
        match content.read_at(offset, CHUNK_SIZE).await {
            Ok(piece) if !piece.is_empty() => {
                scan.receive(&piece);
                offset += piece.len() as u64;
            }
            _ => break,
        }
    }
    scan
}
