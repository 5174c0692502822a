//! Attempts at Maildirs in fresh folders.

use super::*;
use crate::config::Quota;
use crate::deliver::mailbox::{Draft, Mailboxes, Room};
use crate::directory::quota::Usage;
use crate::mail::QueueId;
use crate::system::sim::SimDisk;

#[test]
fn a_maildir_gets_the_message_byte_for_byte_below_two_fields() {
    run(async {
        let scene = scene();
        for content in [b"Subject: x\r\n\r\n.dot\r\nno end".to_vec(), b"Subject: y\r\n\r\n\xff\x00".repeat(60_000)] {
            let size = content.len();
            let id = size as u64;
            let outcomes =
                scene.send_as(id, local(), &["ann@us.test", "nobody@us.test", "bob@us.test"], Arc::new(content.clone())).await;
            assert_eq!(outcomes, ["delivered 2.0.0", "failed 5.1.1", "delivered 2.0.0"]);
            for user in ["ann", "bob"] {
                let fields = format!("Return-Path: <ann@us.test>\r\nDelivered-To: {user}@us.test\r\n");
                assert_eq!(scene.read(user), [fields.as_bytes(), &content].concat());
                assert!(scene.files(user, "tmp").is_empty());
                let name = scene.files(user, "new").remove(0);
                assert!(name.starts_with("1795312800.M123000_"), "{name}");
                assert!(name.ends_with(&format!(".us.test,S={}", size + fields.len())), "{name}");
                std::fs::remove_file(scene.routes.folder.join(user).join("new").join(name)).unwrap();
            }
        }
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &str| std::fs::metadata(scene.folder.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("mail"), mode("mail/us.test/ann/cur")), (0o700, 0o700));
    });
}

#[test]
fn a_second_try_after_a_lost_record_makes_no_double() {
    run(async {
        let scene = scene();
        for _ in 0..2 {
            assert_eq!(scene.send(local(), &["ann@us.test"], b"x\r\n").await, ["delivered 2.0.0"]);
            assert_eq!(scene.files("ann", "new").len(), 1);
        }
        // The same name with other content is another message, and neither is lost.
        assert_eq!(scene.send(local(), &["ann@us.test"], b"y\r\n").await, ["delivered 2.0.0"]);
        assert_eq!(scene.files("ann", "new").len(), 2);
        assert!(scene.files("ann", "tmp").is_empty());
    });
}

#[test]
fn a_second_try_is_not_refused_for_the_room_that_the_first_one_took() {
    run(async {
        let scene = scene();
        assert_eq!(scene.send(local(), &["ann@us.test"], b"x\r\n").await, ["delivered 2.0.0"]);
        std::fs::write(scene.routes.folder.join("ann/maildirsize"), "100S\n58 1\n").unwrap();
        assert_eq!(scene.send(local(), &["ann@us.test"], b"x\r\n").await, ["delivered 2.0.0"]);
        assert_eq!(scene.files("ann", "new").len(), 1);
        assert_eq!(scene.send_as(77, local(), &["ann@us.test"], Arc::new(b"x\r\n".to_vec())).await, ["failed 5.2.2"]);
        assert!(scene.files("ann", "tmp").is_empty());
    });
}

#[test]
fn a_message_that_was_here_before_is_a_loop() {
    run(async {
        let scene = scene();
        let content = b"Received: x\r\nDelivered-To: Ann@us.test\r\n\r\nDelivered-To: bob@us.test\r\n";
        assert_eq!(scene.send(local(), &["ann@us.test", "bob@us.test"], content).await, ["failed 5.4.6", "delivered 2.0.0"]);
    });
}

#[test]
fn leftovers_of_crashes_go_after_a_day_and_a_half() {
    run(async {
        let scene = scene();
        let tmp = scene.routes.folder.join("ann/tmp");
        std::fs::create_dir_all(&tmp).unwrap();
        let now = scene.world.clock.now().as_millis() / 1000;
        let name = |age: u64| format!("{}.X0123456789abcdef_0CZ2K8M4G5T3BR0.us.test", now - age);
        let foreign = "1000000000.M1P2.other.test".to_owned();
        for name in [name(60), name(35 * 3600), name(37 * 3600), foreign.clone()] {
            std::fs::write(tmp.join(name), b"x").unwrap();
        }
        let left = || scene.files("ann", "tmp").into_iter().collect::<std::collections::BTreeSet<_>>();
        scene.send(local(), &["ann@us.test"], b"x\r\n").await;
        assert_eq!(left(), [name(60), name(35 * 3600), foreign.clone()].into());
        scene.world.clock.set(Timestamp::from_millis((now + 40 * 3600) * 1000));
        scene.send(local(), &["ann@us.test"], b"x\r\n").await;
        assert_eq!(left(), [foreign].into());
    });
}

