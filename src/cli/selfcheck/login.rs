//! The check of AUTH: every announced mechanism is used with the right password and with a wrong one.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};

use super::client::{Client, Reply};
use super::stage::{Door, SENDER, Stage};
use crate::config::ListenerTls;

/// Uses each mechanism.
pub(super) async fn every(stage: &Stage, door: Door, encrypted: bool, values: &str) -> Result<String, String> {
    let mut proved = Vec::new();
    for mechanism in values.split(' ').filter(|mechanism| *mechanism != "EXTERNAL") {
        for (password, code) in [(stage.password.as_str(), 235), ("not the password", 535)] {
            let mut client = Client::connect(door.address, door.tls == ListenerTls::Implicit).await?;
            if encrypted && client.tls.is_none() {
                client.start_tls().await?;
            }
            let reply = log_in(&mut client, mechanism, password).await.map_err(|what| format!("{mechanism}: {what}"))?;
            reply.expect(code).map_err(|what| format!("{mechanism}: {what}"))?;
        }
        proved.push(mechanism);
    }
    Ok(format!("{}: the right password logs in, a wrong one doesn't", proved.join(", ")))
}

async fn log_in(client: &mut Client, mechanism: &str, password: &str) -> Result<Reply, String> {
    match mechanism {
        "PLAIN" => client.say(&format!("AUTH PLAIN {}", STANDARD.encode(format!("\0{SENDER}\0{password}")))).await,
        "LOGIN" => {
            client.say("AUTH LOGIN").await?.expect(334)?;
            client.say(&STANDARD.encode(SENDER)).await?.expect(334)?;
            client.say(&STANDARD.encode(password)).await
        }
        "SCRAM-SHA-256" => scram(client, mechanism, password, "n,,", &[]).await,
        "SCRAM-SHA-256-PLUS" => {
            let exporter = client.tls.and_then(|(_, exporter)| exporter).ok_or("nothing to bind the login to")?;
            scram(client, mechanism, password, "p=tls-exporter,,", &exporter).await
        }
        _ => Err("no check knows it".to_owned()),
    }
}

/// The client's side of SCRAM (RFC 5802 section 3), the server's proof included.
async fn scram(client: &mut Client, mechanism: &str, password: &str, header: &str, binding: &[u8]) -> Result<Reply, String> {
    let bare = format!("n={SENDER},r=selfchecknonce");
    let challenge = client.say(&format!("AUTH {mechanism} {}", STANDARD.encode(format!("{header}{bare}")))).await?.expect(334)?;
    let first = decoded(&challenge)?;
    let part =
        |name: &str| first.split(',').find_map(|part| part.strip_prefix(name)).ok_or_else(|| format!("no {name} in {first:?}"));
    let (nonce, rounds) = (part("r=")?, part("i=")?);
    let salt = STANDARD.decode(part("s=")?).map_err(|error| error.to_string())?;
    let rounds = rounds.parse().ok().and_then(NonZeroU32::new).ok_or("no number of rounds")?;
    if !nonce.starts_with("selfchecknonce") || nonce.len() < "selfchecknonce".len() + 16 {
        return Err("the server's nonce is not a long one".to_owned());
    }
    let mut salted = [0; digest::SHA256_OUTPUT_LEN];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, password.as_bytes(), &mut salted);
    let without_proof = format!("c={},r={nonce}", STANDARD.encode([header.as_bytes(), binding].concat()));
    let signed = format!("{bare},{first},{without_proof}");
    let client_key = sign(&salted, b"Client Key");
    let stored_key = digest::digest(&digest::SHA256, &client_key);
    let signature = sign(stored_key.as_ref(), signed.as_bytes());
    let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(key, mask)| key ^ mask).collect();
    let reply = client.say(&STANDARD.encode(format!("{without_proof},p={}", STANDARD.encode(proof)))).await?;
    if reply.code != 334 {
        return Ok(reply);
    }
    let wanted = format!("v={}", STANDARD.encode(sign(&sign(&salted, b"Server Key"), signed.as_bytes())));
    if decoded(&reply)? != wanted {
        return Err("the server doesn't prove that it knows the password".to_owned());
    }
    client.say("").await
}

fn decoded(challenge: &Reply) -> Result<String, String> {
    let text = challenge.lines.first().map_or("", String::as_str);
    let octets = STANDARD.decode(text).map_err(|error| format!("{text:?} is no base64: {error}"))?;
    String::from_utf8(octets).map_err(|error| error.to_string())
}

fn sign(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}
