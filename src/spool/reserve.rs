//! Room set aside for the day when the disk is full: pieces of reserved space that are given up when a segment can't be begun, and
//! reserved again when there is room. Without it a full disk would stay full: what frees space is written to the log first.

use std::path::PathBuf;
use std::sync::Arc;

use super::segment::Layout;
use crate::system::{Disk, OpenMode};

/// Bytes of a piece.
pub(crate) const PIECE: u64 = 2 << 20;

/// The pieces: files in `reserve/` without content, whose blocks are reserved.
#[derive(Clone)]
pub(crate) struct Reserve {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    folder: PathBuf,
    /// How many there should be.
    pieces: u64,
}

impl Reserve {
    /// Knows its place; touches nothing.
    pub(crate) fn new(disk: Arc<dyn Disk>, layout: &Layout, size: u64) -> Self {
        Self { disk, root: layout.root.clone(), folder: layout.root.join("reserve"), pieces: size / PIECE }
    }

    /// At start-up: reserves what isn't reserved any more. A disk that is full already gets a piece for what start-up itself writes.
    pub(crate) fn prepare(&self) {
        if self.pieces == 0 || self.disk.create_dir_all(&self.folder).is_err() {
            return;
        }
        for piece in (0..self.pieces).map(|number| self.piece(number)).filter(|piece| self.disk.exists(piece)) {
            // A power cut may have left a name without its blocks.
            let reserved = self.disk.open(&piece, OpenMode::Write).and_then(|file| file.allocate(PIECE));
            if reserved.is_err() {
                let _ = self.disk.unlink(&piece);
            }
        }
        self.refill();
        if self.free() < PIECE / 2 {
            self.give(PIECE);
        }
    }

    /// Reserves missing pieces, as long as that leaves room for others.
    pub(crate) fn refill(&self) {
        for piece in (0..self.pieces).map(|number| self.piece(number)) {
            if self.disk.exists(&piece) {
                continue;
            }
            if self.free() < 2 * PIECE {
                return;
            }
            let reserved = self.disk.open(&piece, OpenMode::CreateNew).and_then(|file| file.allocate(PIECE));
            if reserved.is_err() {
                let _ = self.disk.unlink(&piece);
                return;
            }
        }
    }

    /// Gives up so many bytes, or what there is; `false` if there was nothing.
    pub(crate) fn give(&self, bytes: u64) -> bool {
        let mut given = 0;
        for piece in (0..self.pieces).map(|number| self.piece(number)) {
            if given < bytes && self.disk.unlink(&piece).is_ok() {
                given += PIECE;
            }
        }
        given > 0
    }

    fn piece(&self, number: u64) -> PathBuf {
        self.folder.join(number.to_string())
    }

    /// Bytes free. A disk that doesn't tell is taken for one with room: reserving will find out.
    fn free(&self) -> u64 {
        self.disk.available(&self.root).unwrap_or(u64::MAX)
    }
}