#[test]
fn a_mailbox_that_cannot_be_written_defers_and_one_that_was_removed_comes_back() {
    run(async {
        let scene = scene();
        std::fs::create_dir_all(&scene.routes.folder).unwrap();
        std::fs::write(scene.routes.folder.join("bob"), b"not a folder").unwrap();
        assert_eq!(scene.send(local(), &["bob@us.test", "ann@us.test"], b"x\r\n").await, ["deferred 4.3.0", "delivered 2.0.0"]);
        std::fs::remove_dir_all(scene.routes.folder.join("ann")).unwrap();
        assert_eq!(scene.send(local(), &["ann@us.test"], b"x\r\n").await, ["delivered 2.0.0"]);
        assert_eq!(scene.read("ann").len(), 58);
    });
}

/// The real disk, until the operation with number `fail_at`, which fails for want of space.
#[derive(Default)]
struct Full {
    operations: std::sync::atomic::AtomicU64,
    fail_at: std::sync::atomic::AtomicU64,
    /// The next folder that is made meets a bug.
    bug: std::sync::atomic::AtomicBool,
    /// Syncs of files, folders and the whole disk.
    syncs: std::sync::atomic::AtomicU64,
    /// Those of the whole disk fail.
    whole_fails: std::sync::atomic::AtomicBool,
}

impl Full {
    fn count_sync(&self) -> std::io::Result<()> {
        self.syncs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.count()
    }

    fn syncs(&self) -> u64 {
        self.syncs.swap(0, std::sync::atomic::Ordering::Relaxed)
    }

    fn count(&self) -> std::io::Result<()> {
        use std::sync::atomic::Ordering::Relaxed;
        let failing = self.operations.fetch_add(1, Relaxed) == self.fail_at.load(Relaxed);
        if failing { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn reset(&self, fail_at: u64) {
        self.operations.store(0, std::sync::atomic::Ordering::Relaxed);
        self.fail_at.store(fail_at, std::sync::atomic::Ordering::Relaxed);
    }
}

struct FullDisk(Arc<Full>);

impl Disk for FullDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> std::io::Result<Box<dyn DiskFile>> {
        self.0.count()?;
        Ok(Box::new(FullFile(self.0.clone(), SystemDisk.open(path, mode)?)))
    }
    fn create_dir_all(&self, path: &Path) -> std::io::Result<()> {
        assert!(!self.0.bug.swap(false, std::sync::atomic::Ordering::Relaxed), "a bug");
        self.0.count().and_then(|()| SystemDisk.create_dir_all(path))
    }
    fn list(&self, path: &Path) -> std::io::Result<Vec<String>> {
        SystemDisk.list(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.0.count().and_then(|()| SystemDisk.rename(from, to))
    }
    fn link(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.0.count().and_then(|()| SystemDisk.link(from, to))
    }
    fn unlink(&self, path: &Path) -> std::io::Result<()> {
        SystemDisk.unlink(path)
    }
    fn sync_dir(&self, path: &Path) -> std::io::Result<()> {
        self.0.count_sync().and_then(|()| SystemDisk.sync_dir(path))
    }
    fn syncer(&self, _: &Path) -> std::io::Result<Box<dyn crate::system::DiskSyncer>> {
        Ok(Box::new(FullSyncer(self.0.clone())))
    }
    fn exists(&self, path: &Path) -> bool {
        SystemDisk.exists(path)
    }
    fn available(&self, path: &Path) -> std::io::Result<u64> {
        SystemDisk.available(path)
    }
    fn lock(&self, path: &Path) -> std::io::Result<Box<dyn crate::system::DiskLock>> {
        SystemDisk.lock(path)
    }
}

/// Counts only: whatever the file system is that the tests run on, it needs no syncer of its own.
struct FullSyncer(Arc<Full>);

impl crate::system::DiskSyncer for FullSyncer {
    fn sync(&self) -> std::io::Result<()> {
        let fails = self.0.whole_fails.load(std::sync::atomic::Ordering::Relaxed);
        self.0.count_sync().and_then(|()| if fails { Err(std::io::Error::from_raw_os_error(5)) } else { Ok(()) })
    }
}

struct FullFile(Arc<Full>, Box<dyn DiskFile>);

impl DiskFile for FullFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.1.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.0.count().and_then(|()| self.1.write_at(offset, bytes))
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.0.count_sync().and_then(|()| self.1.sync_data())
    }
    fn allocate(&self, length: u64) -> std::io::Result<()> {
        self.1.allocate(length)
    }
    fn set_len(&self, length: u64) -> std::io::Result<()> {
        self.1.set_len(length)
    }
    fn len(&self) -> std::io::Result<u64> {
        self.1.len()
    }
}

