//! Loops end at their first turn: ourselves under a foreign address, what was here before, what was delivered here before.

use posthouse::config::{DomainPattern, HostPort, Route, RouteHost};
use posthouse::event::Event;
use posthouse::mail::Domain;
use posthouse::system::sim::{Act, Script, Stage};

use crate::world::*;

const CONTENT: &str = "Subject: hi\r\n\r\nhello\r\n";

/// What the server says to whoever calls it.
async fn greeting(server: &Server) -> String {
    let mut client = call(server, STRANGER).await.unwrap();
    client.reply().await.unwrap()
}

#[test]
fn a_host_that_greets_us_with_our_own_mark_is_ourselves_behind_nat() {
    story(async {
        let server = Setup::new().start().await;
        let greeting = greeting(&server).await;
        assert!(greeting.starts_with("220 mail.example.test ESMTP Posthouse "), "{greeting}");
        // The router gives whoever calls its outer address to us.
        let nat = Script::default().always(Stage::Greeting, Act::say(&greeting));
        server.world.dns.mx("far.test", &[(10, "outer.far.test"), (20, "backup.far.test")]);
        let outer = server.host("outer.far.test", "50.2.0.1", nat).await;
        let backup = server.host("backup.far.test", "50.2.0.2", Script::default()).await;
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.empty().await;
        assert_eq!((outer.taken().len(), backup.connections()), (0, 0), "the backup would only give it back");
        assert_eq!(outer.commands(), ["QUIT"], "we say nothing to ourselves");
        let bounce = server.mails("ann").remove(0);
        assert!(bounce.contains("Status: 5.4.6") && bounce.contains("is ourselves"), "{bounce}");
        assert!(server.now().since(server.started()) < MINUTE);
    });
}

#[test]
fn a_better_host_that_is_out_of_order_keeps_mail_waiting_and_not_bouncing() {
    story(async {
        let server = Setup::new().start().await;
        let nat = Script::default().always(Stage::Greeting, Act::say(&greeting(&server).await));
        let busy = Script::default().always(Stage::Greeting, Act::SayAndClose("421 4.3.2 busy".to_owned()));
        server.world.dns.mx("far.test", &[(5, "better.far.test"), (10, "outer.far.test")]);
        let better = server.host("better.far.test", "50.2.0.1", busy).await;
        server.host("outer.far.test", "50.2.0.2", nat).await;
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.until("a deferral", || server.count("deferred") == 1).await;
        better.script(|script| *script = Script::default());
        server.empty().await;
        assert_eq!((better.taken().len(), server.mails("ann").len()), (1, 0));
    });
}

#[test]
fn a_route_to_ourselves_is_our_own_mistake_and_bounces_nothing() {
    story(async {
        let host = HostPort { host: Domain::parse("[10.0.0.1]").unwrap(), port: Some(25) };
        let route = Route::new(DomainPattern::Any, vec![RouteHost::Tcp(host)]);
        let server = Setup::new().config(|c| c.routes = vec![route]).start().await;
        let nat = Script::default().always(Stage::Greeting, Act::say(&greeting(&server).await));
        let ourselves = server.listen("10.0.0.1", nat).await;
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        let words = server
            .event("a deferral", |event| match event {
                Event::Deferred { status, reply, .. } => Some(format!("{status} {reply}")),
                _ => None,
            })
            .await;
        assert!(words.starts_with("4.4.6 ") && words.contains("is ourselves"), "{words}");
        ourselves.script(|script| *script = Script::default());
        server.empty().await;
        assert_eq!((ourselves.taken().len(), server.mails("ann").len()), (1, 0));
    });
}

#[test]
fn a_route_that_leads_to_ourselves_first_leads_to_its_next_host() {
    story(async {
        let hosts = ["[10.0.0.1]", "[10.0.0.2]"].map(|host| HostPort { host: Domain::parse(host).unwrap(), port: Some(25) });
        let route = Route::new(DomainPattern::Any, hosts.map(RouteHost::Tcp).to_vec());
        let server = Setup::new().config(|c| c.routes = vec![route]).start().await;
        let nat = Script::default().always(Stage::Greeting, Act::say(&greeting(&server).await));
        let ourselves = server.listen("10.0.0.1", nat).await;
        let next = server.listen("10.0.0.2", Script::default()).await;
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.empty().await;
        assert_eq!((ourselves.connections(), next.taken().len(), server.count("deferred")), (1, 1, 0));
    });
}

