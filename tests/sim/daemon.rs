//! The whole server's stories: clients send, users of the machine leave mail in the drop folder, mail is delivered, deferred,
//! expanded, bounced, held; the power goes with every single disk operation, and may go again while the server recovers.
//!
//! Always true afterwards: a recipient whose 250 the client saw, or whose file was safe in the drop folder, is delivered or bounced
//! once the queue is empty, never both; nothing comes twice but for a crash or cut between delivery and its record, and not even then
//! where a mailbox has it, read or not; no notice is about a notice; each sender hears what it asked for, once, and nothing else;
//! nothing outlives its lifetime;
//! nobody is asked again sooner than it said, nor soon after a lost last reply; a refusal over IPv6 is nobody's last word;
//! log, index and scheduler agree; nothing is damaged, and nothing arrives in part.
//!
//! `POSTHOUSE_SIM=ci` tells many stories with a cut at every operation; without it a few cuts. `POSTHOUSE_SIM_SEED=n` tells one
//! story, `POSTHOUSE_SIM_CUT=k` cuts it only there; `POSTHOUSE_SIM_FIRST=n` begins with another story than the first.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use posthouse::daemon::Handle;
use posthouse::mail::Timestamp;
use posthouse::queue::Verb;
use posthouse::spool::index::MemoryIndex;
use posthouse::spool::{Filter, read_stopped};
use posthouse::system::sim::{Act, Script, SimDisk, SimRandom, Stage, World, run};
use posthouse::system::{Clock, Disk};

use crate::client::{Client, Gone};
use crate::daemon_drops::{leave, user};
use crate::daemon_rules::{Found, Sent, check_waits};
use crate::daemon_world::{Peers, Scripts, Shared, USERS, address, new_disk, read_mails, start, until};
use crate::world::{DAY, HOUR, MINUTE, TRUSTED};

const CLIENTS: u64 = 4;
const RECIPIENTS: [&str; 11] = [
    "ann@example.test",
    "bob@example.test",
    "sue@example.test",
    "team@example.test",
    "mix@example.test",
    "eve@far.test",
    "joe@far.test",
    "gone@far.test",
    "x@dead.test",
    "y@cut.test",
    "z@busy.test",
];

/// What the power left behind.
struct Left {
    disk: SimDisk,
    index: MemoryIndex,
    world: World,
    now: Timestamp,
    sent: Vec<Sent>,
    taken: Vec<(String, Vec<u8>)>,
}

/// What peers do first: refuse some, fail now and then, say when to come back, once lose the reply to the final dot.
fn first_scripts(random: &mut SimRandom) -> Scripts {
    let Scripts { mut far, mut far_too, busy, .. } = last_scripts();
    let refusal = "550 5.7.25 [2a00:9::1] has no PTR record";
    let stages = [Stage::Greeting, Stage::Mail, Stage::AnyRecipient, Stage::Data, Stage::End];
    let far_ipv6 = Script::default().always(stages[random.below(5) as usize].clone(), Act::say(refusal));
    for host in [&mut far, &mut far_too] {
        if random.below(2) == 0 {
            host.set_once(Stage::AnyRecipient, Act::say("451 4.7.1 Greylisted, try again in 90 seconds"));
        }
    }
    if random.below(2) == 0 {
        far.set_once(Stage::Recipient("joe@far.test".to_owned()), Act::say("450 4.2.1 busy"));
    }
    if random.below(2) == 0 {
        far.set_once(Stage::Data, Act::say("451 4.3.0 not now"));
    }
    if random.below(2) == 0 {
        far.set_once(Stage::End, Act::Close);
    }
    let cut = Script::default().once(Stage::End, Act::TakeAndClose);
    Scripts { far, far_too, far_ipv6, cut, busy }
}