/// Delivers with each disk operation failing in turn, then again. How many operations there are.
async fn retry_after_each_failure(users: &[&str], content: Arc<dyn Content>) -> u64 {
    let recipients: Vec<String> = users.iter().map(|user| format!("{user}@us.test")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let mut failures = 0;
    loop {
        // Anew each time: the first delivery also makes the folders.
        let full = Arc::new(Full::default());
        let scene = scene_on(|world| world.system(Arc::new(FullDisk(full.clone()))));
        full.reset(failures);
        let first = scene.send_as(1, local(), &recipients, content.clone()).await;
        if first.iter().all(|outcome| outcome == "delivered 2.0.0") {
            return failures;
        }
        assert!(first.iter().all(|outcome| ["delivered 2.0.0", "deferred 4.3.1"].contains(&outcome.as_str())), "{first:?}");
        full.reset(u64::MAX);
        assert!(users.iter().all(|user| scene.files(user, "tmp").is_empty()));
        let second = scene.send_as(1, local(), &recipients, content.clone()).await;
        assert!(second.iter().all(|outcome| outcome == "delivered 2.0.0"), "{second:?}");
        for user in users {
            let fields = format!("Return-Path: <ann@us.test>\r\nDelivered-To: {user}@us.test\r\n").len();
            assert_eq!(scene.read(user).len() as u64, content.size() + fields as u64, "operation {failures}");
        }
        failures += 1;
    }
}

#[test]
fn whichever_disk_operation_fails_the_retry_delivers_exactly_once() {
    run(async {
        let operations = retry_after_each_failure(&["ann"], Arc::new(b"x\r\n".repeat(200_000))).await;
        assert!(operations > 12, "{operations}");
        let operations = retry_after_each_failure(&["ann", "bob", "eve", "ida", "joe"], Arc::new(b"x\r\n".to_vec())).await;
        assert!(operations > 40, "{operations}");
    });
}

#[test]
fn a_bug_in_one_delivery_costs_no_other() {
    run(async {
        let full = Arc::new(Full::default());
        full.reset(u64::MAX);
        full.bug.store(true, std::sync::atomic::Ordering::Relaxed);
        let scene = scene_on(|world| world.system(Arc::new(FullDisk(full.clone()))));
        assert_eq!(scene.send(local(), &["ann@us.test"], b"x\r\n").await, ["deferred 4.3.0"]);
        assert_eq!(scene.send(local(), &["ann@us.test"], b"x\r\n").await, ["delivered 2.0.0"]);
    });
}

#[test]
fn deliveries_at_a_time_share_their_syncs() {
    run(async {
        let full = Arc::new(Full::default());
        full.reset(u64::MAX);
        let scene = Arc::new(scene_on(|world| world.system(Arc::new(FullDisk(full.clone())))));
        let users = ["ann", "bob", "eve", "ida", "joe"];
        let recipients: Vec<String> = users.iter().map(|user| format!("{user}@us.test")).collect();
        let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
        // Once for the folders.
        scene.send_as(0, local(), &recipients, Arc::new(b"x\r\n".to_vec())).await;
        full.syncs();
        let senders: Vec<_> = (1..=20)
            .map(|id| {
                let scene = scene.clone();
                tokio::spawn(async move {
                    scene.send_as(id, local(), &["ann@us.test", "eve@us.test"], Arc::new(vec![b'x'; 100])).await
                })
            })
            .collect();
        for sender in senders {
            assert_eq!(sender.await.unwrap(), ["delivered 2.0.0", "delivered 2.0.0"]);
        }
        assert_eq!((scene.files("ann", "new").len(), scene.files("eve", "new").len()), (21, 21));
        let syncs = full.syncs();
        assert!(syncs <= 8, "{syncs} syncs for 40 deliveries");
        // One alone waits for no other: its own bytes and its own name.
        scene.send_as(21, local(), &["bob@us.test"], Arc::new(vec![b'x'; 100])).await;
        assert_eq!(full.syncs(), 2);
    });
}

#[test]
fn where_a_sync_of_the_whole_disk_fails_each_message_is_synced_by_itself_for_a_while() {
    run(async {
        let full = Arc::new(Full::default());
        full.reset(u64::MAX);
        full.whole_fails.store(true, std::sync::atomic::Ordering::Relaxed);
        let scene = scene_on(|world| world.system(Arc::new(FullDisk(full.clone()))));
        let recipients = ["ann@us.test", "bob@us.test", "eve@us.test", "ida@us.test"];
        assert_eq!(scene.send(local(), &recipients, b"x\r\n").await, ["deferred 4.3.0"; 4]);
        assert_eq!(scene.send(local(), &recipients, b"x\r\n").await, ["delivered 2.0.0"; 4]);
    });
}

#[test]
fn a_pipe_in_a_mailbox_stops_no_delivery() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let folder = tempfile::tempdir().unwrap();
    let mailbox = folder.path().to_owned();
    std::fs::create_dir(mailbox.join("cur")).unwrap();
    for name in ["maildirsize", "cur/1.host"] {
        mknodat(CWD, mailbox.join(name), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }
    let (told, tells) = std::sync::mpsc::channel();
    // On a thread that may wait for ever.
    std::thread::spawn(move || {
        let mailboxes = MailboxesOn::new(Arc::new(SystemDisk)).mailboxes;
        for (id, octets) in [(1, None), (2, Some(1000))] {
            told.send(SystemDisk.append(&mailbox.join("maildirsize"), b"1 1\n").map_err(|error| error.raw_os_error())).unwrap();
            let room = Room { quota: Quota { octets, bounce: true }, coming: Usage::of(5) };
            let draft = mailboxes.begin(mailbox.clone(), mailboxes.names(QueueId(id), 0, 5, true), room);
            told.send(draft.and_then(Draft::finish).map_err(|error| error.raw_os_error())).unwrap();
        }
    });
    let told: Vec<_> = (0..4).map(|_| tells.recv_timeout(Duration::from_secs(20))).collect();
    let nobody_reads = Err(Some(rustix::io::Errno::NXIO.raw_os_error()));
    assert_eq!(told, [Ok(nobody_reads), Ok(Ok(())), Ok(nobody_reads), Ok(Ok(()))]);
    assert_eq!(std::fs::read_dir(folder.path().join("new")).unwrap().count(), 2);
}

#[test]
fn a_second_try_finds_what_a_reader_has_moved_meanwhile() {
    run(async {
        let scene = scene();
        let again = |content: &[u8]| Attempt {
            again: true,
            content: Arc::new(content.to_vec()),
            ..attempt(1, local(), &["ann@us.test"])
        };
        for flags in ["", ":2,", ":2,FRSa", ",W=60:2,S", ";2,S"] {
            assert_eq!(scene.attempt(again(b"x\r\n")).await, ["delivered 2.0.0"]);
            let folder = scene.routes.folder.join("ann");
            let name = scene.files("ann", "new").remove(0);
            std::fs::rename(folder.join("new").join(&name), folder.join("cur").join(name + flags)).unwrap();
            assert_eq!(scene.attempt(again(b"x\r\n")).await, ["delivered 2.0.0"]);
            assert_eq!((scene.files("ann", "new").len(), scene.files("ann", "cur").len()), (0, 1), "{flags}");
            // It takes no more room either.
            std::fs::write(folder.join("maildirsize"), "100S\n58 1\n").unwrap();
            assert_eq!(scene.attempt(again(b"x\r\n")).await, ["delivered 2.0.0"]);
            std::fs::remove_file(folder.join("maildirsize")).unwrap();
            // The same name with other content is another message.
            assert_eq!(scene.attempt(again(b"y\r\n")).await, ["delivered 2.0.0"]);
            assert!(scene.read("ann").ends_with(b"y\r\n"));
            std::fs::remove_dir_all(folder).unwrap();
        }
    });
}

/// Mailboxes without anything around them.
struct MailboxesOn<D> {
    disk: Arc<D>,
    world: World,
    mailboxes: Arc<Mailboxes>,
}

impl<D: Disk + 'static> MailboxesOn<D> {
    fn new(disk: Arc<D>) -> Self {
        let world = World::new(1);
        let hostname = Domain::parse("mail.example.test").unwrap();
        let mailboxes = Arc::new(Mailboxes::new(&hostname, &world.system(disk.clone())));
        Self { disk, world, mailboxes }
    }
}

