//! A check for each extension: it uses it as a client would, and looks at what the next hop gets. What it says when all is well is
//! what was proved.

use std::time::Duration;

use super::client::Client;
use super::sink::Got;
use super::stage::{Door, RECIPIENT, SENDER, Stage};

type Proved = Result<String, String>;

/// Octets of the content that checks send in 8 bits.
const EIGHT_BIT: &str = "Subject: selfcheck\r\n\r\nGr\u{fc}\u{df}e\r\n.\r\n";

/// What doesn't reach the next hop within this time doesn't reach it: the others take a tenth of it.
const SILENCE: Duration = Duration::from_secs(3);

/// What is checked of a keyword.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    Pipelining,
    Size,
    EightBitMime,
    EnhancedStatusCodes,
    Help,
    Chunking,
    BinaryMime,
    SmtpUtf8,
    Dsn,
    Limits,
    DeliverBy,
    FutureRelease,
    Priority,
    RequireTls,
    StartTls,
    Auth,
    Xclient,
}

/// Every keyword, its RFC, and its check.
pub(super) const CHECKS: &[(&str, &str, Check)] = &[
    ("PIPELINING", "2920", Check::Pipelining),
    ("SIZE", "1870", Check::Size),
    ("8BITMIME", "6152", Check::EightBitMime),
    ("CHUNKING", "3030", Check::Chunking),
    ("BINARYMIME", "3030", Check::BinaryMime),
    ("SMTPUTF8", "6531", Check::SmtpUtf8),
    ("DSN", "3461", Check::Dsn),
    ("ENHANCEDSTATUSCODES", "2034", Check::EnhancedStatusCodes),
    ("LIMITS", "9422", Check::Limits),
    ("DELIVERBY", "2852", Check::DeliverBy),
    ("FUTURERELEASE", "4865", Check::FutureRelease),
    ("MT-PRIORITY", "6710", Check::Priority),
    ("REQUIRETLS", "8689", Check::RequireTls),
    ("HELP", "5321", Check::Help),
    ("STARTTLS", "3207", Check::StartTls),
    ("AUTH", "4954", Check::Auth),
    ("XCLIENT", "none", Check::Xclient),
];

/// The RFC and the check of a keyword.
pub(super) fn of(keyword: &str) -> Option<(&'static str, Check)> {
    CHECKS.iter().find(|(name, ..)| *name == keyword).map(|(_, rfc, check)| (*rfc, *check))
}

/// Makes a check at a door, for the values that the keyword was announced with.
pub(super) async fn make(check: Check, stage: &Stage, door: Door, encrypted: bool, values: &str) -> Proved {
    if check == Check::StartTls {
        return start_tls(door).await;
    }
    if check == Check::Auth {
        return super::login::every(stage, door, encrypted, values).await;
    }
    let mut client = stage.session(door, encrypted).await?;
    match check {
        Check::Pipelining => pipelining(&mut client).await,
        Check::Size => size(&mut client, values).await,
        Check::EightBitMime => {
            let got = send(&mut client, stage, " BODY=8BITMIME", "", EIGHT_BIT.as_bytes()).await?;
            must(got.was_asked("BODY=8BITMIME"), "the next hop wasn't told of the 8 bits")?;
            Ok("8-bit content reached the next hop unchanged, as BODY=8BITMIME".to_owned())
        }
        Check::EnhancedStatusCodes => enhanced(&mut client).await,
        Check::Help => {
            client.say("HELP").await?.expect(214)?;
            Ok("HELP is answered".to_owned())
        }
        Check::Chunking => {
            chunks(&mut client, stage, "", EIGHT_BIT.as_bytes()).await.map(|_| "content came in two chunks".to_owned())
        }
        Check::BinaryMime => {
            let content = b"Subject: selfcheck\r\nContent-Transfer-Encoding: binary\r\n\r\nNUL \0, bare \n and \r, no line end";
            let got = chunks(&mut client, stage, " BODY=BINARYMIME", content).await?;
            must(got.was_asked("BODY=BINARYMIME"), "the next hop wasn't told that it is binary")?;
            Ok("binary content reached the next hop unchanged, as BODY=BINARYMIME".to_owned())
        }
        Check::SmtpUtf8 => smtp_utf8(&mut client, stage).await,
        Check::Dsn => dsn(&mut client, stage).await,
        Check::Limits => limits(&mut client, values).await,
        Check::DeliverBy => deliver_by(&mut client, stage).await,
        Check::FutureRelease => future_release(&mut client, stage).await,
        Check::Priority => {
            let got = send(&mut client, stage, " MT-PRIORITY=3", "", b"Subject: selfcheck\r\n\r\n").await?;
            must(got.was_asked("MT-PRIORITY=3"), "the next hop wasn't told the priority")?;
            Ok("the priority reached the next hop".to_owned())
        }
        Check::RequireTls => require_tls(&mut client, stage).await,
        Check::Xclient => xclient(&mut client).await,
        Check::StartTls | Check::Auth => Err("made elsewhere".to_owned()),
    }
}

