//! `queue …`: looks at the queue and changes it.

use std::io::IsTerminal as _;

use serde_json::json;

use super::arguments::{Chosen, DomainArgument, FilterArguments, QueueCommand, SelectionArguments};
use super::failure::{self, Failure};
use super::print::{Cell, Out, Table, count, duration, size, state_colour, until};
use super::sites;
use super::source::Source;
use super::{Context, block_on, now, show};
use crate::config::Config;
use crate::control::{Client, GroupKind, MessageView, Paused, RecipientView, Verb, state_name};
use crate::mail::{QueueId, RecipientState, Timestamp};
use crate::system::SystemNet;

/// Characters of a reply that the table shows; `queue show` has it whole.
const REPLY_MAX: usize = 100;

pub(super) fn queue(context: &Context<'_>, command: &QueueCommand, out: &mut Out<'_>) -> Result<(), Failure> {
    let config = context.load()?.config;
    block_on(async {
        match command {
            QueueCommand::List { filter, json } => list(&config, filter, *json, out).await,
            QueueCommand::Show { id, json } => show::show(&config, *id, *json, out).await,
            QueueCommand::Cat { id } => cat(&config, *id, out).await,
            QueueCommand::Stats { json } => stats(&config, *json, out).await,
            QueueCommand::Retry(selection) => change(&config, Verb::Retry, selection, out).await,
            QueueCommand::Hold(selection) => change(&config, Verb::Hold, selection, out).await,
            QueueCommand::Release(selection) => change(&config, Verb::Release, selection, out).await,
            QueueCommand::Bounce(selection) => change(&config, Verb::Bounce, selection, out).await,
            QueueCommand::Remove(selection) => change(&config, Verb::Remove, selection, out).await,
            QueueCommand::Pause(domain) => pause(&config, domain, out).await,
            QueueCommand::Resume(domain) => resume(&config, domain, out).await,
        }
    })
}

/// An id that is not in the queue.
pub(super) fn unknown(id: QueueId) -> Failure {
    Failure::new(failure::DATA, format!("there is no message {id} in the queue"))
        .remedy("`posthouse queue list` shows what is there; the log tells what became of the rest")
}

async fn list(config: &Config, filter: &FilterArguments, json: bool, out: &mut Out<'_>) -> Result<(), Failure> {
    let now = now();
    let mut source = Source::open(config).await?;
    let mut table = Table::new(&["ID", "STATE", "AGE", "SIZE", "NEXT", "SENDER", "RECIPIENTS", "LAST REPLY"]);
    let mut is_empty = true;
    let mut each = |view: MessageView| {
        is_empty = false;
        if json {
            out.json(&view)?
        } else {
            table.row(out, list_row(&view, now))?
        };
        Ok(())
    };
    source.list(config, filter.query(now), &mut each).await?;
    // A person sees that nothing is there; a program gets no lines.
    if is_empty && std::io::stderr().is_terminal() {
        failure::say(if filter.is_empty() { "the queue is empty\n" } else { "no message in the queue fits\n" });
    }
    Ok(table.end(out)?)
}

fn list_row(view: &MessageView, now: Timestamp) -> Vec<Cell> {
    let is_open = |recipient: &&RecipientView| !recipient.state.is_final();
    let open: Vec<&RecipientView> = view.recipients.iter().filter(is_open).collect();
    let recipients = match open.as_slice() {
        [] => String::new(),
        [one] => one.address.to_string(),
        [first, rest @ ..] => format!("{} +{}", first.address, rest.len()),
    };
    let reply: String = open.iter().find_map(|to| to.last_reply.as_deref()).unwrap_or("").chars().take(REPLY_MAX).collect();
    vec![
        Cell::new(view.id.to_string()),
        Cell::new(state_name(view.state)).colour(state_colour(view.state)),
        Cell::number(duration(now.since(view.arrived))),
        Cell::number(size(view.size)),
        Cell::new(view.next_attempt.map_or_else(|| "-".to_owned(), |time| until(time, now))),
        Cell::new(format!("<{}>", view.sender)),
        Cell::new(recipients),
        Cell::new(reply),
    ]
}

async fn cat(config: &Config, id: QueueId, out: &mut Out<'_>) -> Result<(), Failure> {
    let mut source = Source::open(config).await?;
    if source.content(id, u64::MAX, out.raw()).await? { Ok(()) } else { Err(unknown(id)) }
}

