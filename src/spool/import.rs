//! Takes messages up that were exported: from `ID.eml` and `ID.json`, with the ids and states that they had.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::JoinSet;

use super::progress::{Meter, Phase, Watcher};
use super::record::RECORD_SIZE_MAX;
use super::transfer::{CONTENT, ENVELOPE, Remark, Transfer};
use super::{Draft, Spool, SpoolError, envelope};
use crate::mail::{BodyType, Message, QueueId};
use crate::system::{Disk, OpenMode};

/// So many messages are taken up side by side: they become durable together.
const AT_ONCE: usize = 64;
/// Content is read in pieces of this many octets.
const PIECE: usize = 64 * 1024;

/// Imports the folder `from` into a spool that nothing else writes to. Everything counted in the result is durable. A message whose
/// id is in the spool is left out, so that an import can be repeated; files that are wrong are remarked on, the rest goes on.
pub async fn import(
    spool: &Spool,
    from: &Path,
    disk: &Arc<dyn Disk>,
    watcher: &Watcher,
    remark: &mut dyn FnMut(Remark),
) -> Result<Transfer, SpoolError> {
    let mut done = Transfer::default();
    let mut counted = |done: &mut Transfer, told: Remark| {
        done.count(&told);
        remark(told);
    };
    let (pairs, wrong) = pairs(&**disk, from)?;
    wrong.into_iter().for_each(|told| counted(&mut done, told));
    let mut meter = Meter::new(watcher, Phase::Import, pairs.len() as u64);
    let mut pairs = pairs.into_iter();
    let mut running = JoinSet::new();
    loop {
        while running.len() < AT_ONCE
            && let Some(id) = pairs.next()
        {
            let pair = Pair { id, from: from.to_owned(), disk: disk.clone() };
            running.spawn(pair.take_up(spool.clone()));
        }
        let Some(ended) = running.join_next().await else { break };
        meter.add(1);
        match ended.map_err(|error| SpoolError::Io(error.to_string()))?? {
            Ok(bytes) => {
                done.messages += 1;
                done.bytes += bytes;
            }
            Err(told) => counted(&mut done, told),
        }
    }
    spool.flush().await?;
    Ok(done)
}

/// The ids of which both files are there, and what else lies in the folder.
fn pairs(disk: &dyn Disk, from: &Path) -> Result<(Vec<QueueId>, Vec<Remark>), SpoolError> {
    let names = disk.list(from).map_err(|error| SpoolError::io("can't list", from, &error))?;
    let mut wrong = Vec::new();
    let mut found: BTreeMap<QueueId, (bool, bool)> = BTreeMap::new();
    for name in names {
        let (stem, is_content) = match (name.strip_suffix(CONTENT), name.strip_suffix(ENVELOPE)) {
            (Some(stem), _) => (stem, true),
            (_, Some(stem)) => (stem, false),
            _ => {
                wrong.push(Remark::failed(name, "neither ID.eml nor ID.json"));
                continue;
            }
        };
        match stem.parse::<QueueId>().ok().filter(|id| id.to_string() == stem) {
            Some(id) => {
                let (content, envelope) = found.entry(id).or_default();
                *(if is_content { content } else { envelope }) = true;
            }
            None => wrong.push(Remark::failed(name, "its name is no queue id")),
        }
    }
    let lone = |(id, (content, envelope)): (&QueueId, &(bool, bool))| match (content, envelope) {
        (true, true) => None,
        (true, false) => Some(Remark::failed(format!("{id}{CONTENT}"), format!("its envelope {id}{ENVELOPE} is missing"))),
        (false, _) => Some(Remark::failed(format!("{id}{ENVELOPE}"), format!("its content {id}{CONTENT} is missing"))),
    };
    wrong.extend(found.iter().filter_map(lone));
    Ok((found.into_iter().filter(|(_, both)| *both == (true, true)).map(|(id, _)| id).collect(), wrong))
}

/// The two files of a message.
struct Pair {
    id: QueueId,
    from: PathBuf,
    disk: Arc<dyn Disk>,
}

