//! What happens to files and folders of the simulated disk, one change at a time, and what a power cut leaves of it.

use std::collections::BTreeMap;

use super::SimRandom;

/// A write reaches the disk in pieces of this size, each wholly or not at all.
const SECTOR: u64 = 512;

/// A change of one file's bytes.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Length(u64),
}

/// A change of names in one folder; each happens wholly or not at all.
#[derive(Clone, Debug)]
pub(super) enum Naming {
    Add(String, usize),
    Remove(String),
    Rename { from: String, to: String, inode: usize },
}

impl Naming {
    /// The file that it gives a name to.
    pub(super) fn inode(&self) -> Option<usize> {
        match self {
            Self::Add(_, inode) | Self::Rename { inode, .. } => Some(*inode),
            Self::Remove(_) => None,
        }
    }

    pub(super) fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Add(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
            Self::Rename { from, to, inode } => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
        }
    }
}

impl Change {
    /// Does the change.
    pub(super) fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes: new } => write_into(bytes, *offset, new),
            Self::Length(length) => bytes.resize(*length as usize, 0),
        }
    }

    /// Does as much of it as the power let through.
    pub(super) fn survive(&self, bytes: &mut Vec<u8>, random: &mut SimRandom) {
        match (self, random.below(3)) {
            (_, 0) => self.apply(bytes),
            (_, 1) => {}
            (Self::Length(_), _) => {}
            (Self::Write { offset, bytes: new }, _) => {
                let mut at = *offset;
                let end = offset + new.len() as u64;
                while at < end {
                    let next = ((at / SECTOR + 1) * SECTOR).min(end);
                    if random.below(2) == 0 {
                        write_into(bytes, at, &new[(at - offset) as usize..(next - offset) as usize]);
                    }
                    at = next;
                }
            }
        }
    }
}

fn write_into(bytes: &mut Vec<u8>, offset: u64, new: &[u8]) {
    let (from, to) = (offset as usize, offset as usize + new.len());
    if bytes.len() < to {
        bytes.resize(to, 0);
    }
    bytes[from..to].copy_from_slice(new);
}
