//! Orders to the delivery loop: an operator's verbs, pauses, another configuration, questions. State: none of its own.

use super::command::{Changed, Command, Levels, Paused};
use super::delivery::Delivery;
use super::pauses::Pauses;
use crate::event::Event;
use crate::mail::{Domain, QueueId, Timestamp};
use crate::queue::Verb;

impl Delivery {
    pub(super) async fn command(&mut self, command: Command) {
        // Whoever asked may have gone away; then nobody needs the answer.
        match command {
            Command::Change { verb, ids, answer } => {
                let _ = answer.send(self.change(verb, ids).await);
            }
            Command::Pause { domain, answer } => {
                let _ = answer.send(self.pause(domain).await);
            }
            Command::Resume { domain, answer } => {
                let _ = answer.send(self.resume(domain).await);
            }
            Command::Paused { answer } => {
                let domains = self.pauses.domains.iter().cloned().collect();
                let _ = answer.send(Paused { all: self.pauses.all, domains, stopped: self.spool.standstill() });
            }
            Command::Reload { current, answer } => {
                self.scheduler.reconfigure(self.now(), current.settings());
                let old = std::mem::replace(&mut self.current, current);
                self.replan();
                // Its connections count as leaving from here on; nobody waits for their goodbyes.
                drop(old.deliverer.close());
                let _ = answer.send(());
            }
            Command::Sites { count_max, answer } => {
                let _ = answer.send(self.scheduler.states(self.now(), count_max));
            }
            Command::Site { destination, sender, answer } => {
                let _ = answer.send(self.scheduler.state_of(self.now(), &destination, &sender));
            }
            Command::Levels { answer } => {
                let _ = answer.send(Levels { scheduled: self.scheduler.len(), attempts: self.scheduler.attempts_in_flight() });
            }
        }
    }

    /// The messages in memory go where they would go now; the others are planned when they come back.
    fn replan(&mut self) {
        for id in self.scheduler.ids() {
            let Some(message) = self.scheduler.message(id).cloned() else { continue };
            // What is under way comes to its end first: the message is planned anew when it is due again.
            let is_busy = !self.scheduler.in_flight(id).is_empty() || self.notices.is_about(id);
            if !is_busy || self.current.router.plan(&message, self.now()).expanded.is_empty() {
                self.admit(message);
            }
        }
    }

    async fn change(&mut self, verb: Verb, ids: Vec<QueueId>) -> Result<Changed, String> {
        self.confirm_expansions().await;
        if verb == Verb::Bounce {
            return self.bounce_all(ids).await.map_err(|error| error.to_string());
        }
        let mut changed = Changed::default();
        for id in ids {
            match self.change_one(verb, id).await.map_err(|error| error.to_string())? {
                Some(true) => changed.touched += 1,
                Some(false) => {}
                None => changed.unknown.push(id),
            }
        }
        self.spool.flush().await.map_err(|error| error.to_string())?;
        Ok(changed)
    }

    async fn pause(&mut self, domain: Option<Domain>) -> Result<(), String> {
        let mut pauses = self.pauses.clone();
        match &domain {
            None => pauses.all = true,
            Some(domain) => {
                pauses.domains.insert(domain.clone());
            }
        }
        self.save_pauses(pauses).await?;
        self.scheduler.pause(self.now(), domain.clone());
        self.events.report(Event::Paused { domain });
        Ok(())
    }

    async fn resume(&mut self, domain: Option<Domain>) -> Result<(), String> {
        let mut pauses = self.pauses.clone();
        match &domain {
            None => pauses = Pauses::default(),
            Some(domain) => {
                pauses.domains.remove(domain);
            }
        }
        self.save_pauses(pauses).await?;
        self.scheduler.resume(self.now(), domain.clone());
        self.next_due = Some(Timestamp::ZERO);
        self.events.report(Event::Resumed { domain });
        Ok(())
    }

    async fn save_pauses(&mut self, pauses: Pauses) -> Result<(), String> {
        pauses.save(&self.system, &self.spool_path).await.map_err(|error| format!("the pause could not be kept: {error}"))?;
        self.pauses = pauses;
        Ok(())
    }
}
