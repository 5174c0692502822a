//! What a story of the spool knows of its messages, and the rules that hold of them after every crash.

use std::collections::BTreeMap;
use std::sync::Arc;

use posthouse::mail::{Message, QueueId, Update};
use posthouse::spool::Note;

/// What the story knows of a message.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) content: Arc<Vec<u8>>,
    /// Its states one after the other.
    pub(crate) versions: Vec<Message>,
    /// The first of them that a crash may bring back.
    pub(crate) flushed: usize,
    pub(crate) standing: Standing,
    /// A notice's target, and the number of delay notices that came with it.
    pub(crate) notice_of: Option<(QueueId, u32)>,
    /// A notice that was refused, by the refusal of this number, and the number of delay notices that came with it: until the spool
    /// has succeeded again, each state may come back with them.
    pub(crate) doubt: Option<(u64, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Being committed: may be there or not.
    InDoubt,
    /// By the refusal of this number: may be there until the spool has succeeded again, then never more.
    Refused(u64),
    Active,
    Parked,
    Done,
    /// Done and flushed, or refused for certain.
    Gone,
}

/// All messages of a story; copies share what is the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    known: BTreeMap<QueueId, Arc<Known>>,
    refusals: u64,
}

/// What a recovered spool says.
pub(crate) struct Found {
    pub(crate) messages: Vec<Message>,
    pub(crate) contents: BTreeMap<QueueId, Vec<u8>>,
    pub(crate) next_id: QueueId,
    pub(crate) notes: Vec<Note>,
}

impl Model {
    /// A message that is about to be committed.
    pub(crate) fn begin(&mut self, message: Message, content: Arc<Vec<u8>>) {
        let known = Known {
            content,
            versions: vec![message.clone()],
            flushed: 0,
            standing: Standing::InDoubt,
            notice_of: None,
            doubt: None,
        };
        self.known.insert(message.id, Arc::new(known));
    }

    /// A message that the story must know.
    pub(crate) fn of(&self, id: QueueId) -> &Known {
        &self.known[&id]
    }

    pub(crate) fn change(&mut self, id: QueueId) -> &mut Known {
        Arc::make_mut(self.known.get_mut(&id).unwrap())
    }

    pub(crate) fn ids(&self, wanted: &[Standing]) -> Vec<QueueId> {
        self.known.iter().filter(|(_, known)| wanted.contains(&known.standing)).map(|(id, _)| *id).collect()
    }

    pub(crate) fn contains(&self, id: QueueId, wanted: &[Standing]) -> bool {
        self.known.get(&id).is_some_and(|known| wanted.contains(&known.standing))
    }

    /// A state that follows from the last one.
    pub(crate) fn update(&mut self, update: &Update) {
        let known = self.change(update.id);
        let mut version = known.versions.last().unwrap().clone();
        version.apply(update);
        known.versions.push(version);
    }

    /// How many refusals there were: what begins now and succeeds ends all doubt about them.
    pub(crate) fn refusals(&self) -> u64 {
        self.refusals
    }

    /// The spool said no.
    pub(crate) fn refused(&mut self, id: QueueId) {
        self.refusals += 1;
        let refusal = self.refusals;
        let known = self.change(id);
        known.standing = Standing::Refused(refusal);
        if let Some((target, number)) = known.notice_of {
            let target = self.change(target);
            target.versions.pop();
            target.doubt = Some((refusal, number));
        }
    }

    /// The spool said yes, to what a client will now think of as its business.
    pub(crate) fn committed(&mut self, id: QueueId, refusals_before: u64) {
        let known = self.change(id);
        known.standing = Standing::Active;
        if let Some((target, number)) = known.notice_of {
            let target = self.change(target);
            let with_notice = target.versions.iter().position(|version| version.delays_noticed >= number).unwrap();
            target.flushed = target.flushed.max(with_notice);
        }
        self.succeeded(refusals_before);
    }

    /// A message that began after so many refusals is durable: the log goes on in a segment that says what of the one before counts.
    pub(crate) fn succeeded(&mut self, refusals_before: u64) {
        for known in self.known.values_mut() {
            if matches!(known.standing, Standing::Refused(refusal) if refusal <= refusals_before) {
                Arc::make_mut(known).standing = Standing::Gone;
            }
            if known.doubt.is_some_and(|(refusal, _)| refusal <= refusals_before) {
                Arc::make_mut(known).doubt = None;
            }
        }
    }

    /// All that was asked for is durable.
    pub(crate) fn flushed(&mut self) {
        for known in self.known.values_mut() {
            let last = known.versions.len() - 1;
            if known.flushed != last || known.standing == Standing::Done {
                let known = Arc::make_mut(known);
                known.flushed = last;
                if known.standing == Standing::Done {
                    known.standing = Standing::Gone;
                }
            }
        }
    }

    /// What a listing of the running spool must show.
    pub(crate) fn living(&self) -> Vec<Message> {
        let living = self.known.values().filter(|known| matches!(known.standing, Standing::Active | Standing::Parked));
        living.map(|known| known.versions.last().unwrap().clone()).collect()
    }

    /// The rules.
    pub(crate) fn check(&self, found: &Found) {
        let there: BTreeMap<QueueId, &Message> = found.messages.iter().map(|message| (message.id, message)).collect();
        for (id, message) in &there {
            let known = self.known.get(id).unwrap_or_else(|| panic!("{id} was invented"));
            assert_ne!(known.standing, Standing::Gone, "{id} came back");
            assert_eq!(found.contents[id], *known.content, "content of {id}");
            let versions = &known.versions[known.flushed..];
            let with_doubt = |version: &Message, number| Message { delays_noticed: number, ..version.clone() } == **message;
            let right = versions.contains(message)
                || known.doubt.is_some_and(|(_, number)| versions.iter().any(|version| with_doubt(version, number)));
            assert!(right, "{id} is in a wrong state: {message:?}\nnot one of {versions:?}");
            assert!(found.next_id > *id, "{id} could be given out again");
        }
        for (id, known) in &self.known {
            let living = matches!(known.standing, Standing::Active | Standing::Parked);
            assert!(!living || there.contains_key(id), "{id} was lost");
            if let Some((target, number)) = known.notice_of
                && let Some(target) = there.get(&target)
                && known.standing == Standing::InDoubt
                && self.known[&target.id].doubt.is_none()
            {
                assert_eq!(there.contains_key(id), target.delays_noticed >= number, "the notice {id} and its update");
            }
        }
        let odd = found
            .notes
            .iter()
            .find(|note| matches!(note, Note::Quarantined { .. } | Note::SegmentMissing { .. } | Note::ContentMissing { .. }));
        assert_eq!(odd, None);
    }

    /// From here on what a recovery found is what there is.
    pub(crate) fn settle(&mut self, found: &[Message]) {
        let there: BTreeMap<QueueId, &Message> = found.iter().map(|message| (message.id, message)).collect();
        for (id, known) in &mut self.known {
            let known = Arc::make_mut(known);
            known.doubt = None;
            match there.get(id) {
                Some(message) => {
                    known.standing = Standing::Parked;
                    known.versions = vec![(*message).clone()];
                    known.flushed = 0;
                }
                None => known.standing = Standing::Gone,
            }
        }
    }
}

/// Compares listings, and says what is odd.
pub(crate) fn alike(found: &[Message], known: &[Message]) {
    if found == known {
        return;
    }
    let odd =
        |left: &[Message], right: &[Message]| left.iter().filter(|message| !right.contains(message)).cloned().collect::<Vec<_>>();
    assert_eq!(odd(found, known), odd(known, found), "found, and known");
    assert_eq!(found, known, "the order");
}
