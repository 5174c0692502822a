//! Export and import, there and back.

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_exported_is_imported_as_it_was(
        envelopes in prop::collection::vec((envelope::tests::message(), 0usize..400), 1..12)
    ) {
        run(async {
            let (disk, index) = (SimDisk::new(), MemoryIndex::default());
            let spool = open(&disk, ROOT, &index).await;
            let mut expected = BTreeMap::new();
            for (number, (message, lines)) in envelopes.into_iter().enumerate() {
                let content = b"words of mail\r\n".repeat(lines);
                let id = QueueId((1_795_312_000_000 << 20) + number as u64);
                let message = Message { id, size: content.len() as u64, ..message };
                let mut draft = spool.begin_again(id).await.unwrap().unwrap();
                draft.write(&content).await.unwrap();
                draft.restore(message.clone()).await.unwrap();
                expected.insert(id, (message, content));
            }
            spool.close().await.unwrap();
            let arc: Arc<dyn Disk> = Arc::new(disk.clone());
            let to = Path::new("/mail/out");
            let mut remarks = Vec::new();
            let bench = Bench(index.clone());
            let unwatched = progress::unwatched();
            let done = export(Path::new(ROOT), to, &arc, &bench, &unwatched, &mut |told| remarks.push(told)).unwrap();
            prop_assert_eq!((done.messages, done.failed, remarks.len()), (expected.len() as u64, 0, 0));
            // What is said to be exported outlives a power cut.
            let disk = disk.crashed(3);
            let arc: Arc<dyn Disk> = Arc::new(disk.clone());
            let index = MemoryIndex::default();
            for round in 0..3 {
                let spool = open(&disk, "/other", &index).await;
                let done = import(&spool, to, &arc, &unwatched, &mut |_| {}).await.unwrap();
                let count = expected.len() as u64;
                let expected_done = if round == 0 { (count, 0, 0) } else { (0, count, 0) };
                prop_assert_eq!((done.messages, done.skipped, done.failed), expected_done);
                let listed = spool.list(&Filter::default()).await.unwrap();
                prop_assert_eq!(&listed, &expected.values().map(|(message, _)| message.clone()).collect::<Vec<_>>());
                for (id, (_, content)) in &expected {
                    prop_assert_eq!(&read(&*spool.content(*id).await.unwrap()).await.unwrap(), content);
                }
                prop_assert!(spool.begin().unwrap().id() > *expected.keys().last().unwrap());
                spool.close().await.unwrap();
            }
            Ok(())
        })?;
    }
}

fn put(disk: &SimDisk, path: &str, bytes: &[u8]) {
    let disk: &dyn Disk = disk;
    disk.replace(Path::new(path), bytes).unwrap();
}

#[test]
fn an_import_names_what_is_wrong_and_takes_the_rest() {
    run(async {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/in")).unwrap();
        let id = |number: u64| QueueId((1_795_312_000_000 << 20) + number);
        let message = |id: QueueId| Message { size: 5, ..Message::sample(id.0, Timestamp::from_millis(1000), "", &["a@x.test"]) };
        let both = |id: QueueId, envelope: &Message, content: &[u8]| {
            put(&disk, &format!("/in/{id}.json"), &envelope::write(envelope));
            put(&disk, &format!("/in/{id}.eml"), content);
        };
        both(id(1), &message(id(1)), b"abc\r\n");
        both(id(2), &message(id(9)), b"abc\r\n");
        both(id(3), &message(id(3)), b"abcd\r\n");
        both(id(4), &message(id(4)), b"ab\n\r\n");
        let future = QueueId(u64::MAX);
        both(future, &message(future), b"abc\r\n");
        put(&disk, &format!("/in/{}.eml", id(5)), b"abc\r\n");
        put(&disk, &format!("/in/{}.json", id(6)), &envelope::write(&message(id(6))));
        put(&disk, "/in/README", b"?");
        put(&disk, "/in/x.eml", b"?");
        let spool = open(&disk, ROOT, &MemoryIndex::default()).await;
        let arc: Arc<dyn Disk> = Arc::new(disk.clone());
        let told = Mutex::new(Vec::new());
        let remark = &mut |remark: Remark| told.lock().unwrap().push(format!("{}: {}", remark.name, remark.reason));
        let done = import(&spool, Path::new("/in"), &arc, &progress::unwatched(), remark).await.unwrap();
        assert_eq!((done.messages, done.bytes, done.failed), (1, 5, 8));
        let mut told = told.into_inner().unwrap();
        told.sort();
        let mut expected = vec![
            format!("{}.json: id: {} is not the file's name", id(2), id(9)),
            format!("{}.eml: 6 octets, but size in its envelope is 5", id(3)),
            format!("{}.eml: line 1 has a bare LF: lines of mail end with CR and LF", id(4)),
            format!("{}.eml: its envelope {}.json is missing", id(5), id(5)),
            format!("{}.json: its content {}.eml is missing", id(6), id(6)),
            format!("{future}.json: {future} is an id of the future: later ones could not be greater"),
            "README: neither ID.eml nor ID.json".to_owned(),
            "x.eml: its name is no queue id".to_owned(),
        ];
        expected.sort();
        assert_eq!(told, expected);
        spool.close().await.unwrap();
    });
}

