//! Which of a domain's hosts and addresses gets the mail: the quick, the living, and IPv4 where IPv6 isn't welcome.

use std::time::Duration;

use posthouse::system::sim::{Act, Peer, Script, Stage};

use crate::world::*;

const CONTENT: &str = "Subject: hi\r\n\r\nhello\r\n";
const SECOND: Duration = Duration::from_secs(1);
const REFUSAL: &str = "550 5.7.25 [2a00:1::7] The IP address sending this message does not have a PTR record setup";

/// One host of far.test with an address of each kind.
async fn both_families(server: &Server, v6: Script, v4: Script) -> [Peer; 2] {
    server.world.dns.mx("far.test", &[(10, "mx.far.test")]);
    server.world.dns.addresses("mx.far.test", &["2a00:2::1", "50.2.0.1"]);
    [server.listen("2a00:2::1", v6).await, server.listen("50.2.0.1", v4).await]
}

async fn mail(server: &Server, to: &[&str]) {
    server.relay("ann@example.test", to, CONTENT).await;
    server.empty().await;
}

#[test]
fn a_policy_refusal_over_ipv6_is_tried_over_ipv4_at_once_and_remembered() {
    for stage in [Stage::Greeting, Stage::Mail, Stage::AnyRecipient, Stage::Data, Stage::End] {
        story(async {
            let server = Setup::new().start().await;
            let [v6, v4] =
                both_families(&server, Script::default().always(stage.clone(), Act::say(REFUSAL)), Script::default()).await;
            mail(&server, &["eve@far.test", "joe@far.test"]).await;
            assert_eq!((v6.connections(), v4.taken().len(), v4.taken()[0].recipients.len()), (1, 1, 2), "{stage:?}");
            assert_eq!((server.count("deferred"), server.count("failed")), (0, 0), "{stage:?}");
            assert_eq!(server.count("ipv6-refused"), 1, "{stage:?}");
            // Later mail, and on new connections, goes over IPv4 first, for a day.
            server.pass(HOUR).await;
            mail(&server, &["eve@far.test"]).await;
            assert_eq!((v6.connections(), v4.connections(), v4.taken().len()), (1, 2, 2), "{stage:?}");
            server.pass(DAY).await;
            mail(&server, &["eve@far.test"]).await;
            assert_eq!((v6.connections(), v4.taken().len()), (2, 3), "{stage:?}");
        });
    }
}

#[test]
fn a_refusal_over_ipv6_by_a_421_is_tried_over_ipv4_and_remembered_over_a_reload() {
    story(async {
        let server = Setup::new().start().await;
        let leave = Act::SayAndClose("421 4.7.25 [2a00:1::7] has no PTR record".to_owned());
        let [v6, v4] = both_families(&server, Script::default().always(Stage::Mail, leave), Script::default()).await;
        mail(&server, &["eve@far.test"]).await;
        assert_eq!((v6.connections(), v4.taken().len(), server.count("ipv6-refused")), (1, 1, 1));
        server.reload(|_| {}).await.unwrap();
        server.pass(HOUR).await;
        mail(&server, &["eve@far.test"]).await;
        assert_eq!((v6.connections(), v4.taken().len()), (1, 2));
    });
}

#[test]
fn what_was_learnt_of_equal_hosts_outlives_a_reload() {
    story(async {
        let server = Setup::new().start().await;
        let slow = Script::default().always(Stage::Greeting, Act::Slow(2 * SECOND));
        let [slow, quick] = shares(&server, slow, Script::default(), 10).await;
        let before = slow.connections();
        assert_eq!(slow.taken().len() + quick.taken().len(), 10);
        for _ in 0..10 {
            server.reload(|_| {}).await.unwrap();
            mail(&server, &["eve@far.test"]).await;
        }
        assert!(slow.connections() <= before + 1, "{} after {before}", slow.connections());
    });
}

#[test]
fn only_what_was_refused_over_ipv6_goes_over_ipv4() {
    story(async {
        let server = Setup::new().start().await;
        let script = Script::default()
            .always(Stage::Recipient("eve@far.test".to_owned()), Act::say(REFUSAL))
            .always(Stage::Recipient("gone@far.test".to_owned()), Act::say("550 5.1.1 nobody of that name"));
        let [v6, v4] = both_families(&server, script, Script::default()).await;
        mail(&server, &["eve@far.test", "joe@far.test", "gone@far.test"]).await;
        assert_eq!((v6.taken().len(), v6.taken()[0].recipients.join(" ")), (1, "joe@far.test".to_owned()));
        assert_eq!((v4.taken().len(), v4.taken()[0].recipients.join(" ")), (1, "eve@far.test".to_owned()));
        let bounces = server.mails("ann");
        assert_eq!(bounces.len(), 1);
        assert!(bounces[0].contains("gone@far.test") && !bounces[0].contains("eve@far.test"));
    });
}

#[test]
fn other_refusals_over_ipv6_are_final() {
    story(async {
        let server = Setup::new().start().await;
        let script = Script::default().always(Stage::End, Act::say("554 5.7.1 we take no such content"));
        let [v6, v4] = both_families(&server, script, Script::default()).await;
        mail(&server, &["eve@far.test"]).await;
        assert_eq!((v6.connections(), v4.connections(), server.mails("ann").len()), (1, 0, 1));
    });
}