fn must(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

async fn envelope(client: &mut Client, mail: &str, rcpt: &str) -> Result<(), String> {
    client.say(&format!("MAIL FROM:<{SENDER}>{mail}")).await?.expect(250)?;
    client.say(&format!("RCPT TO:<{RECIPIENT}>{rcpt}")).await?.expect(250)?;
    Ok(())
}

/// Sends a message by DATA and waits for it at the next hop: its content must be there as it was.
async fn send(client: &mut Client, stage: &Stage, mail: &str, rcpt: &str, content: &[u8]) -> Result<Got, String> {
    envelope(client, mail, rcpt).await?;
    data(client, content).await?;
    arrived(stage, content).await
}

async fn data(client: &mut Client, content: &[u8]) -> Result<(), String> {
    client.say("DATA").await?.expect(354)?;
    let mut wire = Vec::new();
    let mut stuffer = crate::smtp::data::Stuffer::new();
    stuffer.send(content, &mut wire);
    stuffer.end(&mut wire);
    client.send(&wire).await?;
    client.read().await?.expect(250)?;
    Ok(())
}

async fn arrived(stage: &Stage, content: &[u8]) -> Result<Got, String> {
    let got = stage.arrival().await?;
    // Trace fields stand above it, and at submission what was missing below the header: the body tells.
    let body = |octets: &[u8]| octets.windows(4).position(|four| four == b"\r\n\r\n").map(|at| octets[at..].to_vec());
    must(body(&got.content) == body(content), "the content was changed on its way")?;
    Ok(got)
}

async fn pipelining(client: &mut Client) -> Proved {
    let group = format!("NOOP\r\nMAIL FROM:<{SENDER}>\r\nRCPT TO:<{RECIPIENT}>\r\nRSET\r\nVRFY postmaster\r\n");
    client.send(group.as_bytes()).await?;
    for code in [250, 250, 250, 250, 252] {
        client.read().await?.expect(code)?;
    }
    Ok("five commands in one packet were answered in order".to_owned())
}

async fn size(client: &mut Client, values: &str) -> Proved {
    let limit: u64 = values.parse().map_err(|_| format!("{values:?} is no size"))?;
    client.say(&format!("MAIL FROM:<{SENDER}> SIZE={}", limit + 1)).await?.expect_enhanced(552, "5.3.4")?;
    client.say(&format!("MAIL FROM:<{SENDER}> SIZE={limit}")).await?.expect(250)?;
    Ok(format!("{limit} octets may come, and one more is refused"))
}

async fn enhanced(client: &mut Client) -> Proved {
    for (command, code, enhanced) in [
        ("NOOP", 250, "2.0.0"),
        ("MAIL FROM:<", 501, "5.1.7"),
        ("WHAT", 500, "5.5.1"),
        ("DATA", 503, "5.5.1"),
        ("RSET", 250, "2.0.0"),
    ] {
        let reply = client.say(command).await?.expect(code)?;
        let class = reply.lines.first().and_then(|line| line.chars().next());
        must(class == enhanced.chars().next(), &format!("{command} was answered without a code of its class: {}", reply.text()))?;
    }
    Ok("good and bad replies have codes of their class".to_owned())
}

/// Sends content in two chunks.
async fn chunks(client: &mut Client, stage: &Stage, mail: &str, content: &[u8]) -> Result<Got, String> {
    envelope(client, mail, "").await?;
    let (first, last) = content.split_at(content.len() / 2);
    client.send(&[format!("BDAT {}\r\n", first.len()).as_bytes(), first].concat()).await?;
    client.read().await?.expect(250)?;
    client.send(&[format!("BDAT {} LAST\r\n", last.len()).as_bytes(), last].concat()).await?;
    client.read().await?.expect(250)?;
    arrived(stage, content).await
}

async fn smtp_utf8(client: &mut Client, stage: &Stage) -> Proved {
    let to = "<gr\u{fc}\u{df}e@sink.test>";
    client.say(&format!("MAIL FROM:<{SENDER}> BODY=8BITMIME SMTPUTF8")).await?.expect(250)?;
    client.say(&format!("RCPT TO:{to}")).await?.expect(250)?;
    data(client, EIGHT_BIT.as_bytes()).await?;
    let got = arrived(stage, EIGHT_BIT.as_bytes()).await?;
    must(got.was_asked("SMTPUTF8"), "the next hop wasn't asked for SMTPUTF8")?;
    must(got.was_asked(&format!("TO:{to}")), "the recipient did not reach the next hop as it was")?;
    Ok(format!("mail for {to} reached the next hop, with SMTPUTF8"))
}

async fn dsn(client: &mut Client, stage: &Stage) -> Proved {
    let rcpt = " NOTIFY=FAILURE,DELAY ORCPT=rfc822;first+2Bone@example.test";
    let got = send(client, stage, " RET=HDRS ENVID=selfcheck+2B1", rcpt, b"Subject: selfcheck\r\n\r\n").await?;
    for part in ["RET=HDRS", "ENVID=selfcheck+2B1", "ORCPT=rfc822;first+2Bone@example.test"] {
        must(got.was_asked(part), &format!("{part} did not reach the next hop"))?;
    }
    let notify = got.was_asked("NOTIFY=FAILURE,DELAY") || got.was_asked("NOTIFY=DELAY,FAILURE");
    must(notify, "NOTIFY did not reach the next hop")?;
    Ok("RET, ENVID, NOTIFY and ORCPT reached the next hop".to_owned())
}

async fn limits(client: &mut Client, values: &str) -> Proved {
    let limit = values.split(' ').find_map(|value| value.strip_prefix("RCPTMAX="));
    let limit: u32 = limit.and_then(|limit| limit.parse().ok()).ok_or_else(|| format!("{values:?} has no RCPTMAX"))?;
    client.say(&format!("MAIL FROM:<{SENDER}>")).await?.expect(250)?;
    for number in 0..limit {
        client.say(&format!("RCPT TO:<r{number}@sink.test>")).await?.expect(250)?;
    }
    client.say(&format!("RCPT TO:<{RECIPIENT}>")).await?.expect_enhanced(452, "4.5.3")?;
    Ok(format!("{limit} recipients were accepted, and one more was put off"))
}

async fn deliver_by(client: &mut Client, stage: &Stage) -> Proved {
    let got = send(client, stage, " BY=600;R", "", b"Subject: selfcheck\r\n\r\n").await?;
    let by = got.commands.iter().flat_map(|command| command.split(' ')).find_map(|word| word.strip_prefix("BY="));
    let left = by.and_then(|by| by.split(';').next()).and_then(|seconds| seconds.parse::<u32>().ok());
    must(left.is_some_and(|left| left > 500 && left <= 600), &format!("the next hop was told {by:?}"))?;
    Ok("what was left of the time reached the next hop".to_owned())
}

async fn future_release(client: &mut Client, stage: &Stage) -> Proved {
    envelope(client, " HOLDFOR=3600", "").await?;
    data(client, b"Subject: selfcheck\r\n\r\n").await?;
    let waiting = stage.handle.spool().list(&crate::spool::Filter::default()).await.map_err(|error| error.to_string())?;
    let now = super::super::now();
    let held = waiting
        .iter()
        .flat_map(|message| &message.recipients)
        .any(|recipient| recipient.is_open() && recipient.status.next_attempt.since(now) > Duration::from_secs(3500));
    must(held, "the message is not held")?;
    Ok("a message waits the hour that it was asked to wait".to_owned())
}

async fn require_tls(client: &mut Client, stage: &Stage) -> Proved {
    envelope(client, " REQUIRETLS", "").await?;
    data(client, b"Subject: selfcheck\r\n\r\nsecret\r\n").await?;
    // What is said about it must keep to TLS as well, so that here nothing may come at all, or a notice without the content.
    match tokio::time::timeout(SILENCE, stage.arrival()).await {
        Ok(got) if got.as_ref().is_ok_and(|got| String::from_utf8_lossy(&got.content).contains("secret")) => {
            Err("the message went to a next hop without TLS".to_owned())
        }
        _ => Ok("a next hop without TLS did not get the message".to_owned()),
    }
}

async fn xclient(client: &mut Client) -> Proved {
    client.say("XCLIENT ADDR=192.0.2.7 NAME=client.test").await?.expect(220)?;
    client.say("EHLO client.test").await?.expect(250)?;
    // Loopback may relay here, and that address may not.
    client.say("MAIL FROM:<somebody@client.test>").await?;
    let reply = client.say(&format!("RCPT TO:<{RECIPIENT}>")).await?;
    must(reply.code >= 500, &format!("the session still counts as loopback's: {}", reply.text()))?;
    Ok("the session counts as that of the client that was named".to_owned())
}

async fn start_tls(door: Door) -> Proved {
    let mut client = Client::connect(door.address, false).await?;
    client.start_tls().await?;
    let version = client.tls.map_or("TLS", |(version, _)| version);
    Ok(format!("{version}, and a command sent before the handshake was thrown away"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Timestamp;
    use crate::smtp::auth::Mechanism;
    use crate::smtp::extension::{Announcement, Extension, Parameters, offered};

    /// All that can be announced.
    fn announcement() -> Announcement {
        Announcement {
            size_max: 1,
            recipients_max: 1,
            hold_max: (1, Timestamp::ZERO),
            starttls: true,
            mechanisms: Mechanism::ALL.to_vec(),
        }
    }

    #[test]
    fn every_extension_that_can_be_announced_has_a_check() {
        let mut all = offered(Parameters::ALL, announcement());
        all.push(Extension::Xclient);
        for extension in &all {
            let line = extension.to_string();
            let keyword = line.split(' ').next().unwrap();
            assert!(of(keyword).is_some(), "{keyword} is announced and has no check");
        }
        assert_eq!(all.len(), CHECKS.len(), "a check of something that is never announced");
    }

    /// The rows of docs/smtp.md's table: keyword and RFC.
    fn rows() -> Vec<(String, String)> {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/smtp.md")).unwrap();
        let table = page.split("## ").find(|section| section.starts_with("Extensions")).unwrap();
        let cells = |line: &str| line.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect::<Vec<_>>();
        let rows = table.lines().filter(|line| line.starts_with("| `")).map(cells);
        rows.map(|cells| (cells[1].clone(), cells[2].clone())).collect()
    }

    #[test]
    fn the_page_has_a_row_for_each_extension_and_promises_none_that_is_not_announced() {
        let keyword = |extension: Extension| extension.to_string().split(' ').next().unwrap().to_owned();
        let always = [Extension::Xclient];
        let offered: Vec<String> = offered(Parameters::ALL, announcement()).into_iter().chain(always).map(keyword).collect();
        let rows = rows();
        let named: Vec<(&str, &str)> = rows.iter().map(|(keyword, rfc)| (keyword.as_str(), rfc.as_str())).collect();
        let checked: Vec<(&str, &str)> = CHECKS.iter().map(|(keyword, rfc, _)| (*keyword, *rfc)).collect();
        assert_eq!(named, checked);
        for (keyword, _) in named {
            assert!(offered.iter().any(|offered| offered == keyword), "{keyword} is never announced");
        }
    }
}
