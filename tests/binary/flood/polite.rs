//! A polite client that sends one message after the other, each on a connection of its own, and remembers how long the slowest took.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::support::client::Client;

/// The client, at work.
pub(crate) struct Polite {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

/// The longest that a message may take, from the connection to the last 250. A slice runs beside other tests, in a debug build.
fn patience() -> Duration {
    Duration::from_secs(if super::is_full() { 1 } else { 10 })
}

impl Polite {
    /// Starts sending.
    pub(crate) fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut times = Vec::new();
            // At least one message, however short the flood.
            while times.is_empty() || !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                let mut client = Client::open(address).expect("a polite client is let in");
                client.send("sue@client.test", &["ann@example.test"], b"Subject: x\r\n\r\npolite\r\n").expect("and served");
                client.say("QUIT").and_then(|()| client.expect(221)).expect("to the end");
                times.push(began.elapsed());
                thread::park_timeout(Duration::from_millis(20));
            }
            times
        });
        Self { stop, thread }
    }

    /// Stops, and fails if a message took too long.
    pub(crate) fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let times = self.thread.join().expect("the polite client was served");
        let slowest = times.iter().max().expect("at least one message");
        eprintln!("a polite client sent {} messages, the slowest in {slowest:?}", times.len());
        assert!(*slowest <= patience(), "a polite client waited {slowest:?}");
    }
}
