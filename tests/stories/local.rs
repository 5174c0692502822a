//! Mail for people here: mailboxes, aliases, subaddresses, catch-all, postmaster.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use posthouse::mail::Address;
use posthouse::system::sim::OperationKind;

use crate::world::*;

#[test]
fn mail_for_a_local_user_lies_in_the_maildir_as_it_was_sent() {
    story(async {
        let server = Setup::new().start().await;
        let content = "From: Eve <eve@far.test>\r\nSubject: dots\r\n\r\n.\r\n..two\r\n\tcaf\u{e9}\r\n\r\nno trailing blank";
        let content = format!("{content}\r\n");
        let id = server.send("eve@far.test", &["ann@example.test"], &content).await;
        server.empty().await;
        let mails = server.mailbox("ann");
        assert_eq!(mails.len(), 1);
        assert_eq!(below_our_fields(&mails[0]), content.as_bytes());
        let text = String::from_utf8_lossy(&mails[0]).into_owned();
        let above = text.strip_suffix(&content).unwrap();
        assert!(above.starts_with("Return-Path: <eve@far.test>\r\nDelivered-To: ann@example.test\r\nReceived: from "), "{above}");
        assert!(above.contains(&id.to_string()) && above.contains("by mail.example.test"), "{above}");
    });
}

#[test]
fn the_case_of_a_local_users_name_is_of_no_account() {
    story(async {
        let server = Setup::new().start().await;
        server.send("eve@far.test", &["ANN@Example.TEST"], "\r\nhello\r\n").await;
        server.empty().await;
        assert_eq!(server.mailbox("ann").len(), 1);
    });
}

#[test]
fn an_alias_to_two_reaches_both() {
    story(async {
        let server = Setup::new().aliases("team: ann, bob\n").start().await;
        server.send("eve@far.test", &["team@example.test"], "Subject: all\r\n\r\nhello\r\n").await;
        server.empty().await;
        assert_eq!((server.mailbox("ann").len(), server.mailbox("bob").len()), (1, 1));
        assert!(server.mails("bob")[0].contains("Delivered-To: bob@example.test\r\n"));
        assert_eq!(server.count("expanded"), 1);
    });
}

#[test]
fn aliases_behind_aliases_reach_each_mailbox_once() {
    story(async {
        let aliases = "all: team, sue, ann\nteam: ann, bob\nboss: all\n";
        let server = Setup::new().aliases(aliases).start().await;
        server.send("eve@far.test", &["boss@example.test", "bob@example.test"], "\r\nhello\r\n").await;
        server.empty().await;
        for user in ["ann", "bob", "sue"] {
            assert_eq!(server.mailbox(user).len(), 1, "{user}");
        }
    });
}

#[test]
fn aliases_in_a_circle_come_to_an_end() {
    story(async {
        let server = Setup::new().aliases("a: b\nb: a, ann\n").start().await;
        server.send("sue@example.test", &["a@example.test"], "\r\nround and round\r\n").await;
        server.empty().await;
        assert_eq!(server.mailbox("ann").len(), 1);
        assert_eq!(server.mailbox("sue").len(), 0);
    });
}

#[test]
fn an_alias_that_names_itself_means_the_mailbox() {
    story(async {
        let server = Setup::new().aliases("ann: ann, bob\n").start().await;
        server.send("eve@far.test", &["ann@example.test"], "\r\nhello\r\n").await;
        server.empty().await;
        assert_eq!((server.mailbox("ann").len(), server.mailbox("bob").len()), (1, 1));
    });
}

#[test]
fn an_alias_may_lead_far_away() {
    story(async {
        let server = Setup::new().aliases("abroad: ann@far.test\n").start().await;
        let far = server.domain("far.test", Default::default()).await;
        server.send("eve@other.test", &["abroad@example.test"], "\r\nhello\r\n").await;
        server.empty().await;
        assert_eq!(far.taken()[0].recipients, ["ann@far.test"]);
        assert_eq!(far.taken()[0].reverse_path, "eve@other.test");
    });
}

#[test]
fn a_tag_behind_the_users_name_changes_nothing() {
    story(async {
        let server = Setup::new().start().await;
        server.send("eve@far.test", &["ann+lists+rust@example.test"], "\r\nhello\r\n").await;
        server.empty().await;
        assert_eq!(server.mailbox("ann").len(), 1);
        let replies = server.try_send("eve@far.test", &["nobody+ann@example.test"], "").await;
        assert!(replies[1].starts_with("550 5.1.1"), "{replies:?}");
    });
}

