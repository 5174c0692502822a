//! The spool's stories: mail is accepted, changed, parked, forgotten, segments fill and go; the power is cut at every operation.
//!
//! A story is told once; disk, index and what is known are kept at every operation, and each of these cuts is recovered from.
//! Always true then: what was committed is there, byte for byte, in no older state than what was made sure; what was done with and
//! made sure stays away, and so does what was refused, once the spool has accepted another; nothing is invented; an update that
//! came with a message is there if and only if the message is; index and log agree; recovering again changes nothing.
//!
//! `POSTHOUSE_SIM=ci` makes many crashes, `POSTHOUSE_SIM_CRASHES=n` at least so many, `POSTHOUSE_SIM_FOR=8h` as many as fit into
//! that time. `POSTHOUSE_SIM_SEED=n` tells one story, `POSTHOUSE_SIM_CUT=k` cuts it only there; `POSTHOUSE_SIM_FIRST=n` begins with
//! another story than the first. Stories that ever ended badly are in `seeds`, and are told each time.

use std::time::{Duration, Instant};

use posthouse::system::sim::{SimDisk, SimRandom};

use crate::spool_cut::{At, Coverage, Cut, Stage};
use crate::spool_model::alike;
use crate::spool_story::{LATER, Plan, recover, stop};
use crate::spool_world::run;

/// Crashes of the slice that CI runs, and of a run without a wish.
const CI: u64 = 12_000;
const SHORT: u64 = 1500;
/// Crashes of a story with threads.
const CUTS_WITH_THREADS: usize = 12;
/// So many failures are shown before it ends.
const FAILURES_MAX: usize = 10;

/// What came of all crashes.
#[derive(Default)]
struct Tally {
    stories: u64,
    /// Power cuts and kills at an operation of a story.
    crashes: u64,
    /// Those while recovering from one of them.
    second: u64,
    coverage: Coverage,
    failures: Vec<String>,
}

/// One crash, and everything that must hold behind it.
fn crash(plan: &Plan, cut: &Cut, tally: &mut Tally) {
    let mut random = SimRandom::new(plan.seed.wrapping_mul(0x1_0001).wrapping_add(cut.number) ^ 0xc4a5);
    let mut places = cut.places;
    places.add_if(cut.disk.uncertain() > 0, At::Unsynced);
    places.add_if(cut.index.unmarked() > 0, At::IndexBehind);
    let (mut disk, mut index) = match random.below(4) {
        0 => {
            places.add(At::Killed);
            (cut.disk.killed(), cut.index.copy())
        }
        _ => (cut.disk.crashed(random.next_u64()), cut.index.crashed(&mut random)),
    };
    if random.below(5) == 0 {
        places.add(At::LostIndex);
        index = index.lost();
    }
    // It may happen again while recovering, and again; or the disk fails there.
    while random.below(5) == 0 {
        let (rebuild, stage) = (index.is_empty(), Stage::default());
        stage.watch(&disk, &index);
        if random.below(4) == 0 {
            places.add(At::FaultInRecovery);
            fail_somewhere(&disk, &mut random);
            if let Ok(found) = run(recover(plan, &disk, &index, 3)) {
                cut.model.check(&found);
            }
        } else {
            cut.model.check(&run(recover(plan, &disk, &index, 3)).unwrap());
        }
        let mut cuts = std::mem::take(&mut stage.scene().cuts);
        let chosen = cuts.swap_remove(random.below(cuts.len() as u64) as usize);
        (disk, index) = stop(&chosen.disk, &chosen.index, &mut random);
        places.add(At::SecondCrash);
        places.add_if(rebuild, At::SecondInRebuild);
        tally.second += 1;
    }
    let first = run(recover(plan, &disk, &index, 1)).unwrap();
    cut.model.check(&first);
    if random.below(4) == 0 {
        // Whatever a recovery found is safe: another gives the same after the next power cut, from whatever index.
        disk = disk.crashed(random.next_u64());
        let index = if random.below(2) == 0 { index.crashed(&mut random) } else { index.lost() };
        let again = run(recover(plan, &disk, &index, 2)).unwrap();
        alike(&again.messages, &first.messages);
        assert_eq!(first.contents, again.contents);
    }
    tally.crashes += 1;
    tally.coverage.add(places);
}

fn fail_somewhere(disk: &SimDisk, random: &mut SimRandom) {
    match random.below(4) {
        0 => disk.fail_write(random.below(4)),
        1 => disk.fail_sync(random.below(4)),
        2 => disk.fail_naming(random.below(4)),
        _ => disk.set_capacity(Some(disk.used() + random.below(9000))),
    }
}

/// Does something that may panic; what failed goes on record with how to see it again.
fn attempt(tally: &mut Tally, replay: &str, work: impl FnOnce(&mut Tally)) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(tally))).is_err() {
        println!("FAILED: {replay} cargo test --test sim -- nothing_committed_is_lost --nocapture");
        tally.failures.push(replay.to_owned());
    }
}

