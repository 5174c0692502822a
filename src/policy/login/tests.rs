//! Exchanges with the accounts of a users file.

use std::num::NonZeroU32;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::directory::scram::ScramKeys;
use crate::directory::users::{Users, work};
use crate::directory::{DecoySeed, FileAccounts};
use crate::smtp::scram::{hash, sign};
use crate::system::{SystemEntropy, Workers};

/// The password is "secret", with costs for tests.
const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ";
const SALT: &[u8] = b"saltsalt";

fn accounts() -> FileAccounts {
    let keys = ScramKeys::derive_with("secret", SALT, NonZeroU32::new(4096).unwrap()).unwrap();
    let hash = hash_of("secret");
    let text = format!("Ann@example.test:{hash} {keys}\nbob@example.test:{hash}\n");
    FileAccounts::new(Arc::new(Users::parse(&text).unwrap()), DecoySeed::new(b"secret"), Workers::Inline, 2)
}

fn hash_of(password: &str) -> String {
    use argon2::password_hash::PasswordHasher;
    let params = argon2::Params::new(8, 1, 1, None).unwrap();
    let hasher = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let hash: argon2::password_hash::phc::PasswordHash = hasher.hash_password_with_salt(password.as_bytes(), SALT).unwrap();
    let hash = hash.to_string();
    assert!(hash.starts_with(HASH), "{hash}");
    hash
}

/// What a test's client is and has.
struct World {
    accounts: FileAccounts,
    throttle: Throttle,
    exporter: Option<Vec<u8>>,
    end_point: Option<Vec<u8>>,
    names: Vec<String>,
}

impl World {
    fn new() -> Self {
        Self { accounts: accounts(), throttle: Throttle::default(), exporter: None, end_point: None, names: Vec::new() }
    }

    fn respond(&self, exchange: &mut Exchange, response: &[u8]) -> Turn {
        let desk = Desk {
            accounts: &self.accounts,
            throttle: &self.throttle,
            client: "192.0.2.1".parse().unwrap(),
            now: Duration::ZERO,
            entropy: &SystemEntropy,
            channel: Channel { exporter: self.exporter.as_deref(), end_point: self.end_point.as_deref(), names: &self.names },
        };
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(exchange.respond(&desk, response))
    }

    /// One response, and what came of it: an account, a challenge, or why not.
    fn once(&self, mechanism: Mechanism, response: &[u8]) -> String {
        show(self.respond(&mut Exchange::begin(mechanism).0, response))
    }

    /// A whole SCRAM exchange by a client that does all as it should.
    fn scram(&self, mechanism: Mechanism, header: &str, binding: &[u8], name: &str, password: &str) -> String {
        let mut exchange = Exchange::begin(mechanism).0;
        let bare = format!("n={name},r=clientnonce");
        let first = match self.respond(&mut exchange, format!("{header}{bare}").as_bytes()) {
            Turn::Challenge(first) => String::from_utf8(first).unwrap(),
            turn => return show(turn),
        };
        let attribute = |letter: &str| first.split(',').find_map(|part| part.strip_prefix(letter)).unwrap();
        let salt = STANDARD.decode(attribute("s=")).unwrap();
        let keys = ScramKeys::derive_with(password, &salt, attribute("i=").parse().unwrap()).unwrap();
        let bound = STANDARD.encode([header.as_bytes(), binding].concat());
        let unproved = format!("c={bound},r={}", attribute("r="));
        let signed = format!("{bare},{first},{unproved}");
        let mut proof = client_key(password, &salt, keys.iterations);
        assert_eq!(hash(&proof), keys.stored_key);
        let signature = sign(&keys.stored_key, signed.as_bytes());
        proof.iter_mut().zip(signature).for_each(|(octet, signature)| *octet ^= signature);
        let last = format!("{unproved},p={}", STANDARD.encode(proof));
        match self.respond(&mut exchange, last.as_bytes()) {
            Turn::Challenge(proof) => {
                let expected = format!("v={}", STANDARD.encode(sign(&keys.server_key, signed.as_bytes())));
                assert_eq!(String::from_utf8(proof).unwrap(), expected, "the server doesn't prove itself");
                show(self.respond(&mut exchange, b""))
            }
            turn => show(turn),
        }
    }
}

fn client_key(password: &str, salt: &[u8], iterations: NonZeroU32) -> [u8; 32] {
    let mut salted = [0; 32];
    ring::pbkdf2::derive(ring::pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password.as_bytes(), &mut salted);
    sign(&salted, b"Client Key")
}

fn show(turn: Turn) -> String {
    match turn {
        Turn::Challenge(challenge) => format!("challenge {}", String::from_utf8(challenge).unwrap()),
        Turn::Done(account) => format!("done {account}"),
        Turn::Failed(Failure { name, why }) => match name {
            Some(name) => format!("{name}: {}", why.reason()),
            None => why.reason(),
        },
    }
}

