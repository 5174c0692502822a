//! `spool …`: checks, repairs, exports and imports the spool of a server that is not running.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::arguments::SpoolCommand;
use super::bench::Bench;
use super::failure::{self, Failure};
use super::print::{Cell, Colour, Out, Table, count, shell, size};
use super::progress::Bar;
use super::{Context, block_on, system};
use crate::config::Config;
use crate::daemon;
use crate::spool::index::RunIndexFactory;
use crate::spool::{
    self, Finding, FindingKind, Gravity, Level, Options, Remark, Spool, SpoolError, Step, StepKind, Survey, Transfer, Watcher,
};
use crate::system::{Disk, SystemDisk};

/// A document of `--json` output, with what it is in front.
#[derive(Serialize)]
struct Line<'a, T: Serialize> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    document: &'a T,
}

pub(super) fn spool(context: &Context<'_>, command: &SpoolCommand, out: &mut Out<'_>) -> Result<(), Failure> {
    let config = context.load()?.config;
    match command {
        SpoolCommand::Check { repair, json } => check(context, &config, *repair, *json, out),
        SpoolCommand::Export { folder, json } => export(&config, folder, *json, out),
        SpoolCommand::Import { folder, json } => import(&config, folder, *json, out),
    }
}

/// Why a tool can't work on this spool.
fn unusable(config: &Config, error: SpoolError) -> Failure {
    match error {
        SpoolError::Locked(path) => Failure::new(failure::UNAVAILABLE, format!("a server has the spool {} open", path.display()))
            .remedy("stop the server first, for instance with `systemctl stop posthouse`; `posthouse queue` works beside it"),
        SpoolError::Unusable(what) => {
            Failure::new(failure::DATA, what).remedy("docs/spool.md says what a spool folder looks like")
        }
        SpoolError::Io(what) if !config.user.is_empty() => Failure::new(failure::UNAVAILABLE, what)
            .remedy(format!("run this as root or as {}, the user that the server runs as", config.user)),
        error => error.into(),
    }
}

fn must_exist(config: &Config) -> Result<(), Failure> {
    if config.spool.path.join("log").exists() {
        return Ok(());
    }
    Err(Failure::new(failure::UNAVAILABLE, format!("there is no spool at {}", config.spool.path.display()))
        .remedy("name the server's configuration with --config FILE"))
}

/// What is written to the spool must belong to the user that the server runs as.
fn become_user(config: &Config) -> Result<(), Failure> {
    if !daemon::is_root() || config.user.is_empty() {
        return Ok(());
    }
    daemon::drop_to(&config.user).map_err(|error| Failure::new(failure::NO_PERMISSION, error.to_string()))
}

fn watcher(bar: Option<&Bar>) -> Watcher {
    bar.map_or_else(|| Arc::new(|_| {}), Bar::watcher)
}

fn check(context: &Context<'_>, config: &Config, repair: bool, json: bool, out: &mut Out<'_>) -> Result<(), Failure> {
    must_exist(config)?;
    if repair {
        become_user(config)?;
    }
    let bench = Bench::new(config)?;
    let bar = Bar::for_terminal();
    let mut findings = Listing::new(&["LEVEL", "FINDING", "WHERE", "MESSAGE", "WHAT"], json, out);
    let mut steps = Vec::new();
    let report = &mut |finding: Finding| findings.add("finding", &finding, || finding_row(&finding));
    let surveyed = if repair {
        let options = Options { progress: watcher(bar.as_ref()), ..daemon::spool_options(config) };
        let (system, mut did) = (system(config)?, |step| steps.push(step));
        block_on(async { Ok(spool::repair(options, &system, factory(config), &bench, report, &mut did).await) })?
    } else {
        let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
        spool::check(&config.spool.path, &disk, &bench, &watcher(bar.as_ref()), report)
    };
    drop(bar);
    let found = findings.end()?;
    let mut listing = Listing::new(&["DONE", "WHERE", "MESSAGE", "WHAT"], json, out);
    if found && !steps.is_empty() && !json {
        listing.out.line("")?;
    }
    steps.iter().for_each(|step| listing.add("step", step, || step_row(step)));
    let found = listing.end()? || found;
    let survey = surveyed.map_err(|error| unusable(config, error))?;
    if json {
        out.json(&Line { kind: "summary", document: &survey })?;
    } else {
        if found {
            out.line("")?;
        }
        summary(&survey, out)?;
    }
    verdict(context, &survey, repair, &steps, json, out)
}