/// What they do once the server is back.
fn last_scripts() -> Scripts {
    let far = Script::default().always(Stage::Recipient("gone@far.test".to_owned()), Act::say("550 5.1.1 nobody"));
    let far_ipv6 = Script::default().always(Stage::Greeting, Act::say("554 5.7.1 we take no mail over IPv6"));
    let busy = Script::default().always(Stage::Data, Act::say("451 4.3.2 never ready"));
    Scripts { far: far.clone(), far_too: far, far_ipv6, cut: Script::default(), busy }
}

/// A client with a few messages, sizes and recipients by its random numbers.
async fn client(world: World, number: u64, mut random: SimRandom, sent: Shared<Vec<Sent>>) -> Result<(), Gone> {
    tokio::time::sleep(Duration::from_millis(random.below(3000))).await;
    let mut client = Client::connect(&world.net, TRUSTED, address()).await?;
    client.hello().await?;
    for n in 0..2 + random.below(3) {
        let token = format!("m-{number}-{n}");
        let from = if random.below(8) == 0 { String::new() } else { format!("s{number}@example.test") };
        let mut to: Vec<&str> = (0..1 + random.below(4)).map(|_| RECIPIENTS[random.below(11) as usize]).collect();
        to.dedup();
        let wishes = [None, None, None, Some("NEVER"), Some("SUCCESS,FAILURE,DELAY"), Some("SUCCESS")];
        let notify = wishes[random.below(6) as usize];
        let size = match random.below(12) {
            0 => 300_000,
            1 | 2 => 8000,
            _ => random.below(2000),
        };
        let lines = "a line of the body, forty-two octets.....\r\n".repeat(size as usize / 43);
        let content = format!("Subject: {token}\r\nX-From: {from}\r\n\r\n{lines}").into_bytes();
        let at = {
            let mut sent = sent.lock().unwrap();
            sent.push(Sent {
                token,
                from: from.clone(),
                to: to.clone(),
                notify,
                content: content.clone(),
                accepted: false,
                is_bad: false,
            });
            sent.len() - 1
        };
        let parameters = notify.map(|notify| format!(" NOTIFY={notify}")).unwrap_or_default();
        let replies = client.transaction_with(&from, &to, &parameters, &content).await?;
        let accepted = replies.last().is_some_and(|reply| reply.starts_with("250 2.0.0"));
        sent.lock().unwrap()[at].accepted = accepted;
        if random.below(3) == 0 {
            tokio::time::sleep(Duration::from_secs(random.below(400))).await;
        }
    }
    client.command("QUIT").await.map(drop)
}

/// What an admin does meanwhile: holds and releases, tries at once, gives up.
async fn administer(handle: &Handle, mut random: SimRandom) {
    let queue = handle.spool().list(&Filter::default()).await.unwrap_or_default();
    for message in queue {
        let id = vec![message.id];
        // What isn't confirmed because the power went is no promise.
        let _ = match random.below(6) {
            0 => handle.change(Verb::Retry, id).await,
            1 => {
                let _ = handle.change(Verb::Hold, id.clone()).await;
                tokio::time::sleep(MINUTE).await;
                handle.change(Verb::Release, id).await
            }
            2 if message.recipients.iter().all(|to| to.address.domain().as_str() == "busy.test") => {
                handle.change(Verb::Bounce, id).await
            }
            _ => continue,
        };
    }
}

/// The faults of a story, by its seed.
fn faults(disk: &SimDisk, seed: u64) {
    let mut random = SimRandom::new(seed ^ 0xfa17);
    match seed % 4 {
        // Until the clients are through.
        1 => disk.set_capacity(Some(disk.used() + 50_000 + random.below(500_000))),
        2 => disk.fail_sync(5 + random.below(80)),
        3 => disk.fail_write(5 + random.below(120)),
        _ => {}
    }
}

