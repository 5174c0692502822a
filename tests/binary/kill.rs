//! kill -9 under load from twenty sessions, small and large mail, segments released meanwhile: what was answered with 250 is
//! delivered, once or around a kill twice, undamaged. `POSTHOUSE_KILLS` says how many kills; twenty if it isn't set.

use std::time::Duration;

use time::OffsetDateTime;

use crate::load::Load;
use crate::support::PATIENCE;
use crate::support::random::Random;
use crate::support::server::Server;

/// A message is attempted again only if it was delivered this shortly before a kill: the record of it was not yet on disk.
const NEAR: Duration = Duration::from_secs(1);

#[test]
fn every_message_that_got_250_outlives_kills_under_load() {
    let kills = std::env::var("POSTHOUSE_KILLS").map_or(20, |count| count.parse().expect("POSTHOUSE_KILLS is a number"));
    let mut random = Random::new();
    let mut load = Load::new(random.next());
    for round in 0..kills {
        load.configure(round);
        let mut server = Server::launch(&load.home);
        load.until_the_end(round, &mut server, Duration::from_millis(60), &mut random);
        let killed = OffsetDateTime::now_utc();
        server.kill();
        server.process().wait(PATIENCE);
        load.ended(&server, killed);
        assert_eq!(load.damage(), [""; 0], "what kill {round} leaves is sound");
    }
    let mut server = Server::start(&load.home);
    load.go(&server);
    load.collect(50, Duration::ZERO);
    let figures = load.finish(&mut server, NEAR);
    assert_eq!(load.damage(), [""; 0], "at the end the spool is sound");
    eprintln!("{kills} kills: {figures:?}");
    assert!(figures.stayed > 0 && figures.held > 0, "the load has all kinds of mail");
    // The first segments are gone, and what stayed of the first rounds is not: it was copied, and kills fell into that.
    assert!(figures.oldest_segment > 4, "segments were released: {figures:?}");
}
