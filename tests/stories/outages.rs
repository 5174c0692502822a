//! Destinations that can't be reached: what their mail costs meanwhile, and how soon it goes on when they are back.

use std::sync::atomic::Ordering;
use std::time::Duration;

use posthouse::mail::{Domain, RecipientState};
use posthouse::system::Endpoint;
use posthouse::system::sim::{Act, Fault, Script, Stage};

use crate::world::*;

const CONTENT: &str = "Subject: hi\r\n\r\nhello\r\n";

#[test]
fn mail_for_a_dead_destination_waits_without_attempts_and_goes_when_one_probe_got_through() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::default()).await;
        let at = Endpoint::Tcp(far.address());
        server.world.net.fault(&at, Some(Fault::Refuse));
        let before = server.world.net.connections();
        for _ in 0..100 {
            server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        }
        // Ours to the server are among them.
        server.pass(MINUTE).await;
        assert_eq!((server.count("destination-down"), server.count("deferred")), (1, 3));
        assert_eq!(server.count("postponed"), 97);
        let waiting = server.queue().await;
        assert_eq!(waiting.len(), 100);
        for message in &waiting {
            let status = &message.recipients[0].status;
            assert_eq!(status.state, RecipientState::Deferred);
            assert!(status.last_reply.contains("efused"), "{}", status.last_reply);
        }
        // An hour: a probe now and then, and not a hundred attempts each time.
        server.pass(HOUR).await;
        assert!(server.count("deferred") < 12, "{} attempts", server.count("deferred"));
        server.world.net.fault(&at, None);
        server.pass(HOUR + 10 * MINUTE).await;
        assert_eq!((far.taken().len(), server.count("destination-up")), (100, 1));
        assert!(server.world.net.connections() - before < 100 + 30);
    });
}

#[test]
fn mail_for_a_host_that_greets_nobody_waits_without_attempts_as_long_as_it_says() {
    story(async {
        let server = Setup::new().start().await;
        let greeting = Act::SayAndClose("421 4.3.2 too many connections, try again in 20 minutes".to_owned());
        let far = server.domain("far.test", Script::default().always(Stage::Greeting, greeting)).await;
        for _ in 0..50 {
            server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        }
        server.pass(19 * MINUTE).await;
        assert_eq!((far.connections(), server.count("destination-down"), server.count("postponed")), (3, 1, 47));
        far.script(|script| *script = Script::default());
        server.pass(4 * MINUTE).await;
        assert_eq!((far.taken().len(), server.count("destination-up")), (50, 1));
    });
}

/// What a server that always says 421 at this stage hears of 50 messages in 19 minutes: connections, and how often it was down.
async fn leaving(server: &Server, stage: Stage) -> (posthouse::system::sim::Peer, u64, usize) {
    let act = Act::SayAndClose("421 4.3.2 too much to do, try again in 20 minutes".to_owned());
    let far = server.domain("far.test", Script::default().always(stage, act)).await;
    for _ in 0..50 {
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
    }
    server.pass(19 * MINUTE).await;
    let found = (far.connections(), server.count("destination-down"));
    (far, found.0, found.1)
}

#[test]
fn mail_for_a_host_that_leaves_before_any_messages_end_waits_without_attempts_too() {
    for stage in [Stage::Ehlo, Stage::Mail, Stage::AnyRecipient, Stage::Data] {
        story(async {
            let server = Setup::new().start().await;
            let (far, connections, down) = leaving(&server, stage.clone()).await;
            assert_eq!((connections, down, server.count("postponed")), (3, 1, 47), "{stage:?}");
            far.script(|script| *script = Script::default());
            server.pass(4 * MINUTE).await;
            assert_eq!((far.taken().len(), server.count("destination-up")), (50, 1), "{stage:?}");
        });
    }
}

#[test]
fn a_host_that_leaves_behind_the_final_dot_may_have_meant_that_message() {
    story(async {
        let server = Setup::new().start().await;
        let (_far, connections, down) = leaving(&server, Stage::End).await;
        assert_eq!((connections, down), (50, 0));
    });
}

