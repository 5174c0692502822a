//! Power cuts on the real binary, under load: what was written but not synced is taken back in random parts, in log, index, content
//! and Maildirs; what was answered with 250 is there. `POSTHOUSE_POWERCUTS` says how many cuts; ten if it isn't set.
//!
//! A preloaded library rather than a file system of the test's own: it sees each call of the server as it is made, so that what a
//! sync covers is known exactly, and it needs neither root nor a kernel module.

mod revert;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use time::OffsetDateTime;

use self::revert::Reverted;
use crate::load::Load;
use crate::preload::library;
use crate::support::PATIENCE;
use crate::support::random::Random;
use crate::support::server::Server;

/// What was delivered this shortly before a cut may be delivered again: its record is durable 100 ms later, on a busy machine more.
const NEAR: Duration = Duration::from_secs(2);

/// A server whose changes are noted.
fn launch(load: &Load, library: &Path, notes: &TempDir) -> Server {
    Server::launch_with(&load.home, |command| {
        let root = load.home.path();
        command.env("LD_PRELOAD", library).env("POWERCUT_ROOT", root).env("POWERCUT_NOTES", notes.path());
    })
}

#[test]
fn every_message_that_got_250_outlives_power_cuts_under_load() {
    let rounds = std::env::var("POSTHOUSE_POWERCUTS").map_or(10, |count| count.parse().expect("POSTHOUSE_POWERCUTS is a number"));
    let build = TempDir::new().unwrap();
    let Some(library) = library(build.path(), "powercut/powercut.c") else { return };
    let notes = TempDir::new().unwrap();
    let mut random = Random::new();
    let mut load = Load::new(random.next());
    let (mut reverted, mut rebuilt) = (Reverted::default(), 0);
    for round in 0..rounds {
        load.configure(round);
        let mut server = launch(&load, &library, &notes);
        load.until_the_end(round, &mut server, Duration::from_millis(150), &mut random);
        let killed = OffsetDateTime::now_utc();
        server.kill();
        server.process().wait(PATIENCE);
        rebuilt += server.events("index-rebuilt").len();
        reverted += revert::cut(load.home.path(), notes.path(), &mut random);
        load.ended(&server, killed);
        // An index that was cut is built anew at the next start; the rest is sound as it lies there.
        let damaged: Vec<_> = load.damage().into_iter().filter(|finding| !finding.starts_with("index-")).collect();
        assert!(damaged.is_empty(), "after cut {round}: {damaged:?}");
    }
    let mut server = launch(&load, &library, &notes);
    server.wait_until_listening();
    rebuilt += server.events("index-rebuilt").len();
    load.go(&server);
    load.collect(50, Duration::ZERO);
    let figures = load.finish(&mut server, NEAR);
    eprintln!("{rounds} power cuts: {reverted:?}; index rebuilt {rebuilt} times; {figures:?}");
    assert_eq!(load.damage(), [""; 0], "at the end the spool is sound, with its index");
    let sectors = |folder| reverted.below(folder).sectors;
    assert!(sectors("spool/log") > 0, "the cuts cut: {reverted:?}");
    // The index is written to only now and then: a few cuts may all miss it.
    let all_cut = sectors("spool/index") > 0 && sectors("spool/content") > 0;
    assert!(rounds < 100 || all_cut, "log, index and content were all cut: {reverted:?}");
    assert!(figures.stayed > 0 && figures.held > 0, "the load has all kinds of mail");
}

/// What is below a folder, with what the files hold.
fn everything(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| if path.is_dir() { everything(&path) } else { [(path.clone(), fs::read(&path).unwrap())].into() })
        .collect()
}

/// The process is killed between the entry and the change: what wasn't made can't be taken back.
#[test]
fn a_change_that_was_announced_and_never_made_takes_back_nothing() {
    let build = TempDir::new().unwrap();
    let Some(library) = library(build.path(), "powercut/powercut.c") else { return };
    let calls = [["mkdir", "folder", ""], ["ln", "one", "two"], ["mv", "three", "one"], ["rm", "two", ""]];
    for (seed, call) in (0..8).flat_map(|seed| calls.map(|call| (seed, call))) {
        let (root, notes, aside) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
        fs::create_dir(root.path().join("folder")).unwrap();
        fs::write(root.path().join("folder/inside"), "inside").unwrap();
        let names = ["one", "two", "three"];
        for name in names {
            fs::write(root.path().join(name), name).unwrap();
            fs::hard_link(root.path().join(name), aside.path().join(name)).unwrap();
        }
        let before = everything(root.path());
        let mut command = Command::new(call[0]);
        command.env("LD_PRELOAD", &library).env("POWERCUT_ROOT", root.path()).env("POWERCUT_NOTES", notes.path());
        command.args(call[1..].iter().filter(|name| !name.is_empty())).current_dir(root.path()).output().unwrap();
        revert::forget_failures(notes.path());
        for name in names {
            let _ = fs::remove_file(root.path().join(name));
            fs::hard_link(aside.path().join(name), root.path().join(name)).unwrap();
        }
        revert::cut(root.path(), notes.path(), &mut Random::with(seed));
        assert_eq!(everything(root.path()), before, "{call:?}, seed {seed}");
    }
}