impl Pair {
    /// Takes the message up; says how long it is, or why not. An error means that the spool takes no more.
    async fn take_up(self, spool: Spool) -> Result<Result<u64, Remark>, SpoolError> {
        let message = match self.envelope() {
            Ok(message) => message,
            Err(problem) => return Ok(Err(self.wrong(ENVELOPE, problem))),
        };
        let mut draft = match spool.begin_again(self.id).await {
            Ok(Some(draft)) => draft,
            Ok(None) => return Ok(Err(Remark::skipped(self.id))),
            Err(SpoolError::Unusable(problem)) => return Ok(Err(self.wrong(ENVELOPE, problem))),
            Err(error) => return Err(error),
        };
        if let Err(problem) = self.content(&message, &mut draft).await? {
            return Ok(Err(self.wrong(CONTENT, problem)));
        }
        let size = draft.size();
        draft.restore(message).await.map(|()| Ok(size))
    }

    fn wrong(&self, kind: &str, problem: String) -> Remark {
        Remark::failed(format!("{}{kind}", self.id), problem)
    }

    fn path(&self, kind: &str) -> PathBuf {
        self.from.join(format!("{}{kind}", self.id))
    }

    fn envelope(&self) -> Result<Message, String> {
        let bytes = self.disk.read(&self.path(ENVELOPE), RECORD_SIZE_MAX as u64).map_err(|error| error.to_string())?;
        let message = envelope::read(&bytes)?;
        if message.id != self.id {
            return Err(format!("id: {} is not the file's name", message.id));
        }
        Ok(message)
    }

    /// Copies the content into the draft; the outer error is the spool's.
    async fn content(&self, message: &Message, draft: &mut Draft) -> Result<Result<(), String>, SpoolError> {
        let opened = self.disk.open(&self.path(CONTENT), OpenMode::Read).and_then(|file| file.len().map(|length| (file, length)));
        let (file, length) = match opened {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error.to_string())),
        };
        if length != message.size {
            return Ok(Err(format!("{length} octets, but size in its envelope is {}", message.size)));
        }
        // What goes on as it is, in chunks alone, has no lines (RFC 3030 section 3).
        let mut lines = (message.body != BodyType::BinaryMime).then(Lines::default);
        let mut piece = vec![0; PIECE];
        let mut offset = 0;
        while offset < length {
            let read = match file.read_at(offset, &mut piece) {
                Ok(0) => return Ok(Err("it became shorter while it was read".to_owned())),
                Ok(read) => read,
                Err(error) => return Ok(Err(error.to_string())),
            };
            if let Some(Err(problem)) = lines.as_mut().map(|lines| lines.take(&piece[..read])) {
                return Ok(Err(problem));
            }
            draft.write(&piece[..read]).await?;
            offset += read as u64;
        }
        Ok(lines.map_or(Ok(()), |lines| lines.end()))
    }
}

/// Looks at line ends: what a client may not send us, no file may bring in, for it could not be passed on (RFC 5321 section 2.3.8).
#[derive(Default)]
struct Lines {
    number: u64,
    after_cr: bool,
    within: bool,
}

impl Lines {
    fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        for &byte in bytes {
            let is_bare = (byte == b'\n') != self.after_cr;
            if is_bare {
                let what = if self.after_cr { "CR" } else { "LF" };
                return Err(format!("line {} has a bare {what}: lines of mail end with CR and LF", self.number + 1));
            }
            self.after_cr = byte == b'\r';
            self.within = byte != b'\n';
            self.number += u64::from(byte == b'\n');
        }
        Ok(())
    }

    fn end(&self) -> Result<(), String> {
        if self.within { Err("the last line doesn't end with CR and LF".to_owned()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_could_not_be_passed_on_are_named() {
        let look = |bytes: &[u8]| {
            let mut lines = Lines::default();
            bytes.chunks(1).try_for_each(|piece| lines.take(piece)).and_then(|()| lines.end())
        };
        for sound in [&b""[..], b"\r\n", b"a\r\nb\r\n"] {
            assert_eq!(look(sound), Ok(()));
        }
        for (wrong, problem) in [
            (&b"a\r\nb\n"[..], "line 2 has a bare LF"),
            (b"a\rb\r\n", "line 1 has a bare CR"),
            (b"a\r\r\n", "line 1 has a bare CR"),
            (b"a\r\nb", "the last line"),
            (b"a\r", "the last line"),
        ] {
            assert!(look(wrong).unwrap_err().starts_with(problem), "{wrong:?}");
        }
    }
}