#[test]
fn a_catch_all_takes_what_nobody_else_does() {
    story(async {
        let catch_all = Address::parse("sue@example.test").unwrap();
        let server = Setup::new().config(|c| c.domains[0].catch_all = Some(catch_all)).start().await;
        server.send("eve@far.test", &["whoever@example.test", "ann@example.test"], "\r\nhello\r\n").await;
        server.empty().await;
        assert_eq!((server.mailbox("ann").len(), server.mailbox("sue").len()), (1, 1));
    });
}

#[test]
fn postmaster_needs_no_domain_and_no_mailbox() {
    story(async {
        let server = Setup::new().start().await;
        server.send("eve@far.test", &["Postmaster"], "\r\none\r\n").await;
        server.send("eve@far.test", &["postmaster@example.test"], "\r\ntwo\r\n").await;
        server.send("eve@far.test", &["postmaster@mail.example.test"], "\r\nthree\r\n").await;
        server.empty().await;
        assert_eq!(server.mailbox("postmaster").len(), 3);
    });
}

#[test]
fn an_unknown_local_user_is_refused_at_once() {
    story(async {
        let server = Setup::new().start().await;
        let replies = server.try_send("eve@far.test", &["nobody@example.test", "ann@example.test"], "\r\nhello\r\n").await;
        assert!(replies[1].starts_with("550 5.1.1"), "{replies:?}");
        server.empty().await;
        assert_eq!(server.mailbox("ann").len(), 1);
        assert_eq!(server.count("refused"), 1);
        assert_eq!(server.count("notified"), 0);
    });
}

#[test]
fn the_same_recipient_twice_is_one_delivery() {
    story(async {
        let server = Setup::new().start().await;
        server.send("eve@far.test", &["ann@example.test", "ann@example.test", "ann@EXAMPLE.test"], "\r\nhello\r\n").await;
        server.empty().await;
        assert_eq!(server.mailbox("ann").len(), 1);
    });
}

#[test]
fn a_message_that_was_in_the_mailbox_before_is_in_a_loop() {
    story(async {
        let server = Setup::new().start().await;
        server.send("sue@example.test", &["ann@example.test"], "Delivered-To: ann@example.test\r\n\r\nagain\r\n").await;
        server.empty().await;
        assert_eq!(server.mailbox("ann").len(), 0);
        assert!(server.mails("sue")[0].contains("5.4.6"));
    });
}

/// How often something is synced among the mailboxes, and how many files are made there, from now on.
fn watch_mailboxes(server: &Server) -> Arc<[AtomicUsize; 2]> {
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let told = Arc::clone(&counts);
    server.disk.watch(move |operation| {
        let count = match operation.kind {
            OperationKind::Sync | OperationKind::SyncFolder => &told[0],
            OperationKind::Create if operation.path.parent().is_some_and(|folder| folder.ends_with("tmp")) => &told[1],
            _ => return,
        };
        count.fetch_add(usize::from(operation.path.starts_with("/mail")), Ordering::Relaxed);
    });
    counts
}

#[test]
fn mail_for_many_mailboxes_shares_its_syncs_and_makes_no_more_copies_than_have_different_headers() {
    story(async {
        let users: Vec<String> = (0..20).map(|n| format!("user{n}@example.test")).collect();
        let setup = users.iter().fold(Setup::new(), |setup, user| setup.user(user));
        let server = setup.aliases(&format!("all: {}\n", users.join(", "))).start().await;
        // The first mail makes the folders.
        server.send("eve@far.test", &["all@example.test"], "Subject: hi\r\n\r\nhello\r\n").await;
        server.empty().await;
        let counts = watch_mailboxes(&server);
        let found = || [0, 1].map(|at| counts[at].swap(0, Ordering::Relaxed));
        // One message for all of them: its bytes, and its names.
        let again: Vec<&str> = users.iter().map(String::as_str).chain(["all@example.test", "user1@EXAMPLE.test"]).collect();
        server.send("eve@far.test", &again, "Subject: hi\r\n\r\nhello\r\n").await;
        server.empty().await;
        assert_eq!(found(), [2, 20]);
        // Many messages at a time, each for one of them.
        server.handle.pause(None).await.unwrap();
        for user in users.iter().chain(&users).chain(&users) {
            server.send("eve@far.test", &[user], "Subject: hi\r\n\r\nhello\r\n").await;
        }
        server.handle.resume(None).await.unwrap();
        server.empty().await;
        let [syncs, files] = found();
        assert!(files == 60 && syncs <= 12, "{syncs} syncs for {files} messages");
        assert!((0..20).all(|n| server.mailbox(&format!("user{n}")).len() == 5));
    });
}