/// Tells the story of a seed and cuts it at every operation, or only at one.
fn story(seed: u64, only: Option<u64>, tally: &mut Tally) {
    let (plan, stage) = (Plan::new(seed), Stage::default());
    let told = number("POSTHOUSE_SIM_CUT").is_some();
    (stage.scene().only, stage.scene().told) = (only, told);
    if told {
        println!("{plan:#?}");
    }
    attempt(tally, &format!("POSTHOUSE_SIM_SEED={seed}"), |_| drop(plan.tell(&stage)));
    let cuts = std::mem::take(&mut stage.scene().cuts);
    for cut in cuts {
        if tally.failures.len() >= FAILURES_MAX {
            return;
        }
        attempt(tally, &format!("POSTHOUSE_SIM_SEED={seed} POSTHOUSE_SIM_CUT={}", cut.number), |tally| crash(&plan, &cut, tally));
    }
    tally.stories += 1;
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// Stories that once ended badly: seed, cut, what was wrong.
fn once_bad() -> impl Iterator<Item = (u64, Option<u64>)> {
    let lines = include_str!("seeds").lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(|line| {
        let mut words = line.split_whitespace();
        let seed = words.next().and_then(|seed| seed.parse().ok()).expect("a seed");
        (seed, words.next().and_then(|cut| cut.parse().ok()))
    })
}

fn print(tally: &Tally, since: Instant, next: u64) {
    let Tally { stories, crashes, second, failures, .. } = tally;
    let failures = failures.len();
    let seconds = since.elapsed().as_secs();
    println!(
        "{crashes} crashes in {stories} stories, {second} more while recovering, {failures} failures, {seconds} s; next seed {next}"
    );
}

#[test]
fn nothing_committed_is_lost_wherever_the_power_goes() {
    let mut tally = Tally::default();
    let since = Instant::now();
    if let Some(seed) = number("POSTHOUSE_SIM_SEED") {
        story(seed, number("POSTHOUSE_SIM_CUT"), &mut tally);
        print(&tally, since, seed + 1);
        assert_eq!(tally.failures, Vec::<String>::new());
        return;
    }
    once_bad().for_each(|(seed, cut)| story(seed, cut, &mut tally));
    let time = std::env::var("POSTHOUSE_SIM_FOR").ok().and_then(|time| posthouse::config::parse_duration(&time));
    let wish = number("POSTHOUSE_SIM_CRASHES").unwrap_or(if crate::in_ci() { CI } else { SHORT });
    let mut seed = number("POSTHOUSE_SIM_FIRST").unwrap_or(LATER);
    let mut said = Duration::ZERO;
    while tally.failures.len() < FAILURES_MAX && time.map_or(tally.crashes < wish, |time| since.elapsed() < time) {
        story(seed, None, &mut tally);
        seed += 1;
        if since.elapsed() >= said + Duration::from_secs(10) {
            said = since.elapsed();
            print(&tally, since, seed);
        }
    }
    print(&tally, since, seed);
    tally.coverage.print();
    assert_eq!(tally.failures, Vec::<String>::new());
    let missed = tally.coverage.missed();
    assert!(missed.is_empty() || !(crate::in_ci() || tally.crashes >= CI), "no crash ever fell into: {missed:?}");
}

/// Tells a story whose loops have threads, and cuts it at some operations.
fn story_with_threads(seed: u64, tally: &mut Tally) {
    let (plan, stage) = (Plan::with_threads(seed), Stage::default());
    attempt(tally, &format!("with threads, seed {seed}:"), |_| drop(plan.tell(&stage)));
    let mut cuts = std::mem::take(&mut stage.scene().cuts);
    let mut random = SimRandom::new(seed);
    for _ in 0..CUTS_WITH_THREADS.min(cuts.len()) {
        let cut = cuts.swap_remove(random.below(cuts.len() as u64) as usize);
        attempt(tally, &format!("with threads, seed {seed}, operation {}:", cut.number), |tally| crash(&plan, &cut, tally));
    }
    tally.stories += 1;
}

/// What threads do to each other, the seed doesn't decide: a failure may take many runs to come again.
#[test]
fn nothing_committed_is_lost_however_threads_meet() {
    let mut tally = Tally::default();
    let since = Instant::now();
    let time = std::env::var("POSTHOUSE_SIM_THREADS_FOR").ok().and_then(|time| posthouse::config::parse_duration(&time));
    let wish = if crate::in_ci() { 60 } else { 8 };
    let first = number("POSTHOUSE_SIM_FIRST").unwrap_or(LATER);
    let mut seed = first;
    while tally.failures.len() < FAILURES_MAX && time.map_or(seed < first + wish, |time| since.elapsed() < time) {
        story_with_threads(seed, &mut tally);
        seed += 1;
    }
    print(&tally, since, seed);
    assert_eq!(tally.failures, Vec::<String>::new());
}

#[test]
fn a_story_is_told_the_same_way_each_time() {
    for seed in 0..6 {
        let told = || {
            let stage = Stage::default();
            let disk = Plan::new(seed).tell(&stage);
            let places: Vec<_> = stage.scene().cuts.iter().map(|cut| (cut.number, cut.places)).collect();
            (places, disk.used(), stage.scene().model.living())
        };
        assert_eq!(told(), told(), "the story of seed {seed}");
    }
}
