//! A full disk, a small tmpfs in a mount namespace of its own: 452 until there is room, nothing half kept, everything else goes on; and
//! a server that starts with not a byte free gets out of that by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Instant;

use crate::load::{Number, number, sized, wait_until_empty};
use crate::support::PATIENCE;
use crate::support::client::Client;
use crate::support::home::Home;
use crate::support::maildir;
use crate::support::peer::Peer;
use crate::support::process::Process;
use crate::support::random::Random;
use crate::support::server::{Server, field, listing, run, wait_for_control};

const SESSIONS: u64 = 10;

/// A tmpfs on a home's spool folder that only its own namespace sees. It goes away with the last process in there.
struct Mount {
    holder: Process,
    home: PathBuf,
}

impl Mount {
    /// None: mounts aren't permitted here, and not asked for.
    fn new(home: &Home) -> Option<Self> {
        fs::create_dir(home.at("spool")).unwrap();
        let script = "mount -t tmpfs -o size=32m,mode=0700 tmpfs spool && echo mounted && exec tail -f /dev/null || echo refused";
        let mut command = Command::new("unshare");
        command.args(["-m", "--propagation", "private", "sh", "-c", script]).current_dir(home.path());
        let holder = Process::start("unshare", command.args(["sh"]));
        let said = holder.output().wait("whether mounts are permitted", PATIENCE, |line| {
            ["mounted", "refused", "unshare"].iter().find(|word| line.starts_with(**word)).map(|word| *word == "mounted")
        });
        if !said {
            assert!(std::env::var("POSTHOUSE_INTEROP").map_or(true, |value| value != "required"), "mounts are not permitted");
            eprintln!("passed over, mounts are not permitted");
            return None;
        }
        Some(Self { holder, home: home.path().to_owned() })
    }

    /// A path in the mounted folder, as seen from outside.
    fn at(&self, path: &str) -> PathBuf {
        let spool = self.home.join("spool").join(path);
        PathBuf::from(format!("/proc/{}/root{}", self.holder.pid(), spool.display()))
    }

    /// Starts a server that sees the mount.
    fn start(&self, home: &Home) -> Server {
        let mut server = Server::launch_within(home, |binary| {
            let mut command = Command::new("nsenter");
            let inside = format!("cd '{}' && exec \"$0\" serve", self.home.display());
            command.args(["-t", &self.holder.pid().to_string(), "-m", "sh", "-c", &inside]).arg(binary);
            command
        });
        server.wait_until_listening();
        wait_for_control(home);
        server
    }

    /// A file of so many bytes, or with no limit: up to the disk's last byte.
    fn filler(&self, name: &str, bytes: Option<usize>) {
        let mut file = File::create(self.at(name)).unwrap();
        match bytes {
            Some(bytes) => file.write_all(&vec![1; bytes]).unwrap(),
            None => {
                while file.write_all(&[1; 4096]).is_ok() {}
                let free = rustix::fs::statvfs(self.at("")).unwrap().f_bavail;
                assert_eq!(free, 0, "the disk is full to the last block");
            }
        }
    }
}

/// What a session was told.
#[derive(Default)]
struct Told {
    taken: BTreeMap<Number, String>,
    refused: BTreeSet<Number>,
}

fn domain((_, sequence): Number) -> &'static str {
    if sequence % 4 == 1 { "far.test" } else { "stay.test" }
}

fn size(seed: u64, number: Number) -> usize {
    let mut random = Random::with(seed ^ (number.0 << 32) ^ number.1);
    let bits = random.between(12, 19);
    random.between(1 << bits, 2 << bits) as usize
}

/// Sends one message; false: 452, at whatever command. Any other refusal fails.
fn send(client: &mut Client, seed: u64, number: Number, told: &mut Told) -> bool {
    let to = format!("u@{}", domain(number));
    match client.send("load@client.test", &[&to], &sized(seed, number, size(seed, number))) {
        Ok(reply) => {
            told.taken.insert(number, reply.id().to_owned());
            true
        }
        Err(error) => {
            assert!(error.to_string().contains("code: 452"), "{number:?}: {error}");
            told.refused.insert(number);
            false
        }
    }
}

/// Sessions send until each has been refused twice.
fn fill(server: &Server, seed: u64) -> Told {
    let address = server.address();
    let sessions: Vec<_> = (0..SESSIONS)
        .map(|session| {
            thread::spawn(move || {
                let (mut client, mut told) = (Client::open(address).unwrap(), Told::default());
                for sequence in 0.. {
                    if !send(&mut client, seed, (session, sequence), &mut told) {
                        // The transaction may have begun: a new connection has none.
                        client = Client::open(address).unwrap();
                    }
                    if told.refused.len() == 2 {
                        break;
                    }
                }
                told
            })
        })
        .collect();
    let mut told = Told::default();
    for session in sessions {
        let session = session.join().unwrap();
        told.taken.extend(session.taken);
        told.refused.extend(session.refused);
    }
    told
}

/// Tries until mail is taken.
fn taken_again(server: &Server, seed: u64, number: Number, told: &mut Told) {
    let deadline = Instant::now() + PATIENCE;
    while !send(&mut server.client(), seed, number, told) {
        assert!(Instant::now() < deadline, "mail is not taken again in time");
    }
    told.refused.remove(&number);
}