/// Tells the story of a seed until the power goes with operation `cut`, or to its end.
fn tell(seed: u64, cut: Option<u64>) -> Left {
    let disk = new_disk();
    let index = MemoryIndex::forgetful();
    let begun = disk.operations();
    if let Some(cut) = cut {
        disk.crash_after(cut - begun);
    }
    faults(&disk, seed);
    let sent = Shared::<Vec<Sent>>::default();
    run(async {
        let world = World::new(seed);
        let mut random = SimRandom::new(seed);
        let peers = Peers::start(&world, first_scripts(&mut random)).await;
        if let Ok(handle) = start(&world, &disk, &index, false).await {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|number| tokio::spawn(client(world.clone(), number, SimRandom::new(random.next_u64()), sent.clone())))
                .chain((0..2).map(|number| {
                    let random = SimRandom::new(seed.wrapping_mul(64).wrapping_add(number));
                    let left = user(world.clone(), disk.clone(), number, random, sent.clone());
                    tokio::spawn(async move {
                        left.await;
                        Ok(())
                    })
                }))
                .collect();
            let busy = || clients.iter().any(|client| !client.is_finished());
            until(&disk, HOUR, || !busy()).await;
            disk.set_capacity(None);
            let admin = SimRandom::new(random.next_u64());
            let _ = tokio::time::timeout(HOUR, powered(&disk, administer(&handle, admin))).await;
            let quiet = until(&disk, DAY, || handle.spool().gauges().messages == 0).await;
            assert!(quiet, "something outlived its lifetime");
            check_waits(&handle.events().recorded());
            handle.stop("the story is over");
            until(&disk, HOUR, || handle.events().recorded().iter().any(|event| event.name() == "stopped")).await;
        }
        let sent = sent.lock().unwrap().clone();
        Left { disk: disk.clone(), index, now: world.clock.now(), world, sent, taken: peers.taken() }
    })
}

/// Gives up when the power goes.
async fn powered<T>(disk: &SimDisk, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        true = until(disk, DAY, || false) => None,
    }
}

/// Starts the server on what is left and lets it finish. False: the power went again.
async fn finish(left: &mut Left) -> bool {
    let world = left.world.restart(left.now);
    let peers = Peers::start(&world, last_scripts()).await;
    let disk: Arc<dyn Disk> = Arc::new(left.disk.clone());
    let stopped = read_stopped(Path::new("/spool"), &disk).map(|spool| spool.list(&Filter::default()));
    let begun = start(&world, &left.disk, &left.index, true).await;
    let done = match begun {
        Ok(handle) => {
            let listed = handle.spool().list(&Filter::default()).await;
            if let (Ok(listed), Ok(stopped)) = (listed, stopped) {
                assert_eq!(listed, stopped, "log and index disagree");
            }
            settle(&left.disk, &handle).await
        }
        Err(why) => {
            assert!(left.disk.is_off(), "the server doesn't start again: {why}");
            false
        }
    };
    left.now = world.clock.now();
    left.taken.extend(peers.taken());
    done
}

/// Resumes, releases what is held, waits for the end of all mail.
async fn settle(disk: &SimDisk, handle: &Handle) -> bool {
    let _ = powered(disk, async {
        let held = Filter { state: Some(posthouse::mail::MessageState::Held), ..Filter::default() };
        let held = handle.spool().list(&held).await.unwrap_or_default();
        let _ = handle.change(Verb::Release, held.iter().map(|message| message.id).collect()).await;
        let _ = handle.resume(None).await;
    })
    .await;
    // The longest lifetime, twice for a notice's own, and a wait.
    let quiet = until(disk, HOUR * 5, || handle.spool().gauges().messages == 0).await;
    if disk.is_off() {
        return false;
    }
    assert!(quiet, "something outlived its lifetime: {:#?}", handle.spool().list(&Filter::default()).await);
    assert_eq!(handle.spool().list(&Filter::default()).await, Ok(Vec::new()));
    assert_eq!(handle.levels().await.map(|levels| levels.scheduled), Ok(0));
    check_waits(&handle.events().recorded());
    handle.stop("the story is over");
    handle.stopped().await;
    if disk.is_off() {
        return false;
    }
    if disk.is_off() {
        // With one of the last operations: a clean end cuts the open segment and removes the spares.
        return false;
    }
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let spool = read_stopped(Path::new("/spool"), &disk).map(|spool| spool.list(&Filter::default()));
    assert_eq!(spool.ok(), Some(Vec::new()), "what is done came back in the log");
    true
}

