//! Content that comes by BDAT (RFC 3030): chunks of a stated size instead of dots. A chunk that isn't wanted is read all the
//! same, because it is on its way, and must never be taken for commands.

use std::time::Duration;

use super::state::{Chunk, Chunks, Pending, Phase, Recipients, Refusal, Stage};
use super::{Question, Session, Settings, Step, replies};
use crate::mail::{EnhancedCode, Reply};
use crate::smtp::data::LineEnds;
use crate::smtp::hidden::HiddenEnds;

impl Chunks {
    fn new(now: Duration, settings: &Settings, binary: bool) -> Self {
        let line_ends = (!binary).then(LineEnds::new);
        Self { line_ends, hidden: HiddenEnds::default(), size: 0, due: now + settings.data_timeout }
    }

    /// Whether a CR or LF stood alone so far; with `last`, a CR that nothing follows does, too.
    fn has_bare_line_end(&self, last: bool) -> bool {
        self.line_ends.as_ref().is_some_and(|ends| ends.has_bare() || last && ends.is_open())
    }

    /// What is wrong with content that is complete. Binary content never leaves with dots: in it nothing is.
    fn fault(&self) -> Option<&'static str> {
        match (self.has_bare_line_end(true), self.line_ends.is_some() && self.hidden.found(true)) {
            (true, _) => Some(replies::BARE_LINE_END),
            (_, true) => Some(replies::HIDDEN_END),
            _ => None,
        }
    }
}

impl Chunk {
    /// Takes octets from the wire, at most what is left of the chunk; returns how many.
    pub(super) fn take(&mut self, octets: &[u8], chunks: Option<&mut Chunks>, now: Duration, settings: &Settings) -> usize {
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(octets.len());
        self.left -= count as u64;
        self.idle_due = now + settings.command_timeout;
        self.pace_due += settings.time_for(count);
        if let (None, Some(chunks)) = (&self.refusal, chunks) {
            let octets = &octets[..count];
            chunks.size += count as u64;
            if let Some(ends) = &mut chunks.line_ends {
                ends.receive(octets);
                chunks.hidden.receive(octets);
            }
            self.ready.extend_from_slice(octets);
        }
        count
    }
}

impl Session {
    /// BDAT: the chunk is taken if its turn has come, else read and refused.
    pub(super) fn bdat(&mut self, stage: Stage, size: u64, last: bool) -> Option<Step> {
        let refusal = match stage {
            _ if !self.settings.parameters.binary => Refusal::bad(replies::NOT_OFFERED),
            Stage::Strange => Refusal::bad(self.hello_first()),
            Stage::Ready if self.chunks_lost => Refusal::just(replies::MAIL_FIRST),
            Stage::Ready => Refusal::bad(replies::MAIL_FIRST),
            Stage::Open(Recipients { accepted: 0, refused: true, .. }) => Refusal::just(self.no_valid_recipients()),
            Stage::Open(Recipients { accepted: 0, refused: false, .. }) => Refusal::bad(replies::RECIPIENT_FIRST),
            Stage::Open(_) | Stage::Chunks if size > self.settings.size_max.saturating_sub(self.chunked()) => {
                // The message is lost: its draft goes, and what follows of it is refused until there is another transaction.
                self.drop_chunks();
                return self.refuse_chunk(size, last, Stage::Ready, Refusal::just(replies::TOO_LARGE));
            }
            Stage::Open(recipients) => return Some(self.ask(Pending::BeginChunks { recipients, size, last }, Question::Begin)),
            Stage::Chunks => {
                self.phase = Phase::Chunk(Chunk::new(self.now, &self.settings, size, last));
                return None;
            }
        };
        self.refuse_chunk(size, last, stage, refusal)
    }

    /// Octets of content that came in chunks before.
    fn chunked(&self) -> u64 {
        self.chunks.as_ref().map_or(0, |chunks| chunks.size)
    }

    /// The draft for the first chunk was begun.
    pub(super) fn begin_chunks(&mut self, binary: bool, size: u64, last: bool) {
        self.chunks = Some(Box::new(Chunks::new(self.now, &self.settings, binary)));
        self.phase = Phase::Chunk(Chunk::new(self.now, &self.settings, size, last));
    }

    /// Reads the chunk and drops it; then the reply.
    pub(super) fn refuse_chunk(&mut self, size: u64, last: bool, after: Stage, refusal: Refusal) -> Option<Step> {
        let chunk = Chunk::new(self.now, &self.settings, size, last);
        self.phase = Phase::Chunk(Chunk { refusal: Some((refusal, after)), ..chunk });
        None
    }

    /// Forgets a message that came in part; the driver is told.
    pub(super) fn drop_chunks(&mut self) {
        self.discard |= self.chunks.take().is_some();
    }

    /// The next step while a chunk comes in. None: it was answered, commands go on.
    pub(super) fn next_chunk(&mut self) -> Option<Step> {
        let Phase::Chunk(chunk) = &mut self.phase else { return None };
        if chunk.left > 0 && !self.lines.rest().is_empty() {
            let used = chunk.take(self.lines.rest(), self.chunks.as_deref_mut(), self.now, &self.settings);
            self.lines.consume(used);
        }
        // Once it is known that the message will be refused nothing of it is kept, but the chunk is read to its end.
        if chunk.refusal.is_none() && self.chunks.as_ref().is_some_and(|chunks| chunks.has_bare_line_end(false)) {
            chunk.refusal = Some((Refusal::just(replies::BARE_LINE_END), Stage::Ready));
            chunk.ready = Vec::new();
            self.chunks = None;
            return Some(Step::Discard);
        }
        if !chunk.ready.is_empty() {
            return Some(Step::Body(std::mem::take(&mut chunk.ready)));
        }
        if chunk.left > 0 {
            return Some(if self.output.is_empty() { Step::NeedInput } else { self.send() });
        }
        let (size, last, refusal) = (chunk.size, chunk.last, chunk.refusal.take());
        self.chunk_ended(size, last, refusal)
    }

    fn chunk_ended(&mut self, size: u64, last: bool, refusal: Option<(Refusal, Stage)>) -> Option<Step> {
        if let Some((refusal, stage)) = refusal {
            if last {
                self.message_over();
            }
            self.chunks_lost = !last && matches!(stage, Stage::Ready) && !refusal.bad;
            if !refusal.bad || !self.count_error() {
                let replies = if last { self.replies() } else { 1 };
                self.output.extend_from_slice(&refusal.reply.repeat(replies));
                self.resume(stage);
            }
            return None;
        }
        let Some(chunks) = &self.chunks else { return None };
        if let Some(fault) = chunks.fault().filter(|_| last) {
            self.drop_chunks();
            self.message_over();
            self.say_to_each(fault);
            self.resume(Stage::Ready);
            return None;
        }
        if last {
            self.chunks = None;
            return Some(self.ask(Pending::Commit, Question::Commit));
        }
        self.say_reply(&Reply::new(250, EnhancedCode(2, 0, 0), format!("{size} octets received")));
        // A large message comes in many chunks, and each takes a command.
        self.uncount_command();
        self.resume(Stage::Chunks);
        None
    }
}
