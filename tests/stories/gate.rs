//! What strangers may take of the server: connections by network, mail in flight, time before the greeting; and what is kept for others.

use std::net::IpAddr;
use std::time::Duration;

use posthouse::event::Event;
use posthouse::system::Endpoint;
use posthouse::system::sim::Fault;

use crate::client::Client;
use crate::world::*;

/// Somebody at 70.0.`network`.`host`.
fn from(network: u8, host: u8) -> IpAddr {
    IpAddr::from([70, 0, network, host])
}

/// Which limits the log tells of.
fn limits(server: &Server) -> Vec<&'static str> {
    let limit = |event: &Event| match event {
        Event::Limited { limit, .. } | Event::LimitedAgain { limit, .. } => Some(*limit),
        _ => None,
    };
    server.events.recorded().iter().filter_map(limit).collect()
}

/// Begins a message and sends some of its content.
async fn begin(server: &Server, client: IpAddr, octets: usize) -> Client {
    let mut client = server.client(client).await;
    for line in ["MAIL FROM:<eve@far.test>", "RCPT TO:<ann@example.test>", "DATA"] {
        client.command(line).await.unwrap();
    }
    client.send("0123456789abcde\r\n".repeat(octets / 17).as_bytes()).await.unwrap();
    server.pass(Duration::from_millis(10)).await;
    client
}

/// Ends it, and what the server says to that.
async fn end(client: &mut Client) -> String {
    client.send(b"\r\n.\r\n").await.unwrap();
    client.reply().await.unwrap()
}

#[test]
fn a_network_with_too_many_connections_hears_421_and_others_do_not() {
    story(async {
        let server = Setup::new().config(|c| c.limits.connections_per_network = 2).start().await;
        let (_one, two) = (server.client(from(1, 1)).await, server.client(from(1, 2)).await);
        let reply = call(&server, from(1, 3)).await.unwrap().reply().await.unwrap();
        assert!(reply.starts_with("421 4.7.0"), "{reply}");
        server.client(from(2, 1)).await;
        drop(two);
        server.pass(Duration::from_secs(1)).await;
        server.client(from(1, 3)).await;
        assert_eq!(limits(&server), ["limits.connections_per_network"]);
    });
}

#[test]
fn who_talks_before_the_greeting_gets_none() {
    story(async {
        let server = Setup::new().start().await;
        let mut client = call(&server, STRANGER).await.unwrap();
        client.send(b"EHLO eager.test\r\n").await.unwrap();
        let reply = client.reply().await.unwrap();
        assert!(reply.starts_with("554 5.5.1"), "{reply}");
        assert!(client.reply().await.is_err());
        // Our own clients needn't wait.
        let mut client = call(&server, TRUSTED).await.unwrap();
        client.send(b"EHLO eager.test\r\n").await.unwrap();
        let reply = client.reply().await.unwrap();
        assert!(reply.starts_with("220 "), "{reply}");
        assert_eq!(limits(&server), ["limits.greeting_delay"]);
    });
}

#[test]
fn a_stranger_waits_for_the_greeting_and_no_longer_than_that() {
    story(async {
        let server = Setup::new().config(|c| c.limits.greeting_delay = Duration::from_secs(3)).start().await;
        for (client, wait) in [(STRANGER, 3), (TRUSTED, 0)] {
            let begun = server.now();
            let mut client = call(&server, client).await.unwrap();
            let reply = client.reply().await.unwrap();
            assert!(reply.starts_with("220 "), "{reply}");
            assert_eq!(server.now().since(begun).as_secs(), wait);
        }
        let mut gone = call(&server, STRANGER).await.unwrap();
        gone.send(b"").await.unwrap();
        drop(gone);
        server.pass(Duration::from_secs(1)).await;
        assert_eq!(server.handle.connections(), 0);
    });
}

