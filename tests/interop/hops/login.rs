//! Postfix as a smarthost that wants a login, which Dovecot judges: each of our mechanisms, over STARTTLS.

use std::fs;

use super::certificates::certificate;
use crate::dovecot::Dovecot;
use crate::postfix::Postfix;
use crate::support::corpus;
use crate::support::home::Home;
use crate::support::peer::Peer;
use crate::support::server::{Server, field};

#[test]
fn we_log_in_at_postfix_by_every_mechanism_and_a_wrong_password_waits() {
    for mechanism in ["scram-sha-256", "plain", "login"] {
        let peer = Peer::new();
        let home = Home::new("");
        certificate(&home, "good");
        let Some(_dovecot) = Dovecot::start(home.path()) else { return };
        let settings = format!(
            "relayhost = [127.0.0.1]:{}\nsmtpd_tls_security_level = may\nsmtpd_tls_auth_only = yes\n\
             smtpd_tls_cert_file = {}\nsmtpd_tls_key_file = {}\n\
             smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nsmtpd_sasl_path = {}\n\
             smtpd_sasl_mechanism_filter = {mechanism}\nsmtpd_sasl_authenticated_header = yes\n\
             smtpd_relay_restrictions = permit_sasl_authenticated, reject\n",
            peer.address().port(),
            home.at("conf/next.pem").display(),
            home.at("conf/next-key.pem").display(),
            home.at("dovecot/auth").display(),
        );
        let Some(postfix) = Postfix::start(home.path(), &settings) else { return };
        let route = |sender: &str, file: &str| {
            format!(
                "[[route]]\ndomain = \"*\"\nsender = \"{sender}\"\nhosts = [\"{}\"]\ntls = \"verify\"\nlogin = \"sue\"\n\
                 password_file = \"conf/{file}\"\n",
                postfix.address()
            )
        };
        fs::write(home.at("conf/right"), "secret\n").unwrap();
        fs::write(home.at("conf/wrong"), "sesame\n").unwrap();
        let ours = "[relay]\nnetworks = [\"127.0.0.1/32\"]\n[remote]\ntls_ca = \"conf/next.pem\"\n";
        home.configure("", &format!("{ours}{}{}", route("bob@client.test", "wrong"), route("*", "right")));
        let server = Server::start(&home);
        let content = corpus::difficult(mechanism);
        for _ in 0..2 {
            let id = server.client().send("sue@client.test", &["joe@far.test"], &content).unwrap().id().to_owned();
            server.finished(&id);
            let mail = peer.next();
            let trace = String::from_utf8_lossy(&mail.content).into_owned();
            assert!(trace.contains("(Authenticated sender: sue)"), "{mechanism}: {trace}");
        }
        let id = server.client().send("bob@client.test", &["joe@far.test"], &content).unwrap().id().to_owned();
        let deferred = server.event("deferred", |event| field(event, "id") == id);
        let reply = field(&deferred, "reply");
        assert!(field(&deferred, "status") == "4.7.8" && reply.contains("refuses our login as sue"), "{mechanism}: {deferred}");
        let told = serde_json::to_string(&server.all_events()).unwrap();
        assert!(!told.contains("sesame") && !told.contains("c2VzYW1l"), "no password in the log");
    }
}