async fn stats(config: &Config, json: bool, out: &mut Out<'_>) -> Result<(), Failure> {
    let now = now();
    let (rows, paused, states) = Source::open(config).await?.stats().await?;
    if json {
        for row in &rows {
            out.json(row)?;
        }
        return sites::documents(&states, out);
    }
    for (kind, head) in [(GroupKind::State, "STATE"), (GroupKind::Domain, "DOMAIN")] {
        let mut table = Table::new(&[head, "MESSAGES", "RECIPIENTS", "SIZE", "OLDEST"]);
        let all = rows.iter().filter(|row| row.by == GroupKind::Total && kind == GroupKind::State);
        for row in rows.iter().filter(|row| row.by == kind).chain(all) {
            let oldest = row.count.oldest.map_or_else(|| "-".to_owned(), |time| duration(now.since(time)));
            let cells = vec![
                Cell::new(row.name.as_deref().unwrap_or("all")),
                Cell::number(row.count.messages.to_string()),
                Cell::number(row.count.recipients.to_string()),
                Cell::number(size(row.count.bytes)),
                Cell::number(oldest),
            ];
            table.row(out, cells)?;
        }
        if kind == GroupKind::Domain && rows.iter().any(|row| row.by == kind) {
            out.line("")?;
        }
        table.end(out)?;
    }
    sites::table(&states, now, out)?;
    if let Some(words) = paused.as_ref().and_then(paused_words) {
        out.line("")?;
        out.line(&words)?;
    }
    Ok(())
}

/// What stands still, in words; nothing if nothing does.
fn paused_words(paused: &Paused) -> Option<String> {
    let resume = "`posthouse queue resume` starts it again";
    let domains: Vec<String> = paused.domains.iter().map(ToString::to_string).collect();
    let by_admin = match paused.all {
        true => Some(format!("All delivery is paused; {resume}.")),
        false => (!domains.is_empty()).then(|| format!("Delivery is paused to {}; {resume}.", domains.join(", "))),
    };
    let by_itself = paused.stopped.as_ref().map(|why| format!("No delivery is attempted: {why}. It goes on by itself."));
    let words: Vec<String> = by_itself.into_iter().chain(by_admin).collect();
    (!words.is_empty()).then(|| words.join("\n"))
}

async fn change(config: &Config, verb: Verb, selection: &SelectionArguments, out: &mut Out<'_>) -> Result<(), Failure> {
    let chosen = selection
        .chosen(now())
        .map_err(|what| Failure::new(failure::USAGE, what).remedy("name queue ids, or filters as for `queue list`, or --all"))?;
    let mut client = Client::connect(&SystemNet, &config.admin.socket).await?;
    let changed = match chosen {
        Chosen::Ids(ids) => client.change_ids(verb, ids).await?,
        Chosen::Filter(query) => client.change_matching(verb, query).await?,
        Chosen::All => client.change_all(verb).await?,
    };
    if selection.json {
        out.json(&json!({ "touched": changed.touched }))?;
    } else {
        out.line(&format!("{} {}", past(verb), count(changed.touched, "message")))?;
    }
    match changed.unknown.as_slice() {
        [] => Ok(()),
        ids => {
            // The result first, then the trouble.
            out.flush()?;
            let mut failure = unknown(ids[0]);
            failure.problems = ids.iter().map(|id| format!("there is no message {id} in the queue")).collect();
            Err(failure)
        }
    }
}

fn past(verb: Verb) -> &'static str {
    match verb {
        Verb::Retry => "retried",
        Verb::Hold => "held",
        Verb::Release => "released",
        Verb::Bounce => "bounced",
        Verb::Remove => "removed",
    }
}

async fn pause(config: &Config, argument: &DomainArgument, out: &mut Out<'_>) -> Result<(), Failure> {
    let mut client = Client::connect(&SystemNet, &config.admin.socket).await?;
    client.pause(argument.domain.clone()).await?;
    Ok(match &argument.domain {
        None => out.line("paused all delivery; reception goes on"),
        Some(domain) => out.line(&format!("paused delivery to {domain}")),
    }?)
}

async fn resume(config: &Config, argument: &DomainArgument, out: &mut Out<'_>) -> Result<(), Failure> {
    let mut client = Client::connect(&SystemNet, &config.admin.socket).await?;
    client.resume(argument.domain.clone()).await?;
    match &argument.domain {
        None => out.line("resumed all delivery")?,
        Some(domain) => out.line(&format!("resumed delivery to {domain}"))?,
    }
    // A domain can be paused beside all: what still stands still must not be a riddle.
    let (_, paused, _) = client.stats().await?;
    Ok(paused_words(&paused).map_or(Ok(()), |words| out.line(&words))?)
}

