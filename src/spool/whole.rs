//! Reads content and files from the first byte to the last, in this thread.

use std::io;
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::content::Located;
use super::segment::{self, Layout};
use super::{SpoolError, content};
use crate::system::{BoxFuture, Content, Disk, OpenMode, Turns};

/// Files are read and compared in pieces of this size.
const PIECE: usize = 256 * 1024;

/// What a look at a message's content gave.
pub(super) enum Whole {
    Sound,
    Missing,
    /// Says how.
    Damaged(String),
    /// It lies in this segment, which was set aside because the disk can't read it; says what the disk says.
    Unread(u64, String),
}

/// Reads a message's content from the first octet to the last.
pub(super) fn read_through(disk: &dyn Disk, layout: &Layout, identity: u64, located: Located) -> Result<Whole, SpoolError> {
    let content = match content::open(disk, layout, identity, located, &Turns::inline()) {
        Ok(Some(content)) => content,
        Ok(None) => return Ok(Whole::Missing),
        Err(error) if let Some(aside) = located.aside() => {
            return Ok(match error {
                // No file of its own is damaged.
                SpoolError::Damaged(_) => Whole::Missing,
                error => Whole::Unread(aside.segment, error.to_string()),
            });
        }
        Err(SpoolError::Damaged(_)) => return Ok(Whole::Damaged("the record is damaged".to_owned())),
        Err(error) => return Err(error),
    };
    let read = each_piece(&*content, &mut |_| Ok(()));
    Ok(read.map_or_else(|error| Whole::Damaged(error.to_string()), |()| Whole::Sound))
}

/// Hands over a content's pieces in order.
pub(super) fn each_piece(content: &dyn Content, each: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut offset = 0;
    while offset < content.size() {
        let piece = at_once(content.read_at(offset, PIECE))?;
        if piece.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the content ends early"));
        }
        each(&piece)?;
        offset += piece.len() as u64;
    }
    Ok(())
}

/// The result of a future that has nothing to wait for: content that is opened with `Turns::inline` is read in this thread.
fn at_once<T>(future: BoxFuture<'_, io::Result<T>>) -> io::Result<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => Err(io::Error::other("the content isn't read in this thread")),
    }
}

/// Whether a whole file has the bytes that lie in a segment.
pub(super) fn same_bytes(disk: &dyn Disk, aside: &Path, segment: &Path, offset: u64, bytes: u64) -> io::Result<bool> {
    let (aside, segment) = (disk.open(aside, OpenMode::Read)?, disk.open(segment, OpenMode::Read)?);
    if aside.len()? != bytes {
        return Ok(false);
    }
    let (mut one, mut other) = (vec![0; PIECE], vec![0; PIECE]);
    let mut at = 0;
    while at < bytes {
        let want = usize::try_from(bytes - at).unwrap_or(PIECE).min(PIECE);
        let read = segment::read_full(&*aside, at, &mut one[..want])?;
        if read != want || segment::read_full(&*segment, offset + at, &mut other[..want])? != want || one[..want] != other[..want]
        {
            return Ok(false);
        }
        at += want as u64;
    }
    Ok(true)
}
