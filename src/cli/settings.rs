//! `check` and `config show`.

use serde::Serialize;

use super::failure::{self, Failure};
use super::print::{Cell, Out, Table};
use super::{Context, print};
use crate::config::{self, Loaded, Problem};
use crate::daemon;
use crate::directory::Directory;
use crate::system::{SystemDisk, SystemTls, TlsError, tls};

/// A problem as `check --json` prints it.
#[derive(Serialize)]
struct ProblemView<'a> {
    level: &'static str,
    file: &'a str,
    key: &'a str,
    problem: &'a str,
    remedy: &'a str,
}

impl<'a> ProblemView<'a> {
    fn new(level: &'static str, problem: &'a Problem) -> Self {
        Self { level, file: &problem.source, key: &problem.key, problem: &problem.what, remedy: &problem.remedy }
    }
}

/// Reads everything that a start reads. 0, or 78 whatever the problems are.
pub(super) fn check(context: &Context<'_>, json: bool, out: &mut Out<'_>) -> Result<(), Failure> {
    let checked = config::load(context.arguments.config.as_deref(), &config::environment()).and_then(|loaded| {
        let directory = files(&loaded)?;
        Ok((loaded, directory))
    });
    match checked {
        Ok((loaded, directory)) => {
            let unseen = daemon::unseen_certificates(&loaded.config, &SystemDisk, &SystemTls);
            for warning in loaded.warnings.iter().chain(directory.warnings()).chain(&unseen) {
                if json {
                    out.json(&ProblemView::new("warning", warning))?;
                } else {
                    out.line(&format!("warning: {warning}"))?;
                }
            }
            if !json {
                let files: Vec<String> = loaded.files.iter().map(|file| file.display().to_string()).collect();
                out.line(&format!("{}: no problems", files.join(", ")))?;
            }
            Ok(())
        }
        Err(problems) if json => {
            for problem in &problems {
                out.json(&ProblemView::new("error", problem))?;
            }
            out.flush()?;
            Err(Failure::new(failure::CONFIG, format!("{} found", print::count(problems.len() as u64, "problem"))))
        }
        Err(problems) => Err(Failure { status: failure::CONFIG, ..Failure::problems(&problems) }),
    }
}

/// The files that the configuration names: certificates, users, aliases, texts of notices. Errors: every problem.
pub(super) fn files(loaded: &Loaded) -> Result<Directory, Vec<Problem>> {
    let reception = daemon::check_certificates(&loaded.config, &SystemDisk, &SystemTls).map_err(|error| pem_problem(&error));
    match (reception, files_of_reload(loaded)) {
        (Ok(()), checked) => checked,
        (Err(problem), Ok(_)) => Err(vec![problem]),
        (Err(problem), Err(mut problems)) => {
            problems.push(problem);
            Err(problems)
        }
    }
}

fn pem_problem(error: &TlsError) -> Problem {
    Problem::new(error.path().display().to_string(), "", error.what(), error.remedy())
}

/// Those that a reload can't do without. The certificates of reception aren't among them: while new ones are wrong, or can't be read
/// any more by the user that the server has become, the old ones stay in use.
pub(super) fn files_of_reload(loaded: &Loaded) -> Result<Directory, Vec<Problem>> {
    let config = &loaded.config;
    let mut problems = config::check_files(config);
    if let Some(Err(error)) = config.remote.tls_ca.as_ref().map(|path| tls::check_authorities(&SystemDisk, path)) {
        problems.push(pem_problem(&error));
    }
    if let (true, Some(pair)) = (problems.is_empty(), &config.admin.tls)
        && let Err(error) = tls::load_pair(&SystemDisk, &pair.certificate, &pair.key)
    {
        problems.push(pem_problem(&error));
    }
    problems.extend(daemon::check_notices(config, &SystemDisk).err().unwrap_or_default());
    match Directory::load(config, &SystemDisk) {
        Ok(directory) if problems.is_empty() => Ok(directory),
        Ok(_) => Err(problems),
        Err(others) => {
            problems.extend(others);
            Err(problems)
        }
    }
}

/// Every value with where it came from.
pub(super) fn show(context: &Context<'_>, json: bool, out: &mut Out<'_>) -> Result<(), Failure> {
    let loaded = context.load()?;
    let mut table = Table::new(&["KEY", "VALUE", "FROM"]);
    for shown in &loaded.values {
        if json {
            out.json(shown)?;
        } else {
            table.row(out, vec![Cell::new(&shown.key), Cell::new(&shown.value), Cell::new(&shown.origin)])?;
        }
    }
    Ok(table.end(out)?)
}