fn summary(survey: &Survey, out: &mut Out<'_>) -> Result<(), Failure> {
    let Survey { segments, records, messages, content_files, bytes, .. } = *survey;
    let parts = [count(segments, "segment"), count(records, "record"), count(messages, "message")];
    Ok(out.line(&format!("{}, {}; {} read.", parts.join(", "), count(content_files, "content file"), size(bytes)))?)
}

fn verdict(
    context: &Context<'_>,
    survey: &Survey,
    repair: bool,
    steps: &[Step],
    json: bool,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    let known = match survey.known {
        0 => String::new(),
        number => format!(" What was damaged before is set aside, in {}.", count(number, "place")),
    };
    if survey.is_sound() || repair {
        let held = steps.iter().filter(|step| step.done == StepKind::Held).count() as u64;
        let text = match (survey.is_sound(), held) {
            (true, _) => format!("The spool is sound.{known}"),
            (false, 0) => "The spool is repaired.".to_owned(),
            (false, held) => format!(
                "The spool is repaired. {} lost their content and are held: `posthouse queue bounce ID` tells the sender.",
                count(held, "message")
            ),
        };
        return if json { Ok(()) } else { Ok(out.line(&text)?) };
    }
    out.flush()?;
    let remedy = format!(
        "`posthouse{} spool check --repair` sets aside what is damaged and builds the index anew; docs/spool-tools.md says how",
        context.options()
    );
    Err(Failure::new(failure::DATA, format!("the spool is damaged in {}", count(survey.damage, "place"))).remedy(remedy))
}

/// Rows of a table, or JSON lines, as they come. What can't be written is told at the end.
struct Listing<'a, 'b> {
    out: &'a mut Out<'b>,
    table: Table,
    json: bool,
    any: bool,
    failed: Option<std::io::Error>,
}

impl<'a, 'b> Listing<'a, 'b> {
    fn new(head: &[&str], json: bool, out: &'a mut Out<'b>) -> Self {
        Self { out, table: Table::new(head), json, any: false, failed: None }
    }

    fn add(&mut self, kind: &'static str, document: &impl Serialize, row: impl FnOnce() -> Vec<Cell>) {
        self.any = true;
        let written = if self.json { self.out.json(&Line { kind, document }) } else { self.table.row(self.out, row()) };
        if let Err(error) = written {
            self.failed.get_or_insert(error);
        }
    }

    /// Whether there was anything.
    fn end(self) -> Result<bool, Failure> {
        self.table.end(self.out)?;
        self.failed.map_or(Ok(self.any), |error| Err(error.into()))
    }
}

