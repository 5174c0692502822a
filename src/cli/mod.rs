//! The command line: arguments in, sysexits out. Everything it does to a running server goes through `control`.

mod arguments;
mod bench;
mod explain;
mod failure;
mod hint;
mod preview;
mod print;
mod progress;
mod queue;
mod selfcheck;
mod sendmail;
mod serve;
mod settings;
mod show;
mod sites;
mod source;
mod spool;
mod user;

use std::future::Future;
use std::io::IsTerminal as _;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use clap::Parser as _;

use arguments::{Arguments, Command, ConfigCommand};
use failure::Failure;
use print::Out;

use crate::config::{self, Loaded};
use crate::mail::Timestamp;
use crate::system::{Clock as _, SystemClock};

/// Runs the command that the process was called with.
pub fn run() -> ExitCode {
    let words: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if let Some((config, words)) = sendmail::classic(&words) {
        return finish(|out| sendmail::sendmail(config.as_deref(), &words, out));
    }
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version come this way too. What can't be printed can't be helped.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { failure::USAGE } else { 0 });
        }
    };
    finish(|out| execute(&arguments, out))
}

/// Runs a command to its exit status.
fn finish(command: impl FnOnce(&mut Out<'_>) -> Result<(), Failure>) -> ExitCode {
    let mut out = Out::standard();
    let done = std::panic::catch_unwind(AssertUnwindSafe(|| -> Result<(), Failure> {
        command(&mut out)?;
        Ok(out.flush()?)
    }));
    match done {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => failure.tell(),
        // The panic has told its place already.
        Err(_) => ExitCode::from(failure::SOFTWARE),
    }
}

fn execute(arguments: &Arguments, out: &mut Out<'_>) -> Result<(), Failure> {
    let context = Context { arguments };
    match &arguments.command {
        None | Some(Command::Serve) => serve::serve(&context),
        Some(Command::Check { json }) => settings::check(&context, *json, out),
        Some(Command::Config { command: ConfigCommand::Show { json } }) => settings::show(&context, *json, out),
        Some(Command::Queue { command }) => queue::queue(&context, command, out),
        Some(Command::Spool { command }) => spool::spool(&context, command, out),
        Some(Command::User { command }) => user::user(&context, command, out),
        Some(Command::Selfcheck { json }) => selfcheck::selfcheck(&context, *json, out),
        Some(Command::Sendmail { words }) => sendmail::sendmail(arguments.config.as_deref(), words, out),
        Some(Command::Explain(explain)) => explain::explain(&context, explain, out),
    }
}

/// What every command starts from.
struct Context<'a> {
    arguments: &'a Arguments,
}

impl Context<'_> {
    /// The configuration in force, or every problem with it.
    fn load(&self) -> Result<Loaded, Failure> {
        config::load(self.arguments.config.as_deref(), &config::environment()).map_err(|problems| Failure::problems(&problems))
    }

    /// The options that a remedy must repeat so that it works as printed.
    fn options(&self) -> String {
        self.arguments
            .config
            .as_ref()
            .map(|path| format!(" --config {}", print::shell(&path.display().to_string())))
            .unwrap_or_default()
    }
}

/// Runs a short command's futures in this thread.
fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::new(failure::UNAVAILABLE, format!("can't start: {error}")))?.block_on(future)
}

fn now() -> Timestamp {
    SystemClock::new().now()
}

/// The machine itself.
fn system(config: &crate::config::Config) -> Result<crate::system::System, Failure> {
    crate::system::System::real(&config.dns.servers, config.dns.timeout).map_err(|error| {
        Failure::new(failure::CONFIG, format!("dns.servers: {error}"))
            .remedy("name servers there, or mend the system's resolv.conf")
    })
}

/// Whether a stream may get colours: a terminal, and `NO_COLOR` not set.
fn may_colour(terminal: &impl std::io::IsTerminal) -> bool {
    terminal.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whether somebody can be asked.
fn is_interactive() -> bool {
    std::io::stdin().is_terminal()
}