#[test]
fn plain_takes_the_right_password_and_no_other() {
    let world = World::new();
    for (response, outcome) in [
        ("\0ann@example.test\0secret", "done Ann@example.test"),
        ("\0ANN@EXAMPLE.test\0secret", "done Ann@example.test"),
        ("ann@Example.test\0ann@example.test\0secret", "done Ann@example.test"),
        ("\0bob@example.test\0secret", "done bob@example.test"),
        ("\0ann@example.test\0Secret", "ann@example.test: wrong name or password"),
        ("\0nobody@example.test\0secret", "nobody@example.test: wrong name or password"),
        ("\0ann\0secret", "wrong name or password"),
        ("bob@example.test\0ann@example.test\0secret", "ann@example.test: asked to act for another account"),
        ("bob\0ann@example.test\0secret", "ann@example.test: asked to act for another account"),
        ("ann@example.test secret", "malformed exchange"),
    ] {
        assert_eq!(world.once(Mechanism::Plain, response.as_bytes()), outcome, "{response:?}");
    }
    let long = format!("\0ann@example.test\0{}", "x".repeat(2000));
    assert_eq!(world.once(Mechanism::Plain, long.as_bytes()), "ann@example.test: wrong name or password");
}

#[test]
fn login_asks_twice() {
    let world = World::new();
    for (name, password, outcome) in [
        ("ann@example.test", "secret", "done Ann@example.test"),
        ("ann@example.test", "", "ann@example.test: wrong name or password"),
        ("nobody@example.test", "secret", "nobody@example.test: wrong name or password"),
        ("\u{e9}", "secret", "wrong name or password"),
    ] {
        let (mut exchange, first) = Exchange::begin(Mechanism::Login);
        assert_eq!(first, b"Username:");
        assert_eq!(show(world.respond(&mut exchange, name.as_bytes())), "challenge Password:");
        assert_eq!(show(world.respond(&mut exchange, password.as_bytes())), outcome);
        assert_eq!(show(world.respond(&mut exchange, password.as_bytes())), "malformed exchange", "it is over");
    }
}

#[test]
fn scram_proves_both_sides() {
    let world = World::new();
    let scram = |header, name, password| world.scram(Mechanism::ScramSha256, header, b"", name, password);
    for (header, name, password, outcome) in [
        ("n,,", "ann@example.test", "secret", "done Ann@example.test"),
        ("y,,", "ann@example.test", "secret", "done Ann@example.test"),
        ("n,a=ann@example.test,", "ann@example.test", "secret", "done Ann@example.test"),
        ("n,a=bob@example.test,", "ann@example.test", "secret", "ann@example.test: asked to act for another account"),
        ("n,,", "ann@example.test", "wrong", "ann@example.test: wrong name or password"),
        ("n,,", "nobody@example.test", "secret", "nobody@example.test: wrong name or password"),
        ("n,,", "bob@example.test", "secret", "bob@example.test: wrong name or password"),
        ("n,,", "a=3Db@example.test", "secret", "a=b@example.test: wrong name or password"),
        ("n,,", "ann", "secret", "wrong name or password"),
        ("p=tls-exporter,,", "ann@example.test", "secret", "ann@example.test: not bound to this TLS session"),
        ("x,,", "ann@example.test", "secret", "malformed exchange"),
    ] {
        assert_eq!(scram(header, name, password), outcome, "{header}{name}");
    }
}

#[test]
fn plus_is_bound_to_the_channel() {
    let mut world = World::new();
    let plus = |world: &World, header: &str, binding: &[u8]| {
        world.scram(Mechanism::ScramSha256Plus, header, binding, "ann@example.test", "secret")
    };
    let unbound = "ann@example.test: not bound to this TLS session";
    assert_eq!(plus(&world, "p=tls-exporter,,", b"exporter"), unbound);
    world.exporter = Some(b"exporter".to_vec());
    world.end_point = Some(b"end point".to_vec());
    assert_eq!(plus(&world, "p=tls-exporter,,", b"exporter"), "done Ann@example.test");
    assert_eq!(plus(&world, "p=tls-server-end-point,,", b"end point"), "done Ann@example.test");
    for (header, binding) in [
        ("p=tls-exporter,,", &b"another"[..]),
        ("p=tls-exporter,,", b""),
        ("p=tls-exporter,,", b"end point"),
        ("p=tls-unique,,", b"exporter"),
        ("n,,", b""),
        ("y,,", b""),
    ] {
        assert_eq!(plus(&world, header, binding), unbound, "{header}");
    }
    // Somebody has taken PLUS out of what we offered.
    assert_eq!(world.scram(Mechanism::ScramSha256, "y,,", b"", "ann@example.test", "secret"), unbound);
    assert_eq!(world.scram(Mechanism::ScramSha256, "n,,", b"", "ann@example.test", "secret"), "done Ann@example.test");
}

