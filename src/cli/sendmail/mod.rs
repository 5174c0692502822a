//! `sendmail`, `mailq` and `newaliases`: the classic command lines, for cron, PHP, git, mutt and all who know no other. What is
//! sent lies durably in the drop folder when the command ends with 0; the server takes it up now, or when it runs again.

mod compose;
mod header;
mod lines;
mod mailq;
mod options;
mod session;

use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use self::compose::{Composer, Wishes};
use self::header::{Circumstances, qualified};
use self::lines::Lines;
use self::options::{Mode, Options};
use super::failure::{self, Failure};
use super::print::Out;
use super::{Arguments, Context, arguments, block_on, explain, now, settings, user};
use crate::config::Config;
use crate::directory::{Directory, Resolution};
use crate::mail::{Address, QueueId, addresses};
use crate::system::{Entropy as _, OwnUser, SystemDisk, SystemEntropy, own_user};

/// Standard input is read in pieces of this many octets.
const PIECE: usize = 64 * 1024;
/// Where the classic names look for the configuration: never where they happen to be called, for programs call them anywhere.
const CONFIG: &str = "/etc/posthouse/posthouse.toml";
/// Somebody who isn't there (sysexits.h).
const NO_USER: u8 = 67;

/// The command line of one of the classic names, if the program was called by it.
pub(super) fn classic(words: &[OsString]) -> Option<(Option<PathBuf>, Vec<OsString>)> {
    let name = Path::new(words.first()?).file_name()?;
    let mode = match name.to_str()? {
        "sendmail" => None,
        "mailq" => Some("-bp"),
        "newaliases" => Some("-bi"),
        _ => return None,
    };
    let rest = mode.map(OsStr::new).map(OsStr::to_owned).into_iter().chain(words[1..].iter().cloned()).collect();
    Some((Some(PathBuf::from(CONFIG)), rest))
}

/// Carries a classic command line out. `config` is where the configuration lies, unless the line says so.
pub(super) fn sendmail(config: Option<&Path>, words: &[OsString], out: &mut Out<'_>) -> Result<(), Failure> {
    let options = options::parse(words).map_err(|what| Failure::new(failure::USAGE, what))?;
    let config = options.config.clone().or(config.map(Path::to_owned));
    let arguments = Arguments { config, command: None };
    let context = Context { arguments: &arguments };
    let config = context.load()?.config;
    match &options.mode {
        Mode::Deliver => deliver(&config, &options, out),
        Mode::Smtp => {
            let sender = Sender::new(&config, &options)?;
            let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
            session::talk(&config, sender.circumstances(&config, false), &mut input, &mut output)
        }
        Mode::List => block_on(mailq::list(&config, out)),
        Mode::Retry(retry) => block_on(mailq::retry(&config, retry)),
        Mode::Aliases => {
            let loaded = context.load()?;
            settings::files(&loaded).map_err(|problems| Failure::problems(&problems))?;
            user::changed(&config, "the aliases are right; there is nothing to build", out)
        }
        Mode::Explain => verify(&context, &config, &options, out),
    }
}

/// Who sends.
struct Sender {
    user: OwnUser,
    /// The reverse-path; empty for none.
    path: String,
    /// For `From:`.
    author: String,
    full_name: String,
    message_id: String,
}

impl Sender {
    fn new(config: &Config, options: &Options) -> Result<Self, Failure> {
        let domain = config.own_domain();
        let user = own_user();
        let own = qualified(&user.name, false, domain);
        let path = match options.sender.as_deref().map(str::trim) {
            None => own.clone(),
            Some("" | "<>") => String::new(),
            Some(text) => match &recipients(config, text)?[..] {
                [one] => one.clone(),
                _ => return Err(Failure::new(failure::USAGE, format!("-f {text}: not one address"))),
            },
        };
        let author = if path.is_empty() { own } else { path.clone() };
        let full_name =
            options.full_name.clone().or_else(|| std::env::var("NAME").ok()).unwrap_or_else(|| user.full_name.clone());
        let id = QueueId::after(QueueId(0), now(), SystemEntropy.next_u64());
        let message_id = format!("<{id}.{:016x}@{}>", SystemEntropy.next_u64(), config.hostname);
        Ok(Self { user, path, author, full_name, message_id })
    }

    fn circumstances<'a>(&'a self, config: &'a Config, reads_recipients: bool) -> Circumstances<'a> {
        Circumstances {
            domain: config.own_domain(),
            author: &self.author,
            full_name: &self.full_name,
            now: now(),
            message_id: &self.message_id,
            reads_recipients,
        }
    }
}

/// The addresses of an argument, each with a domain.
fn recipients(config: &Config, text: &str) -> Result<Vec<String>, Failure> {
    let listed = addresses(text.as_bytes());
    let listed = listed.map_err(|wrong| Failure::new(failure::DATA, format!("{:?} is no address", wrong.0)))?;
    Ok(listed.iter().map(|one| qualified(&one.text, one.has_domain, config.own_domain())).collect())
}

fn deliver(config: &Config, options: &Options, out: &mut Out<'_>) -> Result<(), Failure> {
    let sender = Sender::new(config, options)?;
    let mut to = Vec::new();
    for text in &options.recipients {
        to.extend(recipients(config, text)?);
    }
    if to.is_empty() && !options.reads_recipients {
        return Err(Failure::new(failure::USAGE, "no recipients are named").remedy("name them, or say -t if the header does"));
    }
    let mut message = Composer::begin(config, sender.circumstances(config, options.reads_recipients))?;
    let mut lines = Lines::new(!options.ignores_dots);
    let (mut input, mut piece) = (std::io::stdin().lock(), vec![0; PIECE]);
    let mut text = Vec::with_capacity(PIECE + PIECE / 16);
    loop {
        let unreadable = |error: std::io::Error| Failure::new(failure::IO, format!("can't read standard input: {error}"));
        let read = input.read(&mut piece).map_err(unreadable)?;
        let ended = read == 0 || lines.receive(&piece[..read], &mut text);
        if ended {
            lines.finish(&mut text);
        }
        message.receive(&text)?;
        text.clear();
        if ended {
            break;
        }
    }
    to.extend_from_slice(message.content_end()?);
    let mut known = std::collections::BTreeSet::new();
    to.retain(|address| known.insert(address.clone()));
    if to.is_empty() {
        return Err(Failure::new(failure::DATA, "the header names no recipients"));
    }
    let wishes = Wishes { notify: options.notify.as_deref(), ret: options.ret, envelope_id: options.envelope_id.as_deref() };
    let name = message.finish_to(&sender.path, &to, &wishes)?;
    if options.verbose {
        out.line(&format!("{}: left for the server as {name}", sender.user.name))?;
    }
    Ok(())
}

/// Says how mail would be routed; whoever isn't there makes the exit status 67.
fn verify(context: &Context<'_>, config: &Config, options: &Options, out: &mut Out<'_>) -> Result<(), Failure> {
    let directory = Directory::load(config, &SystemDisk).map_err(|problems| Failure::problems(&problems))?;
    let mut unknown = Vec::new();
    for text in &options.recipients {
        for to in recipients(config, text)? {
            let address = Address::parse(&to).map_err(|error| Failure::new(failure::DATA, format!("{to}: {error}")))?;
            if directory.resolve(&address) == Resolution::Unknown {
                unknown.push(format!("{address}: no such user here"));
            }
            explain::explain(context, &arguments::Explain { address, from: None, json: false }, out)?;
        }
    }
    if unknown.is_empty() {
        return Ok(());
    }
    out.flush()?;
    Err(Failure { status: NO_USER, problems: unknown, remedy: String::new() })
}