/// One crash, perhaps another in the recovery, and the rules. How many crashes it were.
fn crash(seed: u64, cut: Option<u64>) -> usize {
    let mut left = tell(seed, cut);
    let mut random = SimRandom::new(seed.wrapping_mul(31).wrapping_add(cut.unwrap_or(u64::MAX)));
    let mut crashes = 0;
    loop {
        crashes += 1;
        left.disk = left.disk.crashed(random.next_u64());
        left.index = match random.below(2) {
            0 => MemoryIndex::forgetful(),
            _ => left.index.without_last(random.below(left.index.unmarked() as u64 + 1) as usize),
        };
        if random.below(2) == 0 {
            USERS.iter().for_each(|user| read_mails(&left.disk, &format!("/mail/example.test/{user}")));
        }
        // The server is down, and somebody sends all the same.
        if crashes == 1 && random.below(2) == 0 {
            let world = left.world.restart(left.now);
            left.sent.push(run(async { leave(&world, &left.disk, "m-down".to_owned(), &mut random) }));
        }
        if random.below(3) == 0 {
            left.disk.crash_after(random.below(60));
        }
        if run(finish(&mut left)) {
            break;
        }
    }
    Found::read(&left.disk, left.taken).check(&left.sent, crashes);
    crashes
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// Cuts the stories of these seeds at every `step`-th operation. How many crashes it were.
fn sweep(seeds: impl Iterator<Item = u64>, step: u64) -> u64 {
    let mut count = 0;
    for seed in seeds {
        let (first, last) = (new_disk().operations(), tell(seed, None).disk.operations());
        let mut cuts: Vec<Option<u64>> = (first + seed % step..last).step_by(step as usize).map(Some).chain([None]).collect();
        if let Some(cut) = number("POSTHOUSE_SIM_CUT") {
            cuts = vec![Some(cut)];
        }
        for cut in cuts {
            let told = std::panic::catch_unwind(|| crash(seed, cut));
            let at = cut.map_or("the end".to_owned(), |cut| cut.to_string());
            let crashes = told.unwrap_or_else(|_| panic!("POSTHOUSE_SIM_SEED={seed} POSTHOUSE_SIM_CUT={at}"));
            count += crashes as u64;
        }
    }
    println!("{count} crashes of the whole server");
    count
}

fn stories(share: u64) {
    match number("POSTHOUSE_SIM_SEED") {
        Some(seed) if seed % 2 == share => drop(sweep(std::iter::once(seed), 1)),
        Some(_) => {}
        None if crate::in_ci() => {
            let first = number("POSTHOUSE_SIM_FIRST").unwrap_or(0);
            let crashes = sweep((first..first + 10).filter(|seed| seed % 2 == share), 1);
            assert!(crashes >= 2500, "only {crashes} crashes");
        }
        None => drop(sweep(std::iter::once(share), 17)),
    }
}

#[test]
fn no_mail_is_lost_wherever_the_power_goes() {
    stories(0);
}

#[test]
fn no_mail_is_lost_wherever_the_power_goes_in_other_stories() {
    stories(1);
}

#[test]
fn a_story_without_crash_keeps_the_rules_and_goes_the_same_way_each_time() {
    for seed in 0..4 {
        let (once, again) = (tell(seed, None), tell(seed, None));
        assert_eq!((once.disk.operations(), once.now, &once.taken), (again.disk.operations(), again.now, &again.taken));
        let accepted = |begins: &str| once.sent.iter().filter(|sent| sent.accepted && sent.token.starts_with(begins)).count();
        assert!(accepted("m-") > 10 && accepted("m-u") >= 4, "{seed}: {} of them {}", accepted("m-"), accepted("m-u"));
        Found::read(&once.disk, once.taken).check(&once.sent, 0);
    }
}
