//! Questions to the DNS where a domain's mail goes, asked beside the delivery loop. State: the questions under way and those that
//! wait for their turn.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::task::{Id, JoinSet};

use crate::mail::Domain;
use crate::route::Router;

/// Questions at a time: domains whose name servers don't answer hold theirs for seconds, and must leave room for the others.
const LOOKUPS_MAX: usize = 500;

/// See the module. How many wait is bounded by the messages in memory.
#[derive(Default)]
pub(super) struct Lookups {
    tasks: JoinSet<Option<Vec<Domain>>>,
    /// What each task asks for.
    running: HashMap<Id, Domain>,
    waiting: VecDeque<(Domain, Arc<Router>)>,
}

impl Lookups {
    /// Asks for the MX hosts of a domain, at once or when others have their answers.
    pub(super) fn start(&mut self, domain: Domain, router: &Arc<Router>) {
        self.waiting.push_back((domain, Arc::clone(router)));
        self.fill();
    }

    /// The next answer; none while nothing is asked.
    pub(super) async fn next(&mut self) -> Option<(Domain, Option<Vec<Domain>>)> {
        let (id, hosts) = match self.tasks.join_next_with_id().await? {
            Ok(answer) => answer,
            // A bug in one question: an attempt will find out.
            Err(error) => (error.id(), None),
        };
        let domain = self.running.remove(&id)?;
        self.fill();
        Some((domain, hosts))
    }

    fn fill(&mut self) {
        while self.tasks.len() < LOOKUPS_MAX
            && let Some((domain, router)) = self.waiting.pop_front()
        {
            let asked = domain.clone();
            let task = self.tasks.spawn(async move { router.exchanges(&asked).await });
            self.running.insert(task.id(), domain);
        }
    }
}