/// A recipient's state as it stands in `--json`.
pub(super) fn recipient_state_name(state: RecipientState) -> &'static str {
    match state {
        RecipientState::Pending => "pending",
        RecipientState::Deferred => "deferred",
        RecipientState::Delivered => "delivered",
        RecipientState::Bounced => "bounced",
        RecipientState::Expanded => "expanded",
        RecipientState::Removed => "removed",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::control::fake::{FakeAdmin, config};
    use crate::control::{Server, bind};

    async fn server() -> (Config, Arc<FakeAdmin>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config();
        config.admin.socket = folder.path().join("control.sock");
        let admin = Arc::new(FakeAdmin::with_messages(12));
        tokio::spawn(Server::new(bind(&config.admin.socket).await.unwrap(), admin.clone()).run());
        (config, admin, folder)
    }

    fn selection(line: &str) -> SelectionArguments {
        use clap::Parser as _;
        let arguments =
            super::super::Arguments::try_parse_from(["p", "queue", "hold"].into_iter().chain(line.split_whitespace()));
        match arguments.unwrap().command {
            Some(super::super::Command::Queue { command: QueueCommand::Hold(selection) }) => selection,
            other => panic!("{other:?}"),
        }
    }

    async fn said(work: impl AsyncFnOnce(&mut Out<'_>) -> Result<(), Failure>) -> (String, Result<(), Failure>) {
        let mut bytes = Vec::new();
        let mut out = Out::to(&mut bytes);
        let done = work(&mut out).await;
        drop(out);
        (String::from_utf8_lossy(&bytes).into_owned(), done)
    }

    #[tokio::test]
    async fn verbs_say_how_many_they_touched_and_which_ids_they_did_not_find() {
        let (config, _admin, _folder) = server().await;
        let (text, done) = said(async |out| change(&config, Verb::Hold, &selection("--all"), out).await).await;
        assert_eq!((text.as_str(), done), ("held 12 messages\n", Ok(())));
        let one = selection("0000000000001 --json");
        let (text, done) = said(async |out| change(&config, Verb::Retry, &one, out).await).await;
        assert_eq!((text.as_str(), done), ("{\"touched\":1}\n", Ok(())));
        let strange = selection("0000000000001 000000000000Z");
        let (text, done) = said(async |out| change(&config, Verb::Bounce, &strange, out).await).await;
        assert_eq!(text, "bounced 1 message\n");
        let failure = done.unwrap_err();
        assert_eq!(failure.status, failure::DATA);
        assert_eq!(failure.problems, ["there is no message 000000000000Z in the queue"]);
        let (_, done) = said(async |out| change(&config, Verb::Bounce, &selection(""), out).await).await;
        assert_eq!(done.unwrap_err().status, failure::USAGE);
    }

    #[tokio::test]
    async fn without_a_server_verbs_are_unavailable() {
        let mut config = config();
        config.admin.socket = "/nonexistent/control.sock".into();
        let (_, done) = said(async |out| change(&config, Verb::Hold, &selection("--all"), out).await).await;
        assert_eq!(done.unwrap_err().status, failure::UNAVAILABLE);
        config.spool.path = "/nonexistent/spool".into();
        let (_, done) = said(async |out| stats(&config, false, out).await).await;
        assert_eq!(done.unwrap_err().status, failure::UNAVAILABLE);
    }

    #[tokio::test]
    async fn listings_are_tables_or_json_lines() {
        let (config, admin, _folder) = server().await;
        let filter = FilterArguments::default();
        let (text, _) = said(async |out| list(&config, &filter, true, out).await).await;
        assert_eq!(text.lines().count(), 12);
        assert!(text.lines().all(|line| line.starts_with("{\"id\":\"") && line.ends_with("\"next_hop\":null}]}")), "{text}");
        let (text, _) = said(async |out| list(&config, &filter, false, out).await).await;
        let mut lines = text.lines();
        assert!(lines.next().unwrap().starts_with("ID             STATE"), "{text}");
        let line = lines.next().unwrap();
        assert!(line.starts_with("0000000000001  active"), "{text}");
        assert!(line.ends_with("<sender@example.test>  ann@example.org +1  450 4.2.1 mailbox busy"), "{text}");
        let (text, _) = said(async |out| stats(&config, false, out).await).await;
        assert!(text.contains("active") && text.contains("example.org") && text.contains("all"), "{text}");
        let (content, _) = said(async |out| cat(&config, QueueId(3), out).await).await;
        assert_eq!(content, String::from_utf8_lossy(&admin.content));
        let (_, done) = said(async |out| cat(&config, QueueId(99), out).await).await;
        assert_eq!(done.unwrap_err().status, failure::DATA);
    }

    #[test]
    fn a_spool_that_can_not_record_anything_is_said_beside_a_pause() {
        let stopped = Some("the log can't be written: Read-only file system".to_owned());
        let paused = Paused { all: true, stopped, ..Paused::default() };
        let words = "No delivery is attempted: the log can't be written: Read-only file system. It goes on by itself.\n\
                     All delivery is paused; `posthouse queue resume` starts it again.";
        assert_eq!(paused_words(&paused).as_deref(), Some(words));
        assert_eq!(paused_words(&Paused::default()), None);
    }

    #[tokio::test]
    async fn pausing_is_said_and_seen() {
        use crate::mail::Domain;
        let (config, _admin, _folder) = server().await;
        let argument = DomainArgument { domain: Domain::parse("example.org").ok() };
        let (text, _) = said(async |out| pause(&config, &argument, out).await).await;
        assert_eq!(text, "paused delivery to example.org\n");
        let (text, _) = said(async |out| stats(&config, false, out).await).await;
        assert!(text.ends_with("Delivery is paused to example.org; `posthouse queue resume` starts it again.\n"), "{text}");
        let (text, _) = said(async |out| resume(&config, &argument, out).await).await;
        assert_eq!(text, "resumed delivery to example.org\n");
    }
}