#[test]
fn our_mark_outlives_a_restart_and_is_nobody_elses() {
    let of = |seed: u64| {
        story(async move {
            let server = Setup::seeded(seed).start().await;
            let first = greeting(&server).await;
            let server = server.restart().await;
            assert_eq!(greeting(&server).await, first);
            first
        })
    };
    assert_ne!(of(1), of(2), "other servers have other keys");
}

#[test]
fn what_comes_back_for_the_same_recipients_is_refused_at_the_first_turn() {
    story(async {
        let server = Setup::new().aliases("list: eve@far.test, joe@far.test\n").start().await;
        let far = server.domain("far.test", Script::default()).await;
        // Through an alias, to two by name, and to a mailbox of ours.
        for to in [&["list@example.test"][..], &["eve@far.test", "joe@far.test"], &["bob@example.test", "eve@far.test"]] {
            let before = far.taken().len();
            server.relay("sue@far.test", to, CONTENT).await;
            server.empty().await;
            let content = String::from_utf8(far.taken()[before].content.clone()).unwrap();
            // Another server, which knows no better, gives it back just as it is.
            let returned = format!("Received: from mail.example.test by far.test id 7\r\n{content}");
            let mut client = server.client(TRUSTED).await;
            let replies = client.transaction("sue@far.test", to, returned.as_bytes()).await.unwrap();
            let last = replies.last().unwrap();
            assert!(last.starts_with("554 5.4.6 ") && last.contains("was here before"), "{to:?}: {last}");
            // For somebody else it is welcome: lists and forwarding do that.
            server.relay("sue@far.test", &["ann@example.test"], &returned).await;
            server.empty().await;
        }
        assert_eq!(server.mailbox("ann").len(), 3);
        assert_eq!(server.count("accepted"), 6);
    });
}

/// What the peer took last, as another server, which knows no better, gives it back.
fn returned(peer: &posthouse::system::sim::Peer) -> String {
    let content = String::from_utf8(peer.taken().last().unwrap().content.clone()).unwrap();
    format!("Received: from mail.example.test by far.test id 7\r\n{content}")
}

#[test]
fn what_comes_back_for_a_crowd_is_refused_at_the_first_turn() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::default()).await;
        let all: Vec<String> = (0..500).map(|n| format!("eve{n}@far.test")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        server.relay("sue@far.test", &all, CONTENT).await;
        server.empty().await;
        let mut client = server.client(TRUSTED).await;
        for some in [&all[..], &all[100..200], &all[499..]] {
            let replies = client.transaction("sue@far.test", some, returned(&far).as_bytes()).await.unwrap();
            assert!(replies.last().unwrap().starts_with("554 5.4.6 "), "{:?}", replies.last());
        }
        assert_eq!((far.taken().len(), server.count("accepted")), (1, 1));
    });
}

#[test]
fn what_comes_back_in_company_goes_out_again_only_for_the_company() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::default()).await;
        server.relay("ann@example.test", &["eve@far.test", "joe@far.test"], CONTENT).await;
        server.empty().await;
        let back = returned(&far);
        let to = ["joe@far.test", "kim@far.test", "eve@far.test", "bob@example.test"];
        server.relay("ann@example.test", &to, &back).await;
        server.empty().await;
        let taken = far.taken();
        assert_eq!((taken.len(), taken[1].recipients.join(" ")), (2, "kim@far.test".to_owned()));
        assert_eq!(server.mailbox("bob").len(), 1);
        let bounces = server.mails("ann");
        assert_eq!(bounces.len(), 1, "one for both");
        let told = &bounces[0];
        assert!(told.contains("Status: 5.4.6") && told.contains("joe@far.test") && told.contains("eve@far.test"), "{told}");
        assert!(!told.contains("Final-Recipient: rfc822; kim@far.test"), "{told}");
        // For nobody new nothing goes out at all.
        server.relay("ann@example.test", &["eve@far.test", "sue@example.test"], &back).await;
        server.empty().await;
        assert_eq!((far.taken().len(), server.mailbox("sue").len(), server.mails("ann").len()), (2, 1, 2));
    });
}

