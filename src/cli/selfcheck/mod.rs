//! `selfcheck`: proves that each extension works that the configured listeners announce, by using it, and prints the table. It
//! brings a server of its own up on loopback, by the configuration in force; the running one isn't touched.

mod checks;
mod client;
mod login;
mod sink;
mod stage;

use serde::Serialize;

use self::client::Client;
use self::stage::{Door, Stage};
use super::failure::{self, Failure};
use super::print::{Cell, Colour, Out, Table};
use super::{Context, system};
use crate::config::ListenerTls;

/// A row of the table.
#[derive(Debug, Serialize)]
struct Row {
    service: &'static str,
    /// `none`, `starttls` or `implicit`: how the session was encrypted.
    tls: &'static str,
    extension: String,
    rfc: &'static str,
    works: bool,
    /// What was proved, or what went wrong.
    result: String,
}

/// Makes every check; fails with 69 if one does.
pub(super) fn selfcheck(context: &Context<'_>, json: bool, out: &mut Out<'_>) -> Result<(), Failure> {
    let config = context.load()?.config;
    let system = system(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(failure::UNAVAILABLE, format!("can't start threads: {error}")))?;
    let rows = runtime.block_on(async {
        let stage = Stage::start(&config, system).await?;
        let mut rows = Vec::new();
        for door in stage.doors.clone() {
            at_door(&stage, door, &mut rows).await;
        }
        stage.end().await;
        Ok::<_, Failure>(rows)
    })?;
    let mut table = Table::new(&["SERVICE", "TLS", "EXTENSION", "RFC", "WORKS", "WHAT WAS SEEN"]);
    for row in &rows {
        if json {
            out.json(row)?;
            continue;
        }
        let (word, colour) = if row.works { ("yes", Colour::Green) } else { ("NO", Colour::Red) };
        let cells = [row.service, row.tls, &row.extension, row.rfc].map(Cell::new).into_iter();
        table.row(out, cells.chain([Cell::new(word).colour(colour), Cell::new(&row.result)]).collect())?;
    }
    table.end(out)?;
    out.flush()?;
    let broken = rows.iter().filter(|row| !row.works).count();
    if broken > 0 {
        return Err(Failure::new(failure::UNAVAILABLE, format!("{broken} of {} extensions don't work", rows.len())));
    }
    Ok(())
}

/// Everything that is announced at a door: in clear text, and encrypted where that is possible.
async fn at_door(stage: &Stage, door: Door, rows: &mut Vec<Row>) {
    let row = |tls, extension: &str, rfc, result: Result<String, String>| Row {
        service: door.service.as_str(),
        tls,
        extension: extension.to_owned(),
        rfc,
        works: result.is_ok(),
        result: result.unwrap_or_else(|what| what),
    };
    let sessions: &[(bool, &'static str)] = match door.tls {
        ListenerTls::None => &[(false, "none")],
        ListenerTls::StartTls => &[(false, "none"), (true, "starttls")],
        ListenerTls::Implicit => &[(true, "implicit")],
    };
    let mut seen = std::collections::BTreeSet::new();
    // Encrypted first: there a service has all that it has, and in clear text only what is left is to be seen.
    for (encrypted, tls) in sessions.iter().rev() {
        let mut client = match Client::connect(door.address, door.tls == ListenerTls::Implicit).await {
            Ok(client) => client,
            Err(what) => return rows.push(row(tls, "(connection)", "5321", Err(what))),
        };
        if *encrypted
            && client.tls.is_none()
            && let Err(what) = client.start_tls().await
        {
            rows.push(row(tls, "STARTTLS", "3207", Err(what)));
            continue;
        }
        for line in client.keywords.clone() {
            let (keyword, values) = line.split_once(' ').unwrap_or((&line, ""));
            if !seen.insert(keyword.to_owned()) {
                continue;
            }
            rows.push(match checks::of(keyword) {
                Some((rfc, check)) => row(tls, keyword, rfc, checks::make(check, stage, door, *encrypted, values).await),
                None => row(tls, keyword, "", Err("it is announced, and no check knows it".to_owned())),
            });
        }
    }
}