impl MailboxesOn<SimDisk> {
    fn simulated() -> Self {
        Self::new(Arc::new(SimDisk::new()))
    }

    fn deliver(&self, id: u64, folder: &Path) -> std::io::Result<()> {
        let names = self.mailboxes.names(QueueId(id), 0, 5, true);
        let room = Room { quota: Quota::default(), coming: Usage::default() };
        let mut draft = self.mailboxes.begin(folder.to_owned(), names, room)?;
        draft.write(b"hello")?;
        draft.finish()
    }

    /// There are at least so many messages in new/, whenever the power goes.
    fn has_for_good(&self, folder: &Path, count: usize, when: &str) {
        for seed in 0..10 {
            let kept = self.disk.crashed(seed).list(&folder.join("new")).unwrap_or_default();
            assert!(kept.len() >= count, "{kept:?} of {count} in {folder:?} {when}, with seed {seed}");
        }
    }
}

#[test]
fn a_delivered_message_survives_a_power_cut_whichever_change_of_a_folder_failed_before() {
    run(async {
        for failing in 0..12 {
            let scene = MailboxesOn::simulated();
            let folder = Path::new("/var/mail/example.test/ann");
            scene.disk.fail_naming(failing);
            let delivered = (1..4).filter(|id| scene.deliver(*id, folder).is_ok()).count();
            assert!(delivered >= 2, "one operation fails, and with it one message");
            scene.has_for_good(folder, delivered, &format!("after failure {failing}"));
        }
    });
}