/// Takes what a peer got until all of these have arrived; each must be what was sent.
fn arrive(peer: &Peer, seed: u64, told: &Told, wanted: &str, arrived: &mut BTreeSet<Number>) {
    let left =
        |arrived: &BTreeSet<Number>| told.taken.keys().any(|number| domain(*number) == wanted && !arrived.contains(number));
    while left(arrived) {
        let mail = peer.next();
        let number = number(&mail.content);
        maildir::above(&mail.content, &sized(seed, number, size(seed, number)));
        assert_eq!(Some(maildir::queue_id(&mail.content)), told.taken.get(&number).map(String::as_str), "{number:?}");
        assert!(arrived.insert(number), "{number:?} arrived twice");
    }
}

/// The queue has exactly what was promised and can't have been delivered.
fn check_queue(home: &Home, told: &Told, removed: &BTreeSet<String>) {
    let listed = listing(home, &["queue", "list", "--domain", "stay.test", "--json"]);
    let listed: BTreeSet<&str> = listed.iter().map(|message| field(message, "id")).collect();
    let stay = told.taken.iter().filter(|(number, id)| domain(**number) == "stay.test" && !removed.contains(*id));
    assert_eq!(listed, stay.map(|(_, id)| id.as_str()).collect());
}

#[test]
fn a_full_disk_refuses_new_mail_and_costs_nothing_else() {
    let open = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let gate = std::sync::Arc::clone(&open);
    let stay = Peer::with(move |line| {
        let asks = line.starts_with("RCPT") || line == "DATA";
        (asks && !gate.load(std::sync::atomic::Ordering::SeqCst)).then(|| "451 4.2.0 come back later".to_owned())
    });
    let far = Peer::new();
    let home = Home::new(&format!(
        "[relay]\nnetworks = [\"127.0.0.1/32\"]\n[retry]\nfirst = \"2h\"\n\
         [[route]]\ndomain = \"far.test\"\nhosts = [\"{}\"]\n[[route]]\ndomain = \"stay.test\"\nhosts = [\"{}\"]\n",
        far.address(),
        stay.address()
    ));
    home.fragment("size", "[spool]\nsegment_size = \"1MiB\"\nmin_free = \"2MiB\"\n[admin]\nsocket = \"control.sock\"\n");
    let Some(mount) = Mount::new(&home) else { return };
    let mut random = Random::new();
    let seed = random.next();
    let mut arrived = BTreeSet::new();

    // Under load until it is full; what was taken is there, what was refused is not.
    let mut server = mount.start(&home);
    mount.filler("filler", Some(6 << 20));
    let mut told = fill(&server, seed);
    // The look at the disk counts for a second: until then it may be the writes that are refused.
    let deadline = Instant::now() + PATIENCE;
    for sequence in 0.. {
        if !server.events("spool-full").is_empty() {
            break;
        }
        send(&mut server.client(), seed, (SESSIONS + 1, sequence), &mut told);
        assert!(Instant::now() < deadline, "the server doesn't say that its disk is full");
    }
    arrive(&far, seed, &told, "far.test", &mut arrived);
    let mut removed = BTreeSet::new();
    check_queue(&home, &told, &removed);

    // An operator can work.
    let stays: Vec<String> = listing(&home, &["queue", "list", "--json"]).iter().map(|m| field(m, "id").to_owned()).collect();
    for (verb, id) in [("hold", &stays[0]), ("remove", &stays[1]), ("retry", &stays[2])] {
        let output = run(&home, &["queue", verb, id]);
        assert!(output.status.success(), "{verb}: {output:?}");
    }
    removed.insert(stays[1].clone());
    check_queue(&home, &told, &removed);

    // Space returns: mail is taken again, by the same server.
    fs::remove_file(mount.at("filler")).unwrap();
    taken_again(&server, seed, (SESSIONS, 1), &mut told);
    arrive(&far, seed, &told, "far.test", &mut arrived);

    // What was delivered is on record once an order is: or it would be delivered again.
    told.taken.iter().filter(|(number, _)| domain(**number) == "far.test").for_each(|(_, id)| server.finished(id));
    assert!(run(&home, &["queue", "hold", &stays[0]]).status.success());

    // Killed, and not a byte left: it starts, refuses, and has everything.
    server.kill();
    server.process().wait(PATIENCE);
    // What the start gives back of spare segments and of the open one would be room enough.
    home.fragment("then", "[spool]\nmin_free = \"7MiB\"\n");
    mount.filler("filler", None);
    let mut server = mount.start(&home);
    assert!(!send(&mut server.client(), seed, (SESSIONS, 2), &mut told), "a full disk takes no mail");
    check_queue(&home, &told, &removed);

    // What it delivers makes room.
    open.store(true, std::sync::atomic::Ordering::SeqCst);
    for verb in ["release", "retry"] {
        let output = run(&home, &["queue", verb, "--all"]);
        assert!(output.status.success(), "{verb}: {output:?}");
    }
    told.taken.retain(|_, id| !removed.contains(id));
    arrive(&stay, seed, &told, "stay.test", &mut arrived);
    wait_until_empty(&home);
    taken_again(&server, seed, (SESSIONS, 5), &mut told);
    arrive(&far, seed, &told, "far.test", &mut arrived);
    assert_eq!(server.stop().code(), Some(0));
    let left: Vec<_> = fs::read_dir(mount.at("content")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "no content is left: {left:?}");
    assert!(arrived.is_disjoint(&told.refused), "what was refused never arrives");
    eprintln!("full disk: {} messages taken and delivered, {} refused", arrived.len(), told.refused.len());
}
