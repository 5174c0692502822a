//! A full disk, a small tmpfs in a mount namespace of its own: 452 until there is room, nothing half kept, everything else goes on;
//! also where not a byte is left, under load or when a server starts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::load::{Number, number, sized, wait_until_empty};
use crate::support::PATIENCE;
use crate::support::client::Client;
use crate::support::home::Home;
use crate::support::maildir;
use crate::support::peer::Peer;
use crate::support::process::Process;
use crate::support::random::Random;
use crate::support::server::{Server, field, listing, posthouse, run, wait_for_control, without_settings};

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

    /// Runs a command of the binary that sees the mount.
    fn run(&self, home: &Home, arguments: &[&str]) -> Output {
        let mut command = Command::new("nsenter");
        let inside = format!("cd '{}' && exec \"$0\" \"$@\"", self.home.display());
        command.args(["-t", &self.holder.pid().to_string(), "-m", "sh", "-c", &inside]);
        without_settings(command.arg(posthouse(home).get_program()).args(arguments));
        command.output().unwrap()
    }

    /// Bytes that are free.
    fn free(&self) -> u64 {
        let disk = rustix::fs::statvfs(self.at("")).unwrap();
        disk.f_bavail * disk.f_frsize
    }

    /// Takes whatever is free, and becomes free, until told to stop: as something else on the disk does.
    fn greedy(&self, name: &str, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
        let (mut file, stop) = (File::create(self.at(name)).unwrap(), Arc::clone(stop));
        thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                if file.write_all(&[1; 4096]).is_err() {
                    thread::yield_now();
                }
            }
        })
    }

    /// A file of so many bytes, or with no limit: up to the disk's last byte.
    fn filler(&self, name: &str, bytes: Option<usize>) {
        let mut file = File::create(self.at(name)).unwrap();
        match bytes {
            Some(bytes) => file.write_all(&vec![1; bytes]).unwrap(),
            None => {
                while file.write_all(&[1; 4096]).is_ok() {}
                assert_eq!(self.free(), 0, "the disk is full to the last block");
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

/// Sessions, numbered from the first on, send until each has been refused twice.
fn fill(server: &Server, seed: u64, first: u64) -> Told {
    let address = server.address();
    let sessions: Vec<_> = (first..first + SESSIONS)
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

/// A home whose mail goes to a peer that takes it or to one that defers it until its gate opens.
struct Scene {
    home: Home,
    far: Peer,
    stay: Peer,
    gate: Arc<AtomicBool>,
}

impl Scene {
    fn new(min_free: &str) -> Self {
        let gate = Arc::new(AtomicBool::new(false));
        let open = Arc::clone(&gate);
        let stay = Peer::with(move |line| {
            let asks = line.starts_with("RCPT") || line == "DATA";
            (asks && !open.load(Ordering::SeqCst)).then(|| "451 4.2.0 come back later".to_owned())
        });
        let far = Peer::new();
        let home = Home::new(&format!(
            "[relay]\nnetworks = [\"127.0.0.1/32\"]\n[retry]\nfirst = \"2h\"\n\
             [[route]]\ndomain = \"far.test\"\nhosts = [\"{}\"]\n[[route]]\ndomain = \"stay.test\"\nhosts = [\"{}\"]\n",
            far.address(),
            stay.address()
        ));
        let spool = format!("[spool]\nsegment_size = \"1MiB\"\nmin_free = \"{min_free}\"\n");
        home.fragment("size", &format!("{spool}[admin]\nsocket = \"control.sock\"\n"));
        Self { home, far, stay, gate }
    }

    /// Has everything sent that waits.
    fn open(&self) {
        self.gate.store(true, Ordering::SeqCst);
        for verb in ["release", "retry"] {
            let output = run(&self.home, &["queue", verb, "--all"]);
            assert!(output.status.success(), "{verb}: {output:?}");
        }
    }
}

/// The spool of a server that has stopped with nothing in its queue.
fn check_end(mount: &Mount, home: &Home) {
    let left: Vec<_> = fs::read_dir(mount.at("content")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "no content is left: {left:?}");
    let output = mount.run(home, &["spool", "check"]);
    assert!(output.status.success(), "the spool is sound: {output:?}");
}

#[test]
fn a_disk_filled_to_its_last_byte_under_load_takes_mail_again_when_there_is_room() {
    // So that it is the writes that fail, and not the look at the disk before them.
    let scene = Scene::new("1");
    let Scene { home, far, stay, .. } = &scene;
    let Some(mount) = Mount::new(home) else { return };
    let seed = Random::new().next();
    let (mut told, mut arrived) = (Told::default(), BTreeSet::new());
    let mut server = mount.start(home);
    for round in 0..3 {
        let stop = Arc::new(AtomicBool::new(false));
        let greedy = mount.greedy("greedy", &stop);
        let more = fill(&server, seed, (SESSIONS + 1) * round);
        let deadline = Instant::now() + PATIENCE;
        while mount.free() > 0 {
            assert!(Instant::now() < deadline, "the disk is not full to its last byte");
            thread::yield_now();
        }
        stop.store(true, Ordering::SeqCst);
        greedy.join().unwrap();
        told.taken.extend(more.taken);
        told.refused.extend(more.refused);
        check_queue(home, &told, &BTreeSet::new());
        fs::remove_file(mount.at("greedy")).unwrap();
        taken_again(&server, seed, ((SESSIONS + 1) * round + SESSIONS, 1), &mut told);
        arrive(far, seed, &told, "far.test", &mut arrived);
    }
    let failed = server.events("spool-trouble").len();
    scene.open();
    arrive(stay, seed, &told, "stay.test", &mut arrived);
    wait_until_empty(home);
    assert_eq!(server.stop().code(), Some(0));
    check_end(&mount, home);
    assert!(arrived.is_disjoint(&told.refused), "what was refused never arrives");
    eprintln!("not a byte left: {} taken and delivered, {} refused, {failed} troubles", arrived.len(), told.refused.len());
}

#[test]
fn a_full_disk_refuses_new_mail_and_costs_nothing_else() {
    let scene = Scene::new("2MiB");
    let Scene { home, far, stay, .. } = &scene;
    let Some(mount) = Mount::new(home) else { return };
    let mut random = Random::new();
    let seed = random.next();
    let mut arrived = BTreeSet::new();

    // Under load until it is full; what was taken is there, what was refused is not.
    let mut server = mount.start(home);
    mount.filler("filler", Some(6 << 20));
    let mut told = fill(&server, seed, 0);
    // The look at the disk counts for a second: until then it may be the writes that are refused.
    let deadline = Instant::now() + PATIENCE;
    for sequence in 0.. {
        if !server.events("spool-full").is_empty() {
            break;
        }
        send(&mut server.client(), seed, (SESSIONS + 1, sequence), &mut told);
        assert!(Instant::now() < deadline, "the server doesn't say that its disk is full");
    }
    arrive(far, seed, &told, "far.test", &mut arrived);
    let mut removed = BTreeSet::new();
    check_queue(home, &told, &removed);

    // An operator can work.
    let stays: Vec<String> = listing(home, &["queue", "list", "--json"]).iter().map(|m| field(m, "id").to_owned()).collect();
    for (verb, id) in [("hold", &stays[0]), ("remove", &stays[1]), ("retry", &stays[2])] {
        let output = run(home, &["queue", verb, id]);
        assert!(output.status.success(), "{verb}: {output:?}");
    }
    removed.insert(stays[1].clone());
    check_queue(home, &told, &removed);

    // Space returns: mail is taken again, by the same server.
    fs::remove_file(mount.at("filler")).unwrap();
    taken_again(&server, seed, (SESSIONS, 1), &mut told);
    arrive(far, seed, &told, "far.test", &mut arrived);

    // What was delivered is on record once an order is: or it would be delivered again.
    told.taken.iter().filter(|(number, _)| domain(**number) == "far.test").for_each(|(_, id)| server.finished(id));
    assert!(run(home, &["queue", "hold", &stays[0]]).status.success());

    // Killed, and not a byte left: it starts, refuses, and has everything.
    server.kill();
    server.process().wait(PATIENCE);
    // What the start gives back of spare segments and of the open one would be room enough.
    home.fragment("then", "[spool]\nmin_free = \"7MiB\"\n");
    mount.filler("filler", None);
    let mut server = mount.start(home);
    assert!(!send(&mut server.client(), seed, (SESSIONS, 2), &mut told), "a full disk takes no mail");
    check_queue(home, &told, &removed);

    // What it delivers makes room.
    scene.open();
    told.taken.retain(|_, id| !removed.contains(id));
    arrive(stay, seed, &told, "stay.test", &mut arrived);
    wait_until_empty(home);
    taken_again(&server, seed, (SESSIONS, 5), &mut told);
    arrive(far, seed, &told, "far.test", &mut arrived);
    assert_eq!(server.stop().code(), Some(0));
    check_end(&mount, home);
    assert!(arrived.is_disjoint(&told.refused), "what was refused never arrives");
    eprintln!("full disk: {} messages taken and delivered, {} refused", arrived.len(), told.refused.len());
}