/// Delivers to one mailbox, and hours later to another, perhaps once a folder has gone; what came second is there for good.
fn first_and_hours_later(first: &str, gone: Option<&str>, second: &str) {
    for hours in [0, 37] {
        let scene = MailboxesOn::simulated();
        scene.deliver(1, Path::new(first)).unwrap();
        scene.world.clock.set(scene.world.clock.now().plus(Duration::from_secs(hours * 3600)));
        gone.inspect(|gone| scene.disk.remove_folder(Path::new(gone)));
        scene.deliver(2, Path::new(second)).unwrap();
        scene.has_for_good(Path::new(second), 1, &format!("{hours} hours later"));
    }
}

#[test]
fn a_delivered_message_survives_a_power_cut_where_its_mailbox_was_removed() {
    run(async { first_and_hours_later("/mail/d/ann", Some("/mail/d/ann"), "/mail/d/ann") });
}

#[test]
fn a_delivered_message_survives_a_power_cut_where_its_domain_was_removed() {
    run(async {
        first_and_hours_later("/mail/d/ann", Some("/mail/d"), "/mail/d/ann");
        first_and_hours_later("/mail/d/ann", Some("/mail/d"), "/mail/d/bob");
    });
}

#[test]
fn a_delivered_message_survives_a_power_cut_where_its_mailbox_is_above_another() {
    run(async { first_and_hours_later("/mail/d/ann", None, "/mail/d") });
}

/// Content whose last piece says that it is damaged, to whoever read it from the first octet on.
#[derive(Default)]
struct Damaged(Mutex<u64>);

impl Content for Damaged {
    fn size(&self) -> u64 {
        600 << 10
    }

    fn read_at(&self, offset: u64, size_max: usize) -> BoxFuture<'_, std::io::Result<Vec<u8>>> {
        let piece = vec![b'x'; (self.size() - offset).min(size_max as u64) as usize];
        let mut read = self.0.lock().unwrap();
        let is_gapless = offset == 0 || offset == *read;
        if is_gapless {
            *read = offset + piece.len() as u64;
        }
        let is_seen = is_gapless && *read == self.size();
        Box::pin(async move { if is_seen { Err(std::io::ErrorKind::InvalidData.into()) } else { Ok(piece) } })
    }
}

#[test]
fn damaged_content_is_delivered_to_none_of_its_recipients() {
    run(async {
        let scene = scene();
        let outcomes = scene.send_as(1, local(), &["ann@us.test", "bob@us.test"], Arc::new(Damaged::default())).await;
        assert_eq!(outcomes, ["deferred 4.3.0", "deferred 4.3.0"]);
        assert!(["ann", "bob"].iter().all(|user| scene.files(user, "new").is_empty() && scene.files(user, "tmp").is_empty()));
    });
}