#[test]
fn mail_beyond_what_may_be_in_flight_is_put_off_and_taken_later() {
    story(async {
        let bounds = |c: &mut posthouse::config::Config| {
            (c.limits.in_flight, c.limits.in_flight_per_network) = (1_000_000, 600_000);
        };
        let server = Setup::new().config(bounds).start().await;
        let mut one = begin(&server, from(1, 1), 500_000).await;
        assert!((500_000..600_000).contains(&server.handle.in_flight()), "{}", server.handle.in_flight());
        // Another of the same network: put off at MAIL by its declared size, or at the end of what was too much.
        let mut two = server.client(from(1, 2)).await;
        let reply = two.command("MAIL FROM:<eve@far.test> SIZE=200000").await.unwrap();
        assert!(reply.starts_with("452 4.3.1"), "{reply}");
        let reply = end(&mut begin(&server, from(1, 3), 200_000).await).await;
        assert!(reply.starts_with("452 4.3.1"), "{reply}");
        // Another network has room of its own, as long as there is any.
        let mut three = begin(&server, from(2, 1), 400_000).await;
        let reply = server.client(from(3, 1)).await.command("MAIL FROM:<eve@far.test> SIZE=100000").await.unwrap();
        assert!(reply.starts_with("452 4.3.1"), "{reply}");
        for client in [&mut one, &mut three] {
            let reply = end(client).await;
            assert!(reply.starts_with("250 2.0.0"), "{reply}");
        }
        assert_eq!(server.handle.in_flight(), 0);
        let reply = end(&mut begin(&server, from(1, 3), 500_000).await).await;
        assert!(reply.starts_with("250 2.0.0"), "{reply}");
        server.empty().await;
        assert_eq!(server.mailbox("ann").len(), 3);
        let told = limits(&server);
        assert_eq!(told.iter().filter(|limit| **limit == "limits.in_flight_per_network").count(), 2, "{told:?}");
        assert_eq!(told.iter().filter(|limit| **limit == "limits.in_flight").count(), 1, "{told:?}");
    });
}

#[test]
fn a_message_that_does_not_fit_on_the_disk_is_put_off_before_it_comes() {
    story(async {
        let server = Setup::new().start().await;
        server.send("eve@far.test", &["ann@example.test"], "\r\none\r\n").await;
        server.empty().await;
        server.disk.set_capacity(Some(server.disk.used() + 4_000_000));
        server.pass(MINUTE).await;
        let mut client = server.client(from(1, 1)).await;
        let reply = client.command("MAIL FROM:<eve@far.test> SIZE=3500000").await.unwrap();
        assert!(reply.starts_with("452 4.3.1"), "{reply}");
        // Nor does it fit beside what is already coming in, which has its turn.
        let mut other = begin(&server, from(2, 1), 1_500_000).await;
        let reply = client.command("MAIL FROM:<eve@far.test> SIZE=2000000").await.unwrap();
        assert!(reply.starts_with("452 4.3.1"), "{reply}");
        let reply = end(&mut other).await;
        assert!(reply.starts_with("250 2.0.0"), "{reply}");
        let reply = client.command("MAIL FROM:<eve@far.test> SIZE=10000").await.unwrap();
        assert!(reply.starts_with("250 "), "{reply}");
    });
}

#[test]
fn envelopes_count_as_mail_in_flight() {
    story(async {
        let server = Setup::new().config(|c| c.limits.in_flight = 200_000).start().await;
        let mut client = server.client(TRUSTED).await;
        client.command("MAIL FROM:<ann@example.test>").await.unwrap();
        let mut replies = Vec::new();
        for n in 0..1000 {
            replies.push(client.command(&format!("RCPT TO:<user{n}@far.test>")).await.unwrap());
        }
        let taken = replies.iter().take_while(|reply| reply.starts_with("250 ")).count();
        assert!((300..700).contains(&taken), "{taken}");
        assert!(replies[taken..].iter().all(|reply| reply.starts_with("452 4.3.1")), "{:?}", replies.last());
        drop(client);
        server.pass(Duration::from_secs(1)).await;
        assert_eq!(server.handle.in_flight(), 0);
    });
}

