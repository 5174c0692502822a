//! TLS on the way out: with certificates that are right, somebody else's, over, or unknown; and with servers that break it.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::*;
use crate::event::Event;
use crate::mail::Request;
use crate::system::{PairSource, ServerFiles, SystemTls, Tls as _, TlsServer};

/// An authority in a file, and what it signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), parameters.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(parameters, key), folder }
    }

    /// A server with a certificate for this name, valid until the end of this year.
    fn server(&self, name: &str, last_year: i32) -> Arc<dyn TlsServer> {
        let mut parameters = CertificateParams::new([name.to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(last_year, 12, 31);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let path = self.folder.path().join(format!("{name}-{last_year}.pem"));
        std::fs::write(&path, certificate.pem() + &key.serialize_pem()).unwrap();
        let pairs = vec![PairSource::Files { certificate: path.clone(), key: path }];
        SystemTls.server(&SystemDisk, &ServerFiles { pairs, client_ca: None }).unwrap()
    }
}

/// A scene with real TLS that believes the authority.
fn scene_with(authority: &Authority) -> Scene {
    let mut config = settings();
    config.remote.tls_ca = Some(authority.folder.path().join("ca.pem"));
    scene_of(config, |world| System { tls: Arc::new(SystemTls), ..world.system(Arc::new(SystemDisk)) })
}

const OFFERING: [&str; 3] = ["PIPELINING", "STARTTLS", "REQUIRETLS"];

impl Scene {
    async fn secure_peer(&self, destination: &Destination, script: Script, tls: Arc<dyn TlsServer>) -> Peer {
        let peer = Peer::start_with_tls(self.listener("192.0.2.1:0").await, script, tls);
        self.host(destination, Endpoint::Tcp(peer.address()));
        peer
    }

    fn level(&self, destination: &Destination, tls: RemoteTls) {
        self.routes.tls.lock().unwrap().insert(destination.clone(), tls);
    }

    /// The log's words on encryption.
    fn told(&self) -> Vec<String> {
        let tell = |event| match event {
            Event::Secured { tls, verified, .. } => Some(format!("{tls} {verified}")),
            Event::TlsFallback { reason, .. } => Some(reason.split(':').next().unwrap().to_owned()),
            _ => None,
        };
        self.events.recorded().into_iter().filter_map(tell).collect()
    }
}

#[test]
fn each_level_takes_the_certificates_that_it_should() {
    use RemoteTls::{None, Opportunistic, Require, Verify};
    let (authority, stranger) = (Authority::new(), Authority::new());
    for (tls, server, expected, encrypted, told) in [
        (None, authority.server("mx1.peer.test", 2090), "delivered 2.0.0 mx1", false, vec![]),
        (Opportunistic, authority.server("mx1.peer.test", 2090), "delivered 2.0.0 mx1", true, vec!["TLSv1.3 true"]),
        (Opportunistic, authority.server("other.test", 2090), "delivered 2.0.0 mx1", true, vec!["TLSv1.3 false"]),
        (Require, authority.server("mx1.peer.test", 2021), "delivered 2.0.0 mx1", true, vec!["TLSv1.3 false"]),
        (Require, stranger.server("mx1.peer.test", 2090), "delivered 2.0.0 mx1", true, vec!["TLSv1.3 false"]),
        (Verify, authority.server("mx1.peer.test", 2090), "delivered 2.0.0 mx1", true, vec!["TLSv1.3 true"]),
        (Verify, authority.server("other.test", 2090), "deferred 4.7.5 mx1", false, vec![]),
        (Verify, authority.server("mx1.peer.test", 2021), "deferred 4.7.5 mx1", false, vec![]),
        (Verify, stranger.server("mx1.peer.test", 2090), "deferred 4.7.5 mx1", false, vec![]),
    ] {
        run(async {
            let scene = scene_with(&authority);
            scene.level(&mx(), tls);
            let peer = scene.secure_peer(&mx(), Script::offering(&OFFERING), server).await;
            assert_eq!(scene.send(mx(), &["a@peer.test"], b"x\r\n").await, [expected], "{tls:?}");
            assert_eq!(peer.taken().iter().any(|taken| taken.encrypted), encrypted, "{tls:?}");
            assert_eq!(scene.told(), told, "{tls:?}");
            assert_eq!(peer.taken().len(), usize::from(expected.starts_with("delivered")));
        });
    }
}

#[test]
fn without_starttls_only_those_who_insist_wait() {
    use RemoteTls::{None, Opportunistic, Require, Verify};
    for (tls, expected) in [
        (None, "delivered 2.0.0 mx1"),
        (Opportunistic, "delivered 2.0.0 mx1"),
        (Require, "deferred 4.7.4 mx1"),
        (Verify, "deferred 4.7.4 mx1"),
    ] {
        run(async {
            let scene = scene_with(&Authority::new());
            scene.level(&mx(), tls);
            let peer = scene.peer(&mx(), Script::default()).await;
            assert_eq!(scene.send(mx(), &["a@peer.test"], b"x\r\n").await, [expected], "{tls:?}");
            assert_eq!((peer.connections(), scene.told().len()), (1, 0));
        });
    }
}

/// A server whose side of the handshake always fails.
struct Broken;

impl TlsServer for Broken {
    fn accept(
        &self,
        _: crate::system::BoxStream,
    ) -> BoxFuture<'_, std::io::Result<(crate::system::BoxStream, crate::mail::TlsInfo)>> {
        Box::pin(async { Err(std::io::ErrorKind::InvalidData.into()) })
    }

    fn certificates(&self) -> Vec<crate::system::CertificateFacts> {
        Vec::new()
    }
}