#[test]
fn an_export_whose_sync_fails_is_none() {
    run(async {
        let spooled = Spooled::new().await;
        let disk: Arc<dyn Disk> = Arc::new(spooled.disk.clone());
        spooled.disk.fail_sync(0);
        let bench = Bench(spooled.index.clone());
        let done = export(Path::new(ROOT), Path::new("/out"), &disk, &bench, &progress::unwatched(), &mut |_| {});
        assert!(matches!(&done, Err(SpoolError::Io(what)) if what.starts_with("can't sync /out")), "{done:?}");
    });
}

#[test]
fn an_export_is_durable_also_where_a_sync_of_the_whole_disk_is_not_to_be_had() {
    run(async {
        let spooled = Spooled::new().await;
        spooled.disk.refuse_syncers();
        let disk: Arc<dyn Disk> = Arc::new(spooled.disk.clone());
        let bench = Bench(spooled.index.clone());
        let export_to = |to: &str| export(Path::new(ROOT), Path::new(to), &disk, &bench, &progress::unwatched(), &mut |_| {});
        let done = export_to("/srv/out").unwrap();
        assert_eq!((done.messages, done.failed), (spooled.messages.len() as u64, 0));
        let content = |disk: &dyn Disk| {
            let names = disk.list(Path::new("/srv/out")).unwrap_or_default();
            names
                .into_iter()
                .map(|name| (disk.read(&Path::new("/srv/out").join(&name), 1 << 20).unwrap(), name))
                .collect::<Vec<_>>()
        };
        let exported = content(&*disk);
        for seed in 0..10 {
            assert!(content(&spooled.disk.crashed(seed)) == exported, "with seed {seed}");
        }
        for failing in 0..2 * done.messages {
            spooled.disk.fail_sync(failing);
            let to = format!("/srv/{failing}");
            assert!(
                matches!(export_to(&to), Err(SpoolError::Io(what)) if what.starts_with("can't sync /srv/")),
                "sync {failing}"
            );
        }
    });
}

#[test]
fn an_export_overwrites_nothing_and_leaves_out_what_is_damaged() {
    run(async {
        let spooled = Spooled::new().await;
        let (id, _) = spooled.one(true);
        spooled.flip(&spooled.content(id), 2500);
        let disk: Arc<dyn Disk> = Arc::new(spooled.disk.clone());
        let bench = Bench(spooled.index.clone());
        let export_to = |to: &str| {
            let mut told = Vec::new();
            let done =
                export(Path::new(ROOT), Path::new(to), &disk, &bench, &progress::unwatched(), &mut |remark| told.push(remark));
            (done, told)
        };
        let (done, told) = export_to("/out");
        let done = done.unwrap();
        assert_eq!((done.messages, done.failed), (spooled.messages.len() as u64 - 1, 1));
        assert_eq!((told.len(), told[0].name.as_str()), (1, id.to_string().as_str()));
        assert!(!disk.exists(&PathBuf::from(format!("/out/{id}.eml"))));
        let before = disk.list(Path::new("/out")).unwrap();
        assert!(matches!(export_to("/out").0, Err(SpoolError::Io(_))));
        assert_eq!(disk.list(Path::new("/out")).unwrap(), before);
    });
}

#[test]
fn binary_content_that_is_exported_is_imported_as_it_was() {
    run(async {
        let (disk, index) = (SimDisk::new(), MemoryIndex::default());
        let spool = open(&disk, ROOT, &index).await;
        let content = b"Subject: binary\r\n\r\n\n\0\r\xff without an end";
        let mut draft = spool.begin().unwrap();
        draft.write(content).await.unwrap();
        let id = draft.commit(Accept { body: BodyType::BinaryMime, ..envelope() }).await.unwrap().id;
        spool.close().await.unwrap();
        let arc: Arc<dyn Disk> = Arc::new(disk.clone());
        let (unwatched, bench) = (progress::unwatched(), Bench(index));
        export(Path::new(ROOT), Path::new("/out"), &arc, &bench, &unwatched, &mut |_| {}).unwrap();
        let spool = open(&disk, "/other", &MemoryIndex::default()).await;
        let mut remarks = Vec::new();
        let done = import(&spool, Path::new("/out"), &arc, &unwatched, &mut |remark| remarks.push(remark)).await.unwrap();
        assert_eq!((done.messages, remarks), (1, Vec::new()));
        assert_eq!(read(&*spool.content(id).await.unwrap()).await.unwrap(), content);
        spool.close().await.unwrap();
    });
}