/// A value's name as in JSON.
fn name(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn finding_row(finding: &Finding) -> Vec<Cell> {
    let Finding { finding: kind, level, segment, offset, bytes, id, path, set_aside, reason } = finding;
    let colour = match level {
        Level::Damage => Colour::Red,
        Level::Known => Colour::Yellow,
        Level::Note => Colour::Plain,
    };
    let place = match (segment, offset, bytes) {
        (Some(segment), Some(offset), Some(bytes)) => format!("segment {segment} at {offset}, {bytes} bytes"),
        (Some(segment), ..) => format!("segment {segment}"),
        (None, _, Some(bytes)) if *kind != FindingKind::ContentMissing => {
            format!("{}, {}", path.as_deref().unwrap_or(""), size(*bytes))
        }
        _ => path.clone().unwrap_or_default(),
    };
    let reason = match set_aside {
        Some(path) => format!("{reason}; set aside as {path}"),
        None => reason.clone(),
    };
    let id = id.map_or_else(|| "-".to_owned(), |id| id.to_string());
    vec![Cell::new(name(level)).colour(colour), Cell::new(name(kind)), Cell::new(place), Cell::new(id), Cell::new(reason)]
}

fn step_row(step: &Step) -> Vec<Cell> {
    let what = match step.done {
        StepKind::SetAside => "what is damaged lies there now",
        StepKind::HeaderMended => "the damaged copy of its header was put back from the sound one",
        StepKind::LossNoted => "its loss is noted there",
        StepKind::EnvelopeKept => "its envelope lies there",
        StepKind::Restored => "it is in the log again, with its content",
        StepKind::Held => "its content is lost: it stays in the queue, and nobody tries to deliver it",
        StepKind::IndexSetAside => "the old index lies there; it can be removed",
        StepKind::IndexRebuilt => "built from the log",
    };
    let place = match (&step.path, step.segment) {
        (Some(path), _) => path.clone(),
        (None, Some(segment)) => format!("segment {segment}"),
        (None, None) => "-".to_owned(),
    };
    let id = step.id.map_or_else(|| "-".to_owned(), |id| id.to_string());
    vec![Cell::new(name(&step.done)), Cell::new(place), Cell::new(id), Cell::new(what)]
}

fn factory(config: &Config) -> Box<RunIndexFactory> {
    Box::new(RunIndexFactory::new(&config.spool.path, Arc::new(SystemDisk), config.spool.index_cache))
}

fn export(config: &Config, folder: &Path, json: bool, out: &mut Out<'_>) -> Result<(), Failure> {
    must_exist(config)?;
    let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
    if disk.exists(folder) {
        let names = disk
            .list(folder)
            .map_err(|error| Failure::new(failure::CANT_CREATE, format!("can't write to {}: {error}", folder.display())))?;
        if !names.is_empty() {
            return Err(Failure::new(failure::CANT_CREATE, format!("{} is not empty", folder.display()))
                .remedy("choose a folder that isn't there yet; an export overwrites nothing"));
        }
    }
    let bench = Bench::new(config)?;
    let bar = Bar::for_terminal();
    let mut remarks = Remarks::new(json, bar.as_ref(), out);
    let exported =
        spool::export(&config.spool.path, folder, &disk, &bench, &watcher(bar.as_ref()), &mut |told| remarks.add(&told));
    drop(bar);
    let done = exported.map_err(|error| unusable(config, error))?;
    let text = format!("exported {}, {}, to {}", count(done.messages, "message"), size(done.bytes), shown_path(folder));
    transferred(&done, &text, "exported", json, out)
}

fn import(config: &Config, folder: &Path, json: bool, out: &mut Out<'_>) -> Result<(), Failure> {
    let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
    if !disk.exists(folder) {
        return Err(Failure::new(failure::DATA, format!("there is no folder {}", folder.display())));
    }
    become_user(config)?;
    let system = system(config)?;
    let bar = Bar::for_terminal();
    let mut remarks = Remarks::new(json, bar.as_ref(), out);
    let watcher = watcher(bar.as_ref());
    let options = Options { progress: watcher.clone(), ..daemon::spool_options(config) };
    let imported = block_on(async {
        let (spool, recovery) = Spool::open(options, &system, factory(config)).await.map_err(|error| unusable(config, error))?;
        recovery.notes.iter().for_each(|note| remarks.note(&note.to_string()));
        let imported = spool::import(&spool, folder, &disk, &watcher, &mut |told| remarks.add(&told)).await;
        let closed = spool.close().await;
        imported.and_then(|done| closed.map(|()| done)).map_err(|error| unusable(config, error))
    });
    drop(bar);
    let done =
        imported.map_err(|failure| failure.remedy_if_none("what was taken up before stays; the import can be repeated"))?;
    let skipped = if done.skipped == 0 {
        String::new()
    } else {
        format!("; skipped {} that the spool has already", count(done.skipped, "message"))
    };
    let text =
        format!("imported {}, {}, from {}{skipped}", count(done.messages, "message"), size(done.bytes), shown_path(folder));
    transferred(&done, &text, "imported", json, out)
}

fn shown_path(folder: &Path) -> String {
    shell(&folder.display().to_string())
}

/// Remarks as they come: JSON lines on standard output, or words on standard error, where skipped messages are only counted.
struct Remarks<'a, 'b> {
    json: bool,
    bar: Option<&'a Bar>,
    out: &'a mut Out<'b>,
}

impl<'a, 'b> Remarks<'a, 'b> {
    fn new(json: bool, bar: Option<&'a Bar>, out: &'a mut Out<'b>) -> Self {
        Self { json, bar, out }
    }

    fn add(&mut self, remark: &Remark) {
        if self.json {
            // If nobody hears it, the summary says it again.
            let _ = self.out.json(&Line { kind: "remark", document: remark });
        } else if remark.result == Gravity::Failed {
            self.note(&format!("{}: {}", remark.name, remark.reason));
        }
    }

    fn note(&self, text: &str) {
        match self.bar {
            Some(bar) => bar.aside(|| failure::note(text)),
            None => failure::note(text),
        }
    }
}

fn transferred(done: &Transfer, text: &str, verb: &str, json: bool, out: &mut Out<'_>) -> Result<(), Failure> {
    if json {
        out.json(&Line { kind: "summary", document: done })?;
    } else {
        out.line(text)?;
    }
    if done.failed == 0 {
        return Ok(());
    }
    out.flush()?;
    Err(Failure::new(failure::DATA, format!("not everything could be {verb}: {}", count(done.failed, "problem"))))
}