#[test]
fn a_failed_handshake_is_followed_by_one_connection_in_the_clear_where_tls_is_only_a_wish() {
    use RemoteTls::{Opportunistic, Require};
    for (tls, expected, connections, told) in
        [(Opportunistic, "delivered 2.0.0 mx1", 2, vec!["TLS can't be established"]), (Require, "deferred 4.7.5 mx1", 1, vec![])]
    {
        run(async {
            let scene = scene_with(&Authority::new());
            scene.level(&mx(), tls);
            let peer = scene.secure_peer(&mx(), Script::offering(&OFFERING), Arc::new(Broken)).await;
            assert_eq!(scene.send(mx(), &["a@peer.test"], b"x\r\n").await, [expected], "{tls:?}");
            assert_eq!(peer.connections(), connections, "{tls:?}");
            assert_eq!(scene.told(), told, "{tls:?}");
        });
    }
    // The second connection fails as well: there is no third.
    run(async {
        let scene = scene_with(&Authority::new());
        let peer =
            scene.secure_peer(&mx(), Script::offering(&OFFERING).once(Stage::Greeting, Act::Usual), Arc::new(Broken)).await;
        peer.script(|script| {
            script.set_once(Stage::Greeting, Act::Usual);
            script.set_always(Stage::Mail, Act::Close);
        });
        assert_eq!(scene.send(mx(), &["a@peer.test"], b"x\r\n").await, ["deferred 4.4.2 mx1"]);
        assert_eq!(peer.connections(), 2);
    });
}

#[test]
fn a_server_that_takes_starttls_back_gets_mail_in_the_clear_only_where_tls_is_a_wish() {
    use RemoteTls::{Opportunistic, Verify};
    let authority = Authority::new();
    for (tls, expected, told) in [
        (Opportunistic, "delivered 2.0.0 mx1", vec!["the server answered STARTTLS with 454 4.7.0 Not now"]),
        (Verify, "deferred 4.7.4 mx1", vec![]),
    ] {
        run(async {
            let scene = scene_with(&authority);
            scene.level(&mx(), tls);
            let script = Script::offering(&OFFERING).always(Stage::StartTls, Act::say("454 4.7.0 Not now"));
            let peer = scene.secure_peer(&mx(), script, authority.server("mx1.peer.test", 2090)).await;
            assert_eq!(scene.send(mx(), &["a@peer.test"], b"x\r\n").await, [expected], "{tls:?}");
            assert_eq!(peer.connections(), 1, "{tls:?}");
            assert_eq!(scene.told(), told, "{tls:?}");
        });
    }
}

#[test]
fn a_reply_injected_behind_starttls_is_not_believed() {
    let authority = Authority::new();
    run(async {
        let scene = scene_with(&authority);
        let script = Script::offering(&OFFERING).always(Stage::StartTls, Act::say("220 Go\r\n250-peer.test\r\n250 REQUIRETLS"));
        let peer = scene.secure_peer(&mx(), script, authority.server("mx1.peer.test", 2090)).await;
        assert_eq!(scene.send(mx(), &["a@peer.test"], b"x\r\n").await, ["deferred 4.5.0 mx1"]);
        assert_eq!((peer.connections(), peer.taken().len()), (1, 0));
    });
}

