//! Postfix (OpenSSL) as a next hop with a good certificate, another host's and an expired one, at every level of `tls`.

use std::fs;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use crate::postfix::Postfix;
use crate::support::corpus;
use crate::support::home::Home;
use crate::support::peer::Peer;
use crate::support::server::{Server, field};

/// Writes a certificate for this name, and its key. The certificate is also an authority that we believe.
pub(super) fn certificate(home: &Home, kind: &str) {
    let name = if kind == "wrong" { "other.test" } else { "127.0.0.1" };
    let mut parameters = CertificateParams::new([name.to_owned()]).unwrap();
    if kind == "expired" {
        (parameters.not_before, parameters.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    }
    let key = KeyPair::generate().unwrap();
    fs::write(home.at("conf/next.pem"), parameters.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(home.at("conf/next-key.pem"), key.serialize_pem()).unwrap();
}

#[test]
fn each_level_takes_the_certificates_that_it_should() {
    const LEVELS: [&str; 4] = ["none", "opportunistic", "require", "verify"];
    for kind in ["good", "wrong", "expired"] {
        let peer = Peer::new();
        let home = Home::new("");
        certificate(&home, kind);
        let settings = format!(
            "relayhost = [127.0.0.1]:{}\nsmtpd_tls_security_level = may\nsmtpd_tls_received_header = yes\n\
             smtpd_tls_cert_file = {}\nsmtpd_tls_key_file = {}\n",
            peer.address().port(),
            home.at("conf/next.pem").display(),
            home.at("conf/next-key.pem").display()
        );
        let Some(postfix) = Postfix::start(home.path(), &settings) else { return };
        let route = |level: &str| {
            format!("[[route]]\ndomain = \"{level}.test\"\nhosts = [\"{}\"]\ntls = \"{level}\"\n", postfix.address())
        };
        let ours = "[relay]\nnetworks = [\"127.0.0.1/32\"]\n[remote]\ntls_ca = \"conf/next.pem\"\n";
        home.configure("", &format!("{ours}{}", LEVELS.map(route).concat()));
        let server = Server::start(&home);
        for level in LEVELS {
            let to = format!("joe@{level}.test");
            let content = corpus::difficult(level);
            let id = server.client().send("sue@client.test", &[&to], &content).unwrap().id().to_owned();
            if level == "verify" && kind != "good" {
                let deferred = server.event("deferred", |event| field(event, "id") == id);
                let reason = field(&deferred, "reply");
                assert!(reason.contains("the certificate doesn't show that this is"), "{kind}: {deferred}");
                continue;
            }
            server.finished(&id);
            let mail = peer.next();
            assert_eq!(mail.to, [to]);
            let trace = String::from_utf8_lossy(&mail.content).into_owned();
            assert_eq!(trace.contains("(using TLSv1.3 with cipher "), level != "none", "{kind} {level}: {trace}");
        }
        let secured = server.events("secured");
        let resumed = |event: &serde_json::Value| event.get("resumed").is_some();
        // Postfix gives one ticket with a full handshake, and none when it is used.
        assert!(secured.iter().any(resumed), "{kind}: {secured:?}");
        let verified = |event: &serde_json::Value| event.get("verified").is_some();
        assert!(!secured.is_empty() && secured.iter().all(|event| verified(event) == (kind == "good")), "{kind}: {secured:?}");
    }
}
