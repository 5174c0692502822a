//! The way of accepted mail to the delivery loop. Owns the ids under way; loses none: what it doesn't take, its giver keeps.
//!
//! The sessions whose messages one sync made durable go on one after another, each on its way to its reply. The loop is woken when the last
//! of them has given its message: to wake it for each costs more than to admit them all.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::mail::QueueId;

/// So many wait at most.
const WAITING_MAX: usize = 1024;

struct Shared {
    waiting: Mutex<Waiting>,
    /// The taker has something to take.
    told: Notify,
}

#[derive(Default)]
struct Waiting {
    ids: VecDeque<QueueId>,
    /// Somebody is about to wake the taker.
    is_telling: bool,
    /// There is no taker any more.
    is_closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sessions' end of it.
#[derive(Clone)]
pub struct Giver(Arc<Shared>);

/// The delivery loop's end.
pub struct Taker(Arc<Shared>);

/// Both ends.
pub fn handover() -> (Giver, Taker) {
    let shared = Arc::new(Shared { waiting: Mutex::default(), told: Notify::new() });
    (Giver(Arc::clone(&shared)), Taker(shared))
}

/// Wakes the taker when it is dropped: also if its thread ends before its turn comes.
struct Telling(Arc<Shared>);

impl Drop for Telling {
    fn drop(&mut self) {
        self.0.lock().is_telling = false;
        self.0.told.notify_one();
    }
}

impl Giver {
    /// Gives a message, and has the taker woken when the tasks that are ready on this thread have had their turn. False if it isn't
    /// taken: too many wait, or there is no taker. In a runtime.
    pub(super) fn give(&self, id: QueueId) -> bool {
        let mut waiting = self.0.lock();
        if waiting.is_closed || waiting.ids.len() >= WAITING_MAX {
            return false;
        }
        waiting.ids.push_back(id);
        if !std::mem::replace(&mut waiting.is_telling, true) {
            let telling = Telling(Arc::clone(&self.0));
            tokio::spawn(async move { drop(telling) });
        }
        true
    }
}

impl Taker {
    /// What was given first; none if nothing waits. It sees all that was given, also what nobody was woken for yet.
    pub fn try_take(&mut self) -> Option<QueueId> {
        self.0.lock().ids.pop_front()
    }

    /// Waits until there is something to take, or was.
    pub async fn given(&mut self) {
        let waits = {
            let waiting = self.0.lock();
            waiting.is_telling || waiting.ids.is_empty()
        };
        if waits {
            self.0.told.notified().await;
        }
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> QueueId {
        QueueId(number)
    }

    fn all(taker: &mut Taker) -> Vec<QueueId> {
        std::iter::from_fn(|| taker.try_take()).collect()
    }

    #[tokio::test]
    async fn the_taker_is_woken_once_for_all_whose_turn_it_is() {
        let (giver, mut taker) = handover();
        for number in 1..=3 {
            let giver = giver.clone();
            tokio::spawn(async move { assert!(giver.give(id(number))) });
        }
        taker.given().await;
        assert_eq!(all(&mut taker), [id(1), id(2), id(3)]);
        let woken = tokio::time::timeout(std::time::Duration::ZERO, taker.given()).await;
        assert!(woken.is_err(), "nothing more was given");
        assert!(giver.give(id(4)));
        taker.given().await;
        assert_eq!(all(&mut taker), [id(4)]);
    }

    #[tokio::test]
    async fn an_order_sees_what_nobody_was_woken_for_yet() {
        let (giver, mut taker) = handover();
        assert!(giver.give(id(1)));
        assert_eq!(taker.try_take(), Some(id(1)));
    }

    #[tokio::test]
    async fn what_is_left_is_there_without_another_word() {
        let (giver, mut taker) = handover();
        assert!(giver.give(id(1)) && giver.give(id(2)));
        taker.given().await;
        assert_eq!(taker.try_take(), Some(id(1)));
        taker.given().await;
        assert_eq!(taker.try_take(), Some(id(2)));
    }

    #[tokio::test]
    async fn too_many_are_not_taken_and_neither_is_any_after_the_end() {
        let (giver, mut taker) = handover();
        for number in 0..WAITING_MAX as u64 {
            assert!(giver.give(id(number)));
        }
        assert!(!giver.give(id(9999)));
        taker.given().await;
        assert_eq!(taker.try_take(), Some(id(0)));
        assert!(giver.give(id(9999)));
        drop(taker);
        assert!(!giver.give(id(10_000)));
    }

    #[test]
    fn whose_thread_ends_is_told_of_all_the_same() {
        let (giver, mut taker) = handover();
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let ending = runtime();
        ending.block_on(async { assert!(giver.give(id(1))) });
        drop(ending);
        runtime().block_on(taker.given());
        assert_eq!(taker.try_take(), Some(id(1)));
    }
}
