//! Deliveries to mailboxes on several disks at a time.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::system::sim::SimDisk;
use crate::system::{DiskLock, DiskSyncer};

/// Simulated disks, the first of which has all that no other is mounted on.
struct Disks {
    disks: Vec<SimDisk>,
    mounted: Mutex<BTreeMap<PathBuf, usize>>,
    /// The next folder that is made meets a bug.
    bug: AtomicBool,
}

impl Disks {
    fn new(count: usize) -> Arc<Self> {
        Arc::new(Self {
            disks: (0..count).map(|_| SimDisk::new()).collect(),
            mounted: Mutex::default(),
            bug: AtomicBool::new(false),
        })
    }

    fn mount(&self, folder: PathBuf, number: usize) {
        let disk = &self.disks[number];
        disk.create_dir_all(&folder).unwrap();
        disk.syncer(&folder).unwrap().sync().unwrap();
        self.mounted.lock().unwrap().insert(folder, number);
    }

    fn number(&self, path: &Path) -> usize {
        let mounted = self.mounted.lock().unwrap();
        path.ancestors().find_map(|folder| mounted.get(folder).copied()).unwrap_or(0)
    }

    fn of(&self, path: &Path) -> &SimDisk {
        &self.disks[self.number(path)]
    }
}

struct Mounted(Arc<Disks>);

impl Disk for Mounted {
    fn open(&self, path: &Path, mode: OpenMode) -> std::io::Result<Box<dyn DiskFile>> {
        self.0.of(path).open(path, mode)
    }
    fn create_dir_all(&self, path: &Path) -> std::io::Result<()> {
        assert!(!self.0.bug.swap(false, Ordering::Relaxed), "a bug");
        self.0.of(path).create_dir_all(path)
    }
    fn list(&self, path: &Path) -> std::io::Result<Vec<String>> {
        self.0.of(path).list(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.0.of(to).rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.0.of(to).link(from, to)
    }
    fn unlink(&self, path: &Path) -> std::io::Result<()> {
        self.0.of(path).unlink(path)
    }
    fn sync_dir(&self, path: &Path) -> std::io::Result<()> {
        self.0.of(path).sync_dir(path)
    }
    fn syncer(&self, path: &Path) -> std::io::Result<Box<dyn DiskSyncer>> {
        Ok(Box::new(Numbered(self.0.number(path) as u64, self.0.of(path).syncer(path)?)))
    }
    fn exists(&self, path: &Path) -> bool {
        self.0.of(path).exists(path)
    }
    fn device(&self, path: &Path) -> std::io::Result<u64> {
        Ok(self.0.number(path) as u64)
    }
    fn available(&self, path: &Path) -> std::io::Result<u64> {
        self.0.of(path).available(path)
    }
    fn lock(&self, path: &Path) -> std::io::Result<Box<dyn DiskLock>> {
        self.0.of(path).lock(path)
    }
}

struct Numbered(u64, Box<dyn DiskSyncer>);

impl DiskSyncer for Numbered {
    fn sync(&self) -> std::io::Result<()> {
        self.1.sync()
    }
    fn device(&self) -> std::io::Result<u64> {
        Ok(self.0)
    }
}

/// A scene whose mailboxes are to be mounted.
fn scene_of_disks(count: usize) -> (Scene, Arc<Disks>) {
    let disks = Disks::new(count);
    let scene = scene_on(|world| world.system(Arc::new(Mounted(disks.clone()))));
    (scene, disks)
}

/// Delivers to these users at a time; all of them have their message then, whenever the power goes.
async fn deliver_for_good(scene: &Scene, disks: &Disks, id: u64, users: &[&str]) {
    let recipients: Vec<String> = users.iter().map(|user| format!("{user}@us.test")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let outcomes = scene.send_as(id, local(), &recipients, Arc::new(b"x\r\n".to_vec())).await;
    assert!(outcomes.iter().all(|outcome| outcome == "delivered 2.0.0"), "{outcomes:?}");
    for user in users {
        let new = scene.routes.folder.join(user).join("new");
        let names = disks.of(&new).list(&new).unwrap();
        for (seed, name) in (0..10).flat_map(|seed| names.iter().map(move |name| (seed, name))) {
            let after: &dyn Disk = &disks.of(&new).crashed(seed);
            let kept = after.read(&new.join(name), 1000).unwrap_or_default();
            assert!(kept.ends_with(b"x\r\n"), "{user} with seed {seed}: {:?}", String::from_utf8_lossy(&kept));
        }
    }
}

#[test]
fn what_is_delivered_survives_a_power_cut_also_where_there_are_more_disks_than_lanes() {
    run(async {
        let (scene, disks) = scene_of_disks(41);
        let user = |name: char, number: usize| format!("{name}{number}");
        for (name, number) in (0..41).map(|number| ('a', number)).chain([('b', 31), ('b', 40)]) {
            disks.mount(scene.routes.folder.join(user(name, number)), number);
        }
        for number in 0..32 {
            deliver_for_good(&scene, &disks, number as u64, &[&user('a', number)]).await;
        }
        deliver_for_good(&scene, &disks, 40, &["a31", "b31", "a40", "b40"]).await;
        deliver_for_good(&scene, &disks, 41, &["a40", "b40", "a31", "b31", "a39"]).await;
    });
}

#[test]
fn a_bug_in_the_lane_that_disks_share_costs_them_nothing() {
    run(async {
        let (scene, disks) = scene_of_disks(33);
        for number in 0..33 {
            disks.mount(scene.routes.folder.join(format!("a{number}")), number);
        }
        for number in 0..32 {
            deliver_for_good(&scene, &disks, 1, &[&format!("a{number}")]).await;
        }
        disks.mount(scene.routes.folder.join("bob"), 31);
        disks.bug.store(true, Ordering::Relaxed);
        assert_eq!(scene.send(local(), &["bob@us.test"], b"x\r\n").await, ["deferred 4.3.0"]);
        deliver_for_good(&scene, &disks, 2, &["a32"]).await;
    });
}

#[test]
fn what_is_delivered_survives_a_power_cut_also_where_a_mailbox_moved_to_another_disk() {
    run(async {
        let (scene, disks) = scene_of_disks(2);
        deliver_for_good(&scene, &disks, 1, &["ann", "bob", "eve", "ida", "joe"]).await;
        for user in ["bob", "eve", "ida"] {
            disks.mount(scene.routes.folder.join(user), 1);
        }
        deliver_for_good(&scene, &disks, 2, &["ann", "bob", "eve", "ida", "joe"]).await;
    });
}