#[test]
fn a_message_that_requires_tls_goes_only_to_whom_it_should() {
    let asked = |destination: Destination| {
        let request = Request { require_tls: true, ..Request::default() };
        Attempt { request: request.boxed(), content: Arc::new(b"x\r\n".to_vec()), ..attempt(1, destination, &["a@peer.test"]) }
    };
    let authority = Authority::new();
    let route = || Destination::Route("mx1.peer.test".to_owned());
    for (destination, name, offering, expected) in [
        // A configured host that shows who it is and sees to the rest.
        (route(), "mx1.peer.test", &OFFERING[..], "delivered 2.0.0 mx1"),
        (route(), "mx1.peer.test", &OFFERING[..2], "failed 5.7.30 mx1"),
        (route(), "other.test", &OFFERING[..], "failed 5.7.10 mx1"),
        (route(), "mx1.peer.test", &OFFERING[..1], "failed 5.7.10 mx1"),
        // Only the DNS says that this host takes mail for peer.test, and anybody may have said so.
        (mx(), "mx1.peer.test", &OFFERING[..], "failed 5.7.30 mx1"),
    ] {
        run(async {
            let scene = scene_with(&authority);
            // Configured or not, TLS is what the sender wants.
            scene.level(&destination, RemoteTls::None);
            let peer = scene.secure_peer(&destination, Script::offering(offering), authority.server(name, 2090)).await;
            // An idle connection in the clear is of no use to it.
            assert_eq!(scene.send(destination.clone(), &["a@peer.test"], b"x\r\n").await, ["delivered 2.0.0 mx1"]);
            assert_eq!(scene.attempt(asked(destination)).await, [expected], "{name} {offering:?}");
            let taken: Vec<_> = peer.taken().iter().map(|taken| (taken.encrypted, taken.parameters.clone())).collect();
            assert_eq!(taken[0], (false, String::new()));
            assert!(taken[1..].iter().all(|taken| *taken == (true, "REQUIRETLS".to_owned())), "{taken:?}");
            assert_eq!(taken.len(), 1 + usize::from(expected.starts_with("delivered")));
        });
    }
}

#[test]
fn what_a_sender_says_of_tls_waives_what_is_configured_for_everybody_but_not_what_it_asked_for_itself() {
    let authority = Authority::new();
    let header = "Subject: x\r\nTLS-Required: (a report) No\r\n\r\nx\r\n";
    for (offering, name, content, require_tls, expected) in [
        (&OFFERING[..1], "mx1.peer.test", "x\r\n", false, "deferred 4.7.4 mx1"),
        (&OFFERING[..1], "mx1.peer.test", header, false, "delivered 2.0.0 mx1"),
        (&OFFERING[..1], "mx1.peer.test", header, true, "failed 5.7.10 mx1"),
        (&OFFERING[..], "other.test", "x\r\n", false, "deferred 4.7.5 mx1"),
        (&OFFERING[..], "other.test", header, false, "delivered 2.0.0 mx1"),
    ] {
        run(async {
            let scene = scene_with(&authority);
            scene.level(&mx(), RemoteTls::Verify);
            let peer = scene.secure_peer(&mx(), Script::offering(offering), authority.server(name, 2090)).await;
            let request = Request { require_tls, ..Request::default() };
            let content = Arc::new(content.as_bytes().to_vec());
            let attempt = Attempt { request: request.boxed(), content, ..attempt(1, mx(), &["a@peer.test"]) };
            assert_eq!(scene.attempt(attempt).await, [expected], "{name} {offering:?}");
            // TLS is taken where it can be had.
            assert!(peer.taken().iter().all(|taken| taken.encrypted == (offering.len() > 1)));
        });
    }
}

#[test]
fn an_encrypted_connection_is_used_again_and_sessions_are_taken_up_again() {
    let authority = Authority::new();
    run(async {
        let scene = scene_with(&authority);
        scene.level(&mx(), RemoteTls::Verify);
        let peer = scene.secure_peer(&mx(), Script::offering(&OFFERING), authority.server("mx1.peer.test", 2090)).await;
        for _ in 0..2 {
            assert_eq!(scene.send(mx(), &["a@peer.test"], b"x\r\n").await, ["delivered 2.0.0 mx1"]);
        }
        assert_eq!(peer.connections(), 1);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(scene.send(mx(), &["a@peer.test"], b"x\r\n").await, ["delivered 2.0.0 mx1"]);
        assert_eq!((peer.connections(), scene.told()), (2, vec!["TLSv1.3 true".to_owned(); 2]));
        let resumed = scene.events.recorded().into_iter().filter_map(|event| match event {
            Event::Secured { resumed, .. } => Some(resumed),
            _ => None,
        });
        assert_eq!(resumed.collect::<Vec<_>>(), [false, true]);
    });
}