#[test]
fn a_list_may_bring_what_went_to_its_reader_as_well() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::default()).await;
        server.relay("ann@example.test", &["list@far.test", "bob@example.test"], CONTENT).await;
        server.empty().await;
        let copy = format!("List-Id: <list.far.test>\r\n{}", returned(&far));
        server.relay("list-bounces@far.test", &["bob@example.test"], &copy).await;
        server.empty().await;
        assert_eq!(server.mailbox("bob").len(), 2);
        // A list's mail that goes in a circle is a loop like any other.
        let mut client = server.client(TRUSTED).await;
        let replies = client.transaction("ann@example.test", &["bob@example.test"], copy.as_bytes()).await.unwrap();
        assert!(replies.last().unwrap().starts_with("554 5.4.6 "), "{replies:?}");
    });
}

#[test]
fn who_forwards_his_mail_under_his_own_name_may_bring_what_somebody_had_beside_him() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::default()).await;
        server.relay("ann@example.test", &["fred@far.test", "eve@far.test"], CONTENT).await;
        server.empty().await;
        let forwarded = returned(&far);
        server.relay("srs0=x=example.test=ann@far.test", &["eve@far.test"], &forwarded).await;
        server.empty().await;
        assert_eq!((far.taken().len(), server.count("failed"), server.mails("ann").len()), (2, 0, 0));
        // And round once more: now nobody else had it.
        let mut client = server.client(TRUSTED).await;
        let around = returned(&far);
        let replies = client.transaction("srs1=y@far.test", &["eve@far.test"], around.as_bytes()).await.unwrap();
        assert!(replies.last().unwrap().starts_with("554 5.4.6 "), "{replies:?}");
        // Without another name it is a loop, alone or in company.
        let replies = client.transaction("ann@example.test", &["eve@far.test"], forwarded.as_bytes()).await.unwrap();
        assert!(replies.last().unwrap().starts_with("554 5.4.6 "), "{replies:?}");
        server.relay("ann@example.test", &["eve@far.test", "kim@far.test"], &forwarded).await;
        server.empty().await;
        assert_eq!((far.taken().len(), far.taken()[2].recipients.join(" ")), (3, "kim@far.test".to_owned()));
    });
}

#[test]
fn a_loop_that_changes_the_sender_is_a_loop_at_its_first_turn() {
    story(async {
        let server = Setup::new().aliases("list: eve@far.test, joe@far.test\n").start().await;
        let far = server.domain("far.test", Script::default()).await;
        let all = ["list@example.test", "bob@example.test"];
        for to in [&all[..1], &all[..]] {
            server.relay("ann@example.test", to, CONTENT).await;
            server.empty().await;
            let mut client = server.client(TRUSTED).await;
            let replies = client.transaction("srs0=x@far.test", to, returned(&far).as_bytes()).await.unwrap();
            assert!(replies.last().unwrap().starts_with("554 5.4.6 "), "{replies:?}");
        }
    });
}

#[test]
fn a_list_that_has_a_member_who_leads_back_to_it_gets_its_mail_once() {
    story(async {
        let server = Setup::new().aliases("member: list@far.test, bob@example.test\n").start().await;
        let far = server.domain("far.test", Script::default()).await;
        for (round, sender) in [(1, "ann@example.test"), (2, "list-bounces@far.test")] {
            server.relay("ann@example.test", &["list@far.test"], CONTENT).await;
            server.empty().await;
            let copy = format!("List-Id: <list.far.test>\r\n{}", returned(&far));
            server.relay(sender, &["member@example.test"], &copy).await;
            server.empty().await;
            let letters = far.taken().iter().filter(|taken| !taken.reverse_path.is_empty()).count();
            assert_eq!((letters, server.mailbox("bob").len()), (round, round), "from {sender}: read, and not sent on");
        }
    });
}

#[test]
fn what_a_reader_sends_on_by_hand_may_come_again() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::default()).await;
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.empty().await;
        let content = String::from_utf8(far.taken()[0].content.clone()).unwrap();
        let resent = format!("Resent-From: <bob@example.test>\r\nResent-Date: Sun, 22 Nov 2026 03:00:00 +0000\r\n{content}");
        server.relay("bob@example.test", &["eve@far.test"], &resent).await;
        server.empty().await;
        assert_eq!(far.taken().len(), 2);
    });
}
