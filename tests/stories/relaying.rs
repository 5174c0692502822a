//! Who may send through us: strangers never, our own networks always, relayed domains for anyone.

use posthouse::mail::Domain;
use posthouse::system::sim::Script;

use crate::world::*;

#[test]
fn a_stranger_may_not_relay_in_any_spelling() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::default()).await;
        let spellings = [
            "<eve@far.test>",
            "<@example.test:eve@far.test>",
            "<@mail.example.test,@example.test:eve@far.test>",
            "<eve%far.test@example.test>",
            "<eve%far.test>",
            "<far.test!eve@example.test>",
            "<far.test!eve>",
            "<\"eve@far.test\"@example.test>",
            "<\"eve%far.test\"@example.test>",
            "<\"far.test!eve\"@example.test>",
            "<\"@example.test:eve@far.test\"@example.test>",
            "<eve@far.test@example.test>",
            "<eve@[50.1.0.1]>",
            "<eve%far.test@[50.9.9.9]>",
            "<eve%far.test@mail.example.test>",
            "<ann+eve%far.test@example.test>",
            "eve@far.test",
            "<eve@far.test.>",
            "<EVE@FAR.TEST>",
        ];
        let mut client = server.client(STRANGER).await;
        for spelling in spellings {
            client.command("RSET").await.unwrap();
            for from in ["eve@other.test", "ann@example.test", ""] {
                client.command("RSET").await.unwrap();
                client.command(&format!("MAIL FROM:<{from}>")).await.unwrap();
                let reply = client.command(&format!("RCPT TO:{spelling}")).await;
                let Ok(reply) = reply else {
                    client = server.client(STRANGER).await;
                    continue;
                };
                assert!(reply.starts_with('5') || reply.starts_with("421"), "{spelling}: {reply}");
                if reply.starts_with("421") {
                    client = server.client(STRANGER).await;
                }
            }
        }
        server.empty().await;
        assert_eq!((server.count("accepted"), far.connections()), (0, 0));
    });
}

#[test]
fn a_trusted_network_may_relay() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::default()).await;
        server.relay("ann@example.test", &["eve@far.test"], "Subject: hi\r\n\r\nhello\r\n").await;
        server.empty().await;
        let taken = &far.taken()[0];
        assert_eq!((taken.reverse_path.as_str(), &taken.recipients[..]), ("ann@example.test", &["eve@far.test".to_owned()][..]));
        assert_eq!(below_our_fields(&taken.content), b"Subject: hi\r\n\r\nhello\r\n");
    });
}

#[test]
fn a_relayed_domain_takes_mail_from_anyone() {
    story(async {
        let partner = Domain::parse("partner.test").unwrap();
        let server = Setup::new().config(|c| c.relay.domains = vec![partner]).start().await;
        let peer = server.domain("partner.test", Script::default()).await;
        server.send("eve@far.test", &["pat@partner.test"], "\r\nhello\r\n").await;
        let replies = server.try_send("eve@far.test", &["pat%far.test@partner.test"], "").await;
        assert!(replies[1].starts_with("550 5.7.1"), "{replies:?}");
        server.empty().await;
        assert_eq!(peer.taken().len(), 1);
    });
}
