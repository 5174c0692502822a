//! How many connections there are to each site, and from each address of ours that is bounded: in use, or saying goodbye, which to the
//! other side are connections still. State: that; it outlives a reload, as they do.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::connection::Connection;
use crate::mail::Site;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Open {
    counts: Mutex<BTreeMap<Scope, Count>>,
    /// Told whenever a connection has left.
    left: Notify,
}

/// What connections are counted for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    /// A site that they go to.
    To(Site),
    /// Addresses of ours that they come from, by what the bounds are for.
    From(Arc<str>),
}

/// So many connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// Those of attempts under way, made or about to be.
    pub(super) busy: usize,
    /// Those that say goodbye.
    pub(super) leaving: usize,
}

/// Counts a connection that says goodbye as long as it lives.
struct Departure {
    open: Arc<Open>,
    scopes: Vec<Scope>,
}

impl Open {
    /// How many there are, without idle ones.
    pub(super) fn count(&self, scope: &Scope) -> Count {
        self.counts().get(scope).copied().unwrap_or_default()
    }

    /// One more is in use.
    pub(super) fn take_up(&self, scopes: &[Scope]) {
        self.change(scopes, |count| count.busy += 1);
    }

    /// One less is.
    pub(super) fn give_up(&self, scopes: &[Scope]) {
        self.change(scopes, |count| count.busy -= 1);
    }

    /// Counts a connection from now on until its goodbye, which is what is returned, has come to its end or is dropped.
    pub(super) fn goodbye(
        self: &Arc<Self>,
        scopes: Vec<Scope>,
        connection: Connection,
    ) -> impl Future<Output = ()> + Send + use<> {
        self.change(&scopes, |count| count.leaving += 1);
        let departure = Departure { open: Arc::clone(self), scopes };
        async move {
            connection.quit().await;
            drop(departure);
        }
    }

    /// The next time that one has left, from now on.
    pub(super) fn left(&self) -> Notified<'_> {
        self.left.notified()
    }

    fn change(&self, scopes: &[Scope], change: impl Fn(&mut Count)) {
        let mut counts = self.counts();
        for scope in scopes {
            let count = counts.entry(scope.clone()).or_default();
            change(count);
            if *count == Count::default() {
                counts.remove(scope);
            }
        }
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<Scope, Count>> {
        // Every change is complete before the lock is released: a panic elsewhere leaves nothing half done.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        self.open.change(&self.scopes, |count| count.leaving -= 1);
        self.open.left.notify_waiters();
    }
}