#[test]
fn a_refusal_over_ipv6_counts_where_there_is_no_way_over_ipv4() {
    story(async {
        let server = Setup::new().start().await;
        let script = Script::default().always(Stage::AnyRecipient, Act::say(REFUSAL));
        let only = server.host("only.test", "2a00:2::9", script.clone()).await;
        mail(&server, &["eve@only.test"]).await;
        assert_eq!((only.connections(), server.mails("ann").len()), (1, 1));
        // IPv4 is there, but down: a bounce would be too soon.
        let [_v6, v4] = both_families(&server, script, Script::default().once(Stage::Greeting, Act::Close)).await;
        mail(&server, &["eve@far.test"]).await;
        assert_eq!((server.count("deferred"), v4.taken().len(), server.mails("ann").len()), (1, 1, 1));
    });
}

#[test]
fn while_ipv4_is_down_a_remembered_refusal_over_ipv6_bounces_nothing() {
    story(async {
        let server = Setup::new().start().await;
        let [v6, v4] = both_families(&server, Script::default().always(Stage::End, Act::say(REFUSAL)), Script::default()).await;
        mail(&server, &["eve@far.test"]).await;
        server.pass(HOUR).await;
        v4.script(|script| script.set_once(Stage::Greeting, Act::Close));
        mail(&server, &["eve@far.test"]).await;
        assert_eq!((v6.connections(), v4.taken().len()), (2, 2));
        assert_eq!((server.count("deferred"), server.mails("ann").len()), (1, 0));
    });
}

/// Two equal hosts, and how many of `count` messages each took; one at a time, each on a new connection.
async fn shares(server: &Server, a: Script, b: Script, count: usize) -> [Peer; 2] {
    server.world.dns.mx("far.test", &[(10, "a.far.test"), (10, "b.far.test")]);
    let peers = [server.host("a.far.test", "50.2.0.1", a).await, server.host("b.far.test", "50.2.0.2", b).await];
    for _ in 0..count {
        mail(server, &["eve@far.test"]).await;
        server.pass(15 * SECOND).await;
    }
    peers
}

#[test]
fn the_quicker_of_equal_hosts_gets_the_mail_and_a_little_goes_to_the_other() {
    story(async {
        let server = Setup::new().start().await;
        let slow = Script::default().always(Stage::Greeting, Act::Slow(2 * SECOND));
        let quick = Script::default().always(Stage::Greeting, Act::Slow(SECOND / 10));
        let [slow, quick] = shares(&server, slow, quick, 200).await;
        let taken = slow.taken().len();
        assert!((2..=20).contains(&taken), "the slow one took {taken}");
        assert_eq!(quick.taken().len(), 200 - taken);
        // It has become quicker, and that is found out.
        slow.script(|script| script.set_always(Stage::Greeting, Act::Usual));
        for _ in 0..600 {
            mail(&server, &["eve@far.test"]).await;
            server.pass(15 * SECOND).await;
        }
        assert!(slow.taken().len() > 200, "it took {}", slow.taken().len());
    });
}

#[test]
fn equally_quick_hosts_share_the_mail() {
    story(async {
        let server = Setup::new().start().await;
        let script = |milliseconds| Script::default().always(Stage::Greeting, Act::Slow(Duration::from_millis(milliseconds)));
        let [a, b] = shares(&server, script(100), script(130), 100).await;
        assert!((25..=75).contains(&a.taken().len()), "{}", a.taken().len());
        assert_eq!(a.taken().len() + b.taken().len(), 100);
    });
}

#[test]
fn a_host_that_did_not_serve_of_late_comes_after_its_equals() {
    story(async {
        let server = Setup::new().start().await;
        let [dead, live] = shares(&server, Script::default().always(Stage::Greeting, Act::Close), Script::default(), 30).await;
        assert_eq!((dead.connections(), live.taken().len()), (1, 30), "seven minutes");
        server.pass(10 * MINUTE).await;
        dead.script(|script| *script = Script::default());
        for _ in 0..30 {
            mail(&server, &["eve@far.test"]).await;
            server.pass(15 * SECOND).await;
        }
        assert!(dead.taken().len() > 5, "it is tried again, and lives: {}", dead.taken().len());
    });
}

#[test]
fn a_better_preference_goes_first_however_slow_or_ill() {
    story(async {
        let server = Setup::new().start().await;
        server.world.dns.mx("far.test", &[(10, "a.far.test"), (20, "b.far.test")]);
        let slow = Script::default().always(Stage::Greeting, Act::Slow(20 * SECOND)).once(Stage::Greeting, Act::Close);
        let best = server.host("a.far.test", "50.2.0.1", slow).await;
        let backup = server.host("b.far.test", "50.2.0.2", Script::default()).await;
        for _ in 0..40 {
            mail(&server, &["eve@far.test"]).await;
            server.pass(15 * SECOND).await;
        }
        assert_eq!((best.connections(), best.taken().len(), backup.taken().len()), (40, 39, 1));
    });
}

#[test]
fn an_idle_connection_to_one_of_equal_hosts_is_used() {
    story(async {
        let server = Setup::new().start().await;
        server.world.dns.mx("far.test", &[(10, "a.far.test"), (10, "b.far.test"), (10, "c.far.test")]);
        let mut peers = Vec::new();
        for (name, address) in [("a", "50.2.0.1"), ("b", "50.2.0.2"), ("c", "50.2.0.3")] {
            peers.push(server.host(&format!("{name}.far.test"), address, Script::default()).await);
        }
        for _ in 0..50 {
            mail(&server, &["eve@far.test"]).await;
        }
        let connections: u64 = peers.iter().map(Peer::connections).sum();
        assert_eq!((connections, peers.iter().map(|peer| peer.taken().len()).sum::<usize>()), (1, 50));
    });
}