#[test]
fn an_order_to_retry_is_tried_although_the_destination_is_down() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::default()).await;
        let at = Endpoint::Tcp(far.address());
        server.world.net.fault(&at, Some(Fault::Refuse));
        for _ in 0..5 {
            server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        }
        server.pass(Duration::from_secs(10)).await;
        assert_eq!(server.count("destination-down"), 1);
        server.world.net.fault(&at, None);
        let id = server.queue().await[0].id;
        server.verb(posthouse::queue::Verb::Retry, id).await;
        server.pass(Duration::from_secs(10)).await;
        assert!(!far.taken().is_empty());
    });
}

#[test]
fn black_holes_take_nothing_from_the_others() {
    /// How long mail to 70 living domains takes beside so many that never answer.
    fn time(holes: usize) -> Duration {
        story(async move {
            let server = Setup::new().config(|config| config.queue.attempts = 100).start().await;
            let mut living = Vec::new();
            for n in 0..holes {
                let hole = server.domain(&format!("hole{n}.test"), Script::default()).await;
                server.world.net.fault(&Endpoint::Tcp(hole.address()), Some(Fault::Stall));
                living.push(hole);
            }
            for _ in 0..3 {
                for n in 0..holes {
                    server.relay("ann@example.test", &[&format!("eve@hole{n}.test")], CONTENT).await;
                }
            }
            let mut quick = Vec::new();
            for n in 0..70 {
                quick.push(server.domain(&format!("quick{n}.test"), Script::default()).await);
            }
            let began = server.now();
            for _ in 0..3 {
                for n in 0..70 {
                    server.relay("ann@example.test", &[&format!("eve@quick{n}.test")], CONTENT).await;
                }
            }
            server.until("all that can be delivered is", || quick.iter().all(|peer| peer.taken().len() == 3)).await;
            server.now().since(began)
        })
    }
    let (without, beside) = (time(0), time(30));
    assert!(beside.as_secs_f64() <= without.as_secs_f64() / 0.9 + 0.2, "{beside:?} instead of {without:?}");
}

#[test]
fn mail_that_waits_on_disk_comes_soon_after_the_index_was_out_of_order() {
    story(async {
        let server = Setup::new().config(|c| c.queue.active = 100).start().await;
        let far = server.domain("far.test", Script::default()).await;
        server.handle.pause(None).await.unwrap();
        let send = async |n| server.relay("ann@example.test", &[&format!("eve{n}@far.test")], CONTENT).await;
        for n in 0..290 {
            send(n).await;
        }
        server.pass(MINUTE).await;
        server.index.stuck.store(true, Ordering::Relaxed);
        server.handle.resume(None).await.unwrap();
        for n in 290..300 {
            send(n).await;
        }
        server.pass(2 * MINUTE).await;
        assert_eq!(far.taken().len(), 10, "what is here goes, what is on disk can't be fetched");
        server.index.stuck.store(false, Ordering::Relaxed);
        server.pass(2 * MINUTE).await;
        assert_eq!(far.taken().len(), 300);
    });
}

#[test]
fn a_message_is_fetched_for_a_destination_that_is_back_though_another_recipient_of_it_was_never_tried() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::default()).await;
        let at = Endpoint::Tcp(far.address());
        server.world.net.fault(&at, Some(Fault::Refuse));
        server.handle.pause(Some(Domain::parse("paused.test").unwrap())).await.unwrap();
        for _ in 0..5 {
            server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        }
        server.relay("ann@example.test", &["joe@far.test", "kim@paused.test"], CONTENT).await;
        // Each probe that fails makes the next one come later, and the mail with it.
        server.pass(5 * HOUR).await;
        server.world.net.fault(&at, None);
        for _ in 0..5 * 60 {
            if server.count("destination-up") > 0 {
                break;
            }
            server.pass(MINUTE).await;
        }
        server.pass(Duration::from_secs(1)).await;
        assert_eq!((far.taken().len(), server.count("destination-up")), (6, 1));
    });
}