#[test]
fn a_client_that_breaks_a_bound_is_in_the_log_with_it() {
    story(async {
        let server = Setup::new().config(|c| (c.limits.errors, c.limits.commands) = (3, 5)).start().await;
        for (line, limit) in [("RUBBISH", "limits.errors"), ("NOOP", "limits.commands")] {
            let mut client = server.client(STRANGER).await;
            while client.command(line).await.is_ok() {}
            server.pass(Duration::from_secs(1)).await;
            assert_eq!(limits(&server).last(), Some(&limit));
        }
        let _silent = server.client(STRANGER).await;
        server.pass(6 * MINUTE).await;
        assert_eq!(limits(&server).last(), Some(&"limits.command_timeout"));
        assert_eq!(server.count("limited"), 3);
    });
}

#[test]
fn a_thousand_refused_connections_are_a_few_lines_of_the_log() {
    story(async {
        let server = Setup::new().config(|c| c.limits.connections_per_client = 1).start().await;
        let _one = server.client(STRANGER).await;
        for _ in 0..1000 {
            let _ = call(&server, STRANGER).await.unwrap().reply().await;
        }
        assert_eq!((server.count("limited"), server.count("limited-again")), (1, 999));
        assert_eq!(server.handle.connections(), 1);
    });
}

#[test]
fn a_server_that_cant_accept_says_so_once_a_second_and_goes_on_when_it_can() {
    story(async {
        let server = Setup::new().start().await;
        let ourselves = Endpoint::Tcp(server.address().await);
        server.world.net.fault(&ourselves, Some(Fault::Unaccepted));
        // The one that was waited for already.
        drop(call(&server, STRANGER).await.unwrap());
        server.pass(Duration::from_millis(4050)).await;
        assert_eq!(server.count("accept-trouble"), 5);
        server.world.net.fault(&ourselves, None);
        server.send("eve@far.test", &["ann@example.test"], "\r\nhello\r\n").await;
    });
}

#[test]
fn clients_behind_a_go_between_do_not_share_what_may_be_in_flight_from_one_network() {
    story(async {
        let trusted = format!("{TRUSTED}/32").parse().unwrap();
        let bounds = |config: &mut posthouse::config::Config| {
            config.limits.in_flight_per_network = 600_000;
            config.listeners[0].xclient = vec![trusted];
        };
        let server = Setup::new().config(bounds).start().await;
        let mut clients = Vec::new();
        for address in ["192.0.2.1", "198.51.100.1", "192.0.2.2"] {
            let mut client = server.client(TRUSTED).await;
            let greeting = client.command(&format!("XCLIENT ADDR={address}")).await.unwrap();
            assert!(greeting.starts_with("220"), "{greeting}");
            client.command("EHLO client.test").await.unwrap();
            clients.push(client);
        }
        let [one, two, neighbour] = clients.as_mut_slice() else { unreachable!() };
        for line in ["MAIL FROM:<eve@far.test>", "RCPT TO:<ann@example.test>", "DATA"] {
            one.command(line).await.unwrap();
        }
        one.send("0123456789abcde\r\n".repeat(32_000).as_bytes()).await.unwrap();
        server.pass(Duration::from_millis(10)).await;
        let declared = "MAIL FROM:<eve@far.test> SIZE=200000";
        assert!(two.command(declared).await.unwrap().starts_with("250"));
        assert!(neighbour.command(declared).await.unwrap().starts_with("452 4.3.1"), "one network's bound holds");
        assert!(end(one).await.starts_with("250 2.0.0"));
        server.empty().await;
    });
}

#[test]
fn content_that_there_was_no_room_for_is_put_off_whatever_else_is_wrong_with_it() {
    story(async {
        let server = Setup::new().config(|config| config.limits.in_flight_per_network = 100_000).start().await;
        let mut client = server.client(STRANGER).await;
        for line in ["MAIL FROM:<eve@far.test>", "RCPT TO:<ann@example.test>", "DATA"] {
            client.command(line).await.unwrap();
        }
        // More hops than any message makes, and then too much.
        client.send("Received: from a by b\r\n".repeat(1000).as_bytes()).await.unwrap();
        client.send("0123456789abcde\r\n".repeat(10_000).as_bytes()).await.unwrap();
        assert!(end(&mut client).await.starts_with("452 4.3.1"));
    });
}
