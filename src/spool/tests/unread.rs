//! Tools for a spool with a segment that was set aside because the disk can't read it.

use super::*;

/// A closed spool of which two messages are left: the content of one lies in a segment that was set aside, that of the other in a file.
async fn with_one_unread() -> (Spooled, QueueId) {
    let mut spooled = Spooled::new().await;
    let ((unread, place), (other, _)) = (spooled.one(false), spooled.one(true));
    let record = place.offset..place.offset + u64::from(place.length);
    spooled.disk.fail_reading(&spooled.segment(place.segment), record).unwrap();
    let spool = open(&spooled.disk, ROOT, &spooled.index).await;
    spooled.messages.keys().filter(|id| ![unread, other].contains(id)).for_each(|id| spool.done(*id));
    for _ in 0..40 {
        let mut draft = spool.begin().unwrap();
        draft.write(&[b'x'; 1000]).await.unwrap();
        spool.done(draft.commit(envelope()).await.unwrap().id);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    spool.close().await.unwrap();
    spooled.messages.retain(|id, _| [unread, other].contains(id));
    assert!(!spooled.segments().contains(&place.segment));
    (spooled, unread)
}

fn kept(spooled: &Spooled) -> PathBuf {
    let folder = Path::new(ROOT).join("unreadable");
    let names = spooled.disk.list(&folder).unwrap();
    folder.join(names.iter().find(|name| name.ends_with(".seg")).unwrap())
}

/// What an export couldn't write.
fn left_out(spooled: &Spooled, to: &str) -> Vec<String> {
    let disk: Arc<dyn Disk> = Arc::new(spooled.disk.clone());
    let (bench, unwatched) = (Bench(spooled.index.clone()), progress::unwatched());
    let mut remarks = Vec::new();
    let done = export(Path::new(ROOT), Path::new(to), &disk, &bench, &unwatched, &mut |told| remarks.push(told)).unwrap();
    assert_eq!((done.messages + done.failed, done.failed), (2, remarks.len() as u64));
    remarks.iter().map(|remark| format!("{remark:?}")).collect()
}

#[test]
fn content_that_the_disk_can_not_read_is_known_to_a_check_and_left_by_a_repair_and_an_export() {
    run(async {
        let (spooled, unread) = with_one_unread().await;
        let (found, survey) = spooled.check();
        let [finding] = &found[..] else { panic!("{found:?}") };
        assert_eq!((finding.finding, finding.level, finding.id), (FindingKind::ContentUnread, Level::Known, Some(unread)));
        assert!(survey.is_sound() && finding.reason.contains("os error 5"), "{}", finding.reason);
        assert!(finding.path.as_ref().is_some_and(|path| Path::new(ROOT).join(path) == kept(&spooled)));
        assert_eq!(spooled.try_repair().await.unwrap(), []);
        let remarks = left_out(&spooled, "/first");
        assert!(
            remarks.len() == 1 && remarks[0].contains(&unread.to_string()) && remarks[0].contains("os error 5"),
            "{remarks:?}"
        );
        let disk: Arc<dyn Disk> = Arc::new(spooled.disk.clone());
        let stopped = read_stopped(Path::new(ROOT), &disk).unwrap();
        assert!(matches!(stopped.content(unread), Err(SpoolError::Io(why)) if why.contains("os error 5")));
        spooled.disk.fail_reading(&kept(&spooled), 0..0).unwrap();
        assert_eq!(read(&*stopped.content(unread).unwrap()).await.unwrap(), spooled.messages[&unread].1);
        assert_eq!(spooled.check().0, []);
        assert_eq!(left_out(&spooled, "/second"), [""; 0]);
    });
}

#[test]
fn content_that_came_back_damaged_is_lost_to_a_check_and_held_by_a_repair() {
    run(async {
        let (spooled, unread) = with_one_unread().await;
        spooled.disk.fail_reading(&kept(&spooled), 0..0).unwrap();
        let list: &dyn Disk = &spooled.disk;
        let list = list.read(&kept(&spooled).with_extension("list"), 1000).unwrap();
        let offset: u64 = String::from_utf8(list).unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        spooled.flip(&kept(&spooled), offset + 60);
        assert_eq!(spooled.damage(), [FindingKind::ContentMissing]);
        assert!(spooled.repair(&[unread]).await.contains(&StepKind::Held));
        assert!(spooled.is_held_without_content(unread).await);
    });
}

#[test]
fn a_list_that_is_damaged_is_told_and_its_segment_left_alone() {
    run(async {
        let (spooled, unread) = with_one_unread().await;
        let list = kept(&spooled).with_extension("list");
        spooled.flip(&list, 3);
        let system = World::new(7).system(Arc::new(spooled.disk.clone()));
        let index = Box::new(MemoryIndexFactory(spooled.index.clone()));
        let (spool, recovery) = Spool::open(options(ROOT), &system, index).await.unwrap();
        let told = |wanted: fn(&Note) -> bool| recovery.notes.iter().filter(|note| wanted(note)).count();
        assert_eq!(told(|note| matches!(note, Note::Trouble(why) if why.contains(".list"))), 1, "{:?}", recovery.notes);
        assert_eq!(told(|note| matches!(note, Note::ContentMissing { .. })), 1);
        tokio::time::sleep(Duration::from_secs(7200)).await;
        assert!(spool.content(unread).await.is_err() && spooled.disk.exists(&kept(&spooled)));
        spool.close().await.unwrap();
    });
}
