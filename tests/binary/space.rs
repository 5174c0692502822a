//! The disk that a spool of small segments takes while mail comes and goes, one message in a hundred staying: at no moment more than twice
//! what lives and two segments (docs/spool.md). By what the files take, not by the server's word; `benches/space.py` does so for hours.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

use crate::load::{Number, sized};
use crate::support::client::Client;
use crate::support::home::Home;
use crate::support::peer::Peer;
use crate::support::server::{Server, field};

const SESSIONS: u64 = 4;
const WAVES: u64 = 40;
/// Messages of a session in a wave.
const EACH: u64 = 10;
const SIZE: usize = 10_000;
const SEGMENT: u64 = 1 << 20;

/// Bytes of disk that the files below a folder take; the reserve doesn't count with segments as small as these.
fn used(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name() == "reserve" {
            continue;
        }
        // One that has just gone takes nothing.
        let Ok(about) = entry.metadata() else { continue };
        bytes += if about.is_dir() { used(&entry.path()).unwrap_or(0) } else { about.blocks() * 512 };
    }
    Ok(bytes)
}

fn stays((session, sequence): Number) -> bool {
    (session * EACH * WAVES + sequence).is_multiple_of(100)
}

#[test]
fn the_spool_takes_no_more_than_twice_what_lives_and_two_segments() {
    let far = Peer::new();
    let stay = Peer::with(|line| (line.starts_with("RCPT") || line == "DATA").then(|| "451 4.2.0 come back later".to_owned()));
    let home = Home::new(&format!(
        "[relay]\nnetworks = [\"127.0.0.1/32\"]\n[retry]\nfirst = \"2h\"\n\
         [[route]]\ndomain = \"far.test\"\nhosts = [\"{}\"]\n[[route]]\ndomain = \"stay.test\"\nhosts = [\"{}\"]\n",
        far.address(),
        stay.address()
    ));
    home.fragment("spool", "[spool]\nsegment_size = \"1MiB\"\n");
    let mut server = Server::start(&home);
    let address = server.address();
    let (mut kept, mut looks, mut most) = (0, 0, 0);
    for wave in 0..WAVES {
        let sessions: Vec<_> = (0..SESSIONS)
            .map(|session| {
                thread::spawn(move || {
                    let mut client = Client::open(address).unwrap();
                    for sequence in wave * EACH..(wave + 1) * EACH {
                        let number = (session, sequence);
                        let to = if stays(number) { "u@stay.test" } else { "u@far.test" };
                        client.send("load@client.test", &[to], &sized(1, number, SIZE)).unwrap();
                    }
                })
            })
            .collect();
        // What may live: all of this wave and, as its end may not be on record yet, of the one before; and what stays.
        let live = (kept + 2 * SESSIONS * EACH) * (SIZE as u64 + 500);
        let bound = 2 * live + 2 * SEGMENT;
        while sessions.iter().any(|session| !session.is_finished()) {
            let now = used(&home.at("spool")).unwrap();
            assert!(now <= bound, "{now} bytes on disk in wave {wave}, {bound} are allowed");
            (looks, most) = (looks + 1, most.max(now));
        }
        sessions.into_iter().for_each(|session| session.join().unwrap());
        let numbers = (0..SESSIONS).flat_map(|session| (wave * EACH..(wave + 1) * EACH).map(move |sequence| (session, sequence)));
        kept += numbers.filter(|number| stays(*number)).count() as u64;
        let (gone, mut seen) = ((wave + 1) * SESSIONS * EACH - kept, 0);
        server.event("finished", |event| {
            seen += u64::from(!field(event, "id").is_empty());
            seen == gone
        });
    }
    let sent = WAVES * SESSIONS * EACH * SIZE as u64;
    eprintln!("{sent} bytes sent, {kept} messages stay; {most} bytes on disk at the most, of {looks} looks");
    assert!(looks > WAVES && kept > 0, "it was looked at, and some stay");
    assert_eq!(server.stop().code(), Some(0));
}