/// What is hashed for a wrong password, by each way that brings one, and what is said.
fn work_for(world: &World, name: &str, password: &str) -> Vec<String> {
    work::done();
    let plain = world.once(Mechanism::Plain, format!("\0{name}\0{password}").as_bytes());
    let mut costs = work::done();
    let mut login = Exchange::begin(Mechanism::Login).0;
    world.respond(&mut login, name.as_bytes());
    let login = show(world.respond(&mut login, password.as_bytes()));
    assert!([plain, login].iter().all(|said| said.ends_with(": wrong name or password")));
    costs.push("LOGIN".to_owned());
    costs.extend(work::done());
    costs
}

#[test]
fn a_name_that_is_none_costs_what_one_that_is_does() {
    let mut world = World::new();
    let unknown = || (0..100).map(|n| format!("nobody{n}@example.test"));
    for (password, hashes) in [("guess", 1), ("gue\u{a0}ss", 2)] {
        let ann = work_for(&world, "ann@example.test", password);
        assert_eq!(ann, [vec!["m=8,t=1,p=1"; hashes], vec!["LOGIN"], vec!["m=8,t=1,p=1"; hashes]].concat());
        for name in unknown().chain(["bob@example.test".to_owned(), "ann@elsewhere.test".to_owned()]) {
            assert_eq!(work_for(&world, &name, password), ann, "{name}");
        }
    }
    // Where accounts differ, a name that is none costs what one of them does, and always the same.
    let dear = hash_of("secret").replace("m=8,", "m=16,");
    let text = format!("ann@example.test:{}\nbob@example.test:{dear}\n", hash_of("secret"));
    world.accounts = FileAccounts::new(Arc::new(Users::parse(&text).unwrap()), DecoySeed::new(b"secret"), Workers::Inline, 2);
    let known = ["ann@example.test", "bob@example.test"].map(|name| work_for(&world, name, "guess"));
    assert_ne!(known[0], known[1]);
    let mut like = [0, 0];
    for name in unknown() {
        let work = work_for(&world, &name, "guess");
        assert_eq!(work, work_for(&world, &name.to_uppercase(), "guess"));
        let at = known.iter().position(|known| *known == work).unwrap();
        like[at] += 1;
    }
    assert!(like.iter().all(|count| *count > 25), "{like:?}");
}

#[test]
fn who_doesnt_exist_gets_the_same_salt_each_time() {
    let world = World::new();
    let first = |name: &str| {
        let mut exchange = Exchange::begin(Mechanism::ScramSha256).0;
        let message = format!("n,,n={name},r=x");
        let Turn::Challenge(first) = world.respond(&mut exchange, message.as_bytes()) else { panic!("no challenge") };
        let first = String::from_utf8(first).unwrap();
        first.split_once(",s=").unwrap().1.to_owned()
    };
    assert_eq!(first("nobody@example.test"), first("Nobody@example.test"));
    assert_ne!(first("nobody@example.test"), first("nobody2@example.test"));
    assert_eq!(first("bob@example.test").len(), first("ann@example.test").len());
}

#[test]
fn external_follows_the_certificate() {
    let mut world = World::new();
    assert_eq!(world.once(Mechanism::External, b""), "wrong name or password");
    world.names = ["Ann Example", "nobody@example.test", "ANN@example.test", "bob@example.test"].map(str::to_owned).to_vec();
    for (response, outcome) in [
        ("", "done Ann@example.test"),
        ("ann@example.test", "done Ann@example.test"),
        ("bob@example.test", "done bob@example.test"),
        ("nobody@example.test", "nobody@example.test: asked to act for another account"),
        ("carol@example.test", "carol@example.test: asked to act for another account"),
        ("Ann Example", "malformed exchange"),
    ] {
        assert_eq!(world.once(Mechanism::External, response.as_bytes()), outcome, "{response}");
    }
}

#[test]
fn who_failed_too_often_isnt_heard() {
    let world = World::new();
    world.throttle.set(Bounds { client: 1, account: 9, period: Duration::from_secs(9), delay: Duration::ZERO });
    world.throttle.failed(Duration::ZERO, "192.0.2.1".parse().unwrap(), None);
    let blocked = "ann@example.test: too many failed logins from the client";
    assert_eq!(world.once(Mechanism::Plain, b"\0ann@example.test\0secret"), blocked);
    assert_eq!(world.scram(Mechanism::ScramSha256, "n,,", b"", "ann@example.test", "secret"), blocked);
}

#[test]
fn every_refusal_has_its_code() {
    for (why, reply) in [
        (Why::Malformed, "501 5.5.2"),
        (Why::Credentials, "535 5.7.8"),
        (Why::NotPermitted, "535 5.7.8"),
        (Why::Binding, "535 5.7.8"),
        (Why::ClientBlocked, "421 4.7.0"),
        (Why::AccountBlocked, "454 4.7.0"),
        (Why::Unavailable(AccountsError::Busy), "454 4.7.0"),
    ] {
        assert!(why.reply().to_string().starts_with(reply), "{why:?}");
        assert_eq!(why.counts(), reply.starts_with("535"));
    }
}
