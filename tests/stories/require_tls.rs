//! REQUIRETLS (RFC 8689): only to hosts that show who they are and see to the rest, and back in no other way.

use std::sync::Arc;

use posthouse::config::{DomainPattern, HostPort, ListenerTls, Route, RouteHost};
use posthouse::event::Event;
use posthouse::mail::Domain;
use posthouse::system::Net;
use posthouse::system::sim::{ANSWER, Act, HELLO, Peer, Script, SimTls, Stage};

use crate::client::Client;
use crate::world::*;

const CONTENT: &str = "Subject: hi\r\n\r\nsecret words\r\n";

fn setup() -> Setup {
    Setup::new().config(|config| config.listeners[0].tls = ListenerTls::StartTls)
}

/// A client of ours whose session is encrypted.
async fn encrypted(server: &Server) -> Client {
    let mut client = server.client(TRUSTED).await;
    assert!(client.command("STARTTLS").await.unwrap().starts_with("220"));
    client.send(HELLO.as_bytes()).await.unwrap();
    client.octets(ANSWER.len()).await.unwrap();
    let hello = client.command("EHLO client.test").await.unwrap();
    assert!(hello.contains("REQUIRETLS"), "{hello}");
    client
}

/// A server that sees to it, where nothing goes wrong.
async fn peer(server: &Server, address: &str) -> Peer {
    let listener = server.world.net.listen(format!("{address}:25").parse().unwrap()).await.unwrap();
    Peer::start_with_tls(listener, Script::offering(&["STARTTLS", "REQUIRETLS"]), Arc::new(SimTls))
}

/// Mail for a domain goes to this address: a name that nobody could have put in our way.
fn route(domain: &str, address: &str) -> Route {
    let host = HostPort { host: Domain::from_ip(address.parse().unwrap()), port: Some(25) };
    Route::new(DomainPattern::Exact(Domain::parse(domain).unwrap()), vec![RouteHost::Tcp(host)])
}

#[test]
fn what_comes_back_of_it_is_as_safe_and_no_more_than_its_header() {
    story(async {
        let routes = vec![route("far.test", "10.0.0.1"), route("home.test", "10.0.0.2")];
        let server = setup().config(|config| config.routes = routes).start().await;
        let far = peer(&server, "10.0.0.1").await;
        let home = peer(&server, "10.0.0.2").await;
        let gone = Stage::Recipient("gone@far.test".to_owned());
        far.script(|script| script.set_always(gone, Act::say("550 5.1.1 no such user")));
        let to = ["<eve@far.test>", "<gone@far.test>"];
        encrypted(&server).await.ask("<joe@home.test> RET=FULL REQUIRETLS", &to, CONTENT).await;
        server.empty().await;
        let [there, back] = [&far, &home].map(|peer| peer.taken().remove(0));
        assert_eq!((there.encrypted, there.parameters.as_str()), (true, "REQUIRETLS"));
        assert_eq!((back.encrypted, back.parameters.as_str(), back.reverse_path.as_str()), (true, "REQUIRETLS", ""));
        let notice = String::from_utf8(back.content).unwrap();
        assert!(notice.contains("Subject: hi\r\n") && !notice.contains("secret words"), "{notice}");
    });
}

#[test]
fn a_host_that_only_the_dns_names_gets_nothing_over_a_connection_that_was_made_by_its_own_name() {
    story(async {
        let server = setup().start().await;
        let far = peer(&server, "50.2.0.1").await;
        server.world.dns.addresses("mx.far.test", &["50.2.0.1"]);
        server.world.dns.mx("far.test", &[(10, "mx.far.test")]);
        let mut client = encrypted(&server).await;
        client.ask("<ann@example.test> REQUIRETLS", &["<eve@mx.far.test>"], CONTENT).await;
        server.empty().await;
        assert_eq!((far.taken().len(), far.commands().last().map(String::as_str)), (1, Some("DATA")), "it is still there");
        client.ask("<ann@example.test> REQUIRETLS", &["<eve@far.test>"], CONTENT).await;
        let failed = |event: &Event| match event {
            Event::Failed { status, .. } => Some(status.to_string()),
            _ => None,
        };
        assert_eq!(server.event("a failure", failed).await, "5.7.30");
        // All else goes there as ever.
        client.ask("<ann@example.test>", &["<eve@far.test>"], CONTENT).await;
        server.empty().await;
        assert_eq!(far.taken().iter().map(|taken| taken.parameters.as_str()).collect::<Vec<_>>(), ["REQUIRETLS", ""]);
    });
}
