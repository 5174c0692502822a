//! Content of messages that have just come in: their first attempt, a moment later, needn't read the log. State: that content, no
//! more of it than a bound; the log has it all.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::record::Frame;
use crate::mail::QueueId;
use crate::system::{BoxFuture, Content, piece_at};

/// Memory that it may take. An attempt follows its message within milliseconds; whatever waits longer is read from the log.
const BYTES_MAX: usize = 8 << 20;

/// The content; whose is the oldest goes first.
#[derive(Default)]
pub(crate) struct Recent {
    contents: BTreeMap<QueueId, Arc<Inline>>,
    bytes: usize,
}

/// Content in the record that it was written with.
struct Inline {
    record: Vec<u8>,
    from: usize,
    to: usize,
}

impl Recent {
    /// Keeps what is in a message's record, if that is its content as it came.
    pub(crate) fn keep(&mut self, id: QueueId, frame: Frame) {
        self.forget(id);
        let Some(range) = frame.plain_content() else { return };
        let content = Inline { from: range.start, to: range.end, record: frame.into_bytes() };
        self.bytes += content.record.capacity();
        self.contents.insert(id, Arc::new(content));
        while self.bytes > BYTES_MAX
            && let Some((_, oldest)) = self.contents.pop_first()
        {
            self.bytes -= oldest.record.capacity();
        }
    }

    /// A message's content, if it is here.
    pub(crate) fn content(&self, id: QueueId) -> Option<Arc<dyn Content>> {
        let content = self.contents.get(&id)?.clone();
        Some(content)
    }

    /// The message is gone, or waits: nobody will ask soon.
    pub(crate) fn forget(&mut self, id: QueueId) {
        if let Some(content) = self.contents.remove(&id) {
            self.bytes -= content.record.capacity();
        }
    }
}

impl Content for Inline {
    fn size(&self) -> u64 {
        (self.to - self.from) as u64
    }

    fn read_at(&self, offset: u64, size_max: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        let piece = piece_at(&self.record[self.from..self.to], offset, size_max).to_vec();
        Box::pin(std::future::ready(Ok(piece)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::compress::Form;
    use super::super::record::{AcceptContent, ContentFile};
    use super::*;
    use crate::mail::{Message, ReversePath, Timestamp};

    fn frame(id: QueueId, content: AcceptContent) -> Frame {
        let message = Message {
            id,
            arrived: Timestamp::ZERO,
            size: 0,
            reverse_path: ReversePath::Null,
            body: crate::mail::BodyType::SevenBit,
            request: None,
            held: false,
            delays_noticed: 0,
            origin: None,
            recipients: Vec::new(),
        };
        Frame::accept(content, &message, &[])
    }

    fn inline(id: u64, size: usize, form: Form) -> Frame {
        let mut draft = Frame::draft();
        draft.extend((0..size).map(|octet| octet as u8));
        frame(QueueId(id), AcceptContent::Inline(draft, form))
    }

    #[tokio::test]
    async fn content_is_that_of_the_record_and_nothing_beside_it() {
        let mut recent = Recent::default();
        recent.keep(QueueId(1), inline(1, 300, Form::Plain));
        let content = recent.content(QueueId(1)).unwrap();
        recent.forget(QueueId(1));
        assert!(recent.content(QueueId(1)).is_none() && recent.bytes == 0);
        let expected: Vec<u8> = (0..300).map(|octet| octet as u8).collect();
        assert_eq!((content.size(), content.read_at(0, 1000).await.unwrap()), (300, expected.clone()));
        assert_eq!(content.read_at(290, 5).await.unwrap(), expected[290..295]);
        assert!(content.read_at(300, 5).await.unwrap().is_empty() && content.read_at(u64::MAX, 5).await.unwrap().is_empty());
    }

    #[test]
    fn only_content_as_it_came_is_kept() {
        let mut recent = Recent::default();
        recent.keep(QueueId(1), inline(1, 300, Form::Chunks));
        recent.keep(QueueId(2), frame(QueueId(2), AcceptContent::File(ContentFile { crc: 0, compressed: None })));
        assert!(recent.contents.is_empty() && recent.bytes == 0);
    }

    #[test]
    fn the_oldest_makes_room() {
        let mut recent = Recent::default();
        let size = 100 << 10;
        let count = (BYTES_MAX / size) as u64 + 10;
        (1..=count).for_each(|id| recent.keep(QueueId(id), inline(id, size, Form::Plain)));
        assert!(recent.bytes <= BYTES_MAX && recent.bytes > BYTES_MAX / 2);
        assert!(recent.content(QueueId(1)).is_none() && recent.content(QueueId(count)).is_some());
        // Twice the same counts once.
        let bytes = recent.bytes;
        recent.keep(QueueId(count), inline(count, size, Form::Plain));
        assert_eq!(recent.bytes, bytes);
    }
}
