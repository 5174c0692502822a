//! The command line's grammar: commands, options, and how their values are read.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::parse_duration;
use crate::control::Query;
use crate::mail::{Address, Domain, MessageState, QueueId, ReversePath, Timestamp};

/// A mail server that never loses a message it has accepted.
#[derive(Debug, Parser)]
#[command(name = "posthouse", version, about, after_help = "Without a command it serves. See docs/ for everything else.")]
pub(super) struct Arguments {
    /// The configuration [default: conf/posthouse.toml, then /etc/posthouse/posthouse.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the server in the foreground (what no command at all does, too)
    Serve,
    /// Read the configuration, users and aliases, and say everything that is wrong with them
    Check {
        /// One JSON document a line for each problem
        #[arg(long)]
        json: bool,
    },
    /// The configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// The queue: look at it, change it
    Queue {
        #[command(subcommand)]
        command: QueueCommand,
    },
    /// The spool of a server that is not running: check it, take mail out, bring mail in
    Spool {
        #[command(subcommand)]
        command: SpoolCommand,
    },
    /// Mailboxes and their passwords
    User {
        #[command(subcommand)]
        command: UserCommand,
    },
    /// Prove that every extension works that the listeners announce: on loopback, beside the running server
    Selfcheck {
        /// One JSON document a line for each extension
        #[arg(long)]
        json: bool,
    },
    /// Send mail as the classic `sendmail` does; also what the binary does when it is called by that name
    #[command(disable_help_flag = true, disable_version_flag = true)]
    Sendmail {
        /// The classic options and recipients
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
        words: Vec<OsString>,
    },
    /// Say step by step how mail to an address would be routed; nothing is sent
    Explain(Explain),
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// The configuration in force, each value with where it came from
    Show {
        /// One JSON document a line for each value
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum QueueCommand {
    /// Messages in the queue
    List {
        #[command(flatten)]
        filter: FilterArguments,
        /// One JSON document a line for each message
        #[arg(long)]
        json: bool,
    },
    /// One message: envelope, every recipient's state, attempts with the remote's reply
    Show {
        /// The queue id
        id: QueueId,
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// The message as stored, byte for byte, on standard output
    Cat {
        /// The queue id
        id: QueueId,
    },
    /// Counts, bytes and ages by state and by destination
    Stats {
        /// One JSON document a line for each row
        #[arg(long)]
        json: bool,
    },
    /// Try messages now, whatever their next attempt
    Retry(SelectionArguments),
    /// Stop messages: no attempt, no expiry, until released
    Hold(SelectionArguments),
    /// Let held messages go on
    Release(SelectionArguments),
    /// Give messages up and tell their senders
    Bounce(SelectionArguments),
    /// Throw messages away and tell nobody
    Remove(SelectionArguments),
    /// Stop delivery attempts; reception goes on, also after a restart
    Pause(DomainArgument),
    /// Start delivery attempts again
    Resume(DomainArgument),
}

#[derive(Debug, Subcommand)]
pub(super) enum SpoolCommand {
    /// Read everything, verify every checksum, compare index and log; change nothing
    Check {
        /// Set aside what is damaged, and build the index anew
        #[arg(long)]
        repair: bool,
        /// One JSON document a line for each finding and each step of a repair, and one with the numbers
        #[arg(long)]
        json: bool,
    },
    /// Write every message to a folder: ID.eml byte for byte, and its envelope as ID.json
    Export {
        /// The folder; made if it isn't there, and must be empty
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// One JSON document a line for what can't be exported, and one with the numbers
        #[arg(long)]
        json: bool,
    },
    /// Take up messages that were exported, with their ids and states; those that the spool has are skipped
    Import {
        /// The folder with ID.eml and ID.json
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// One JSON document a line for what is skipped or wrong, and one with the numbers
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Debug, Default, Args)]
pub(super) struct FilterArguments {
    /// Messages with this reverse-path; "<>" for notices
    #[arg(long, value_name = "ADDRESS", value_parser = reverse_path)]
    sender: Option<ReversePath>,
    /// Messages that still wait for this recipient
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    recipient: Option<Address>,
    /// Messages that still wait for a recipient in this domain
    #[arg(long, value_name = "DOMAIN", value_parser = Domain::parse)]
    domain: Option<Domain>,
    /// active, deferred or held
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Option<MessageState>,
    /// Messages accepted longer ago than this, like 30m, 4h or 2d
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Option<Duration>,
    /// No more than this many, the oldest first
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

impl FilterArguments {
    /// The query that is meant at this time.
    pub(super) fn query(&self, now: Timestamp) -> Query {
        let age = |age: Duration| now.as_millis().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        Query {
            sender: self.sender.clone(),
            recipient: self.recipient.clone(),
            domain: self.domain.clone(),
            state: self.state,
            arrived_before: self.older_than.map(age).map(Timestamp::from_millis),
            limit: self.limit,
        }
    }

    /// Whether nothing is asked for but all.
    pub(super) fn is_empty(&self) -> bool {
        self.query(Timestamp::ZERO) == Query::default()
    }
}

#[derive(Debug, Args)]
pub(super) struct SelectionArguments {
    /// The messages
    ids: Vec<QueueId>,
    #[command(flatten)]
    filter: FilterArguments,
    /// The whole queue
    #[arg(long)]
    all: bool,
    /// {"touched":COUNT}
    #[arg(long)]
    pub(super) json: bool,
}

/// Which messages a verb is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Chosen {
    Ids(Vec<QueueId>),
    Filter(Query),
    All,
}

impl SelectionArguments {
    /// What is meant: ids, or filters, or everything. Nothing, or two of these at once, is no selection.
    pub(super) fn chosen(&self, now: Timestamp) -> Result<Chosen, &'static str> {
        match (self.ids.is_empty(), self.filter.is_empty(), self.all) {
            (false, true, false) => Ok(Chosen::Ids(self.ids.clone())),
            (true, false, false) => Ok(Chosen::Filter(self.filter.query(now))),
            (true, true, true) => Ok(Chosen::All),
            (true, true, false) => Err("no messages are named"),
            _ => Err("ids, filters and --all exclude each other"),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct DomainArgument {
    /// Only attempts to this domain
    #[arg(long, value_name = "DOMAIN", value_parser = Domain::parse)]
    pub(super) domain: Option<Domain>,
}

#[derive(Debug, Subcommand)]
pub(super) enum UserCommand {
    /// Make a mailbox
    Add(UserArguments),
    /// Change a mailbox's password
    Passwd(UserArguments),
    /// Remove a mailbox; its mail stays where it is
    Remove {
        /// The mailbox
        #[arg(value_parser = address)]
        address: Address,
    },
    /// All mailboxes
    List {
        /// One JSON document a line for each mailbox
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct UserArguments {
    /// The mailbox
    #[arg(value_parser = address)]
    pub(super) address: Address,
    /// Read the password from the first line of standard input
    #[arg(long)]
    pub(super) password_stdin: bool,
}

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// Where the mail would go
    #[arg(value_parser = address)]
    pub(super) address: Address,
    /// Who would send it: says where a notice about it would go, too
    #[arg(long, value_name = "ADDRESS", value_parser = reverse_path)]
    pub(super) from: Option<ReversePath>,
    /// One JSON document a line for each step
    #[arg(long)]
    pub(super) json: bool,
}

/// `ann@example.test` or `<ann@example.test>`.
fn address(text: &str) -> Result<Address, String> {
    Address::parse_utf8(bare(text)).map_err(|error| error.to_string())
}

/// The same, and `<>` or nothing for notices.
fn reverse_path(text: &str) -> Result<ReversePath, String> {
    ReversePath::try_from(bare(text).to_owned()).map_err(|error| error.to_string())
}

fn bare(text: &str) -> &str {
    text.strip_prefix('<').and_then(|text| text.strip_suffix('>')).unwrap_or(text)
}

fn state(text: &str) -> Result<MessageState, String> {
    match text {
        "active" => Ok(MessageState::Active),
        "deferred" => Ok(MessageState::Deferred),
        "held" => Ok(MessageState::Held),
        _ => Err("say active, deferred or held".to_owned()),
    }
}

fn age(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write it like 30m, 4h or 2d".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    fn chosen(line: &str) -> Result<Chosen, &'static str> {
        match parse(line).unwrap().command {
            Some(Command::Queue { command: QueueCommand::Hold(selection) }) => {
                selection.chosen(Timestamp::from_millis(86_400_000))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_grammar_is_sound_and_every_promised_command_is_there() {
        Arguments::command().debug_assert();
        let id = "0000000000001";
        for line in [
            "posthouse",
            "posthouse serve",
            "posthouse check",
            "posthouse config show --json",
            "posthouse queue list --sender a@x.test --recipient b@x.test --domain x.test --state held --older-than 4h --limit 3",
            &format!("posthouse queue show {id} --json"),
            &format!("posthouse queue cat {id}"),
            "posthouse queue stats --json",
            &format!("posthouse queue retry {id} {id}"),
            "posthouse queue hold --all",
            "posthouse queue release --state held",
            "posthouse queue bounce --domain x.test",
            "posthouse queue remove --sender <>",
            "posthouse queue pause",
            "posthouse queue resume --domain x.test",
            "posthouse spool check --repair --json",
            "posthouse spool export /tmp/mail --json",
            "posthouse spool import /tmp/mail",
            "posthouse user add ann@x.test --password-stdin",
            "posthouse user passwd ann@x.test",
            "posthouse user remove ann@x.test",
            "posthouse user list --json",
            "posthouse explain ann@x.test --from bob@x.test",
            "posthouse --config x.toml queue list",
            "posthouse queue list --config x.toml",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
        for line in ["posthouse sing", "posthouse queue show", "posthouse queue show 12", "posthouse queue list --state open"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn docs_queue_md_describes_every_queue_command_and_option() {
        let docs = include_str!("../../docs/queue.md");
        let command = Arguments::command();
        let queue = command.find_subcommand("queue").unwrap();
        for sub in queue.get_subcommands() {
            assert!(docs.contains(&format!("queue {}", sub.get_name())), "queue {}", sub.get_name());
            for option in sub.get_arguments().filter_map(|argument| argument.get_long()) {
                assert!(docs.contains(&format!("--{option}")), "--{option}");
            }
        }
    }

    #[test]
    fn docs_spool_tools_md_describes_every_spool_command_and_option() {
        let docs = include_str!("../../docs/spool-tools.md");
        let command = Arguments::command();
        for sub in command.find_subcommand("spool").unwrap().get_subcommands() {
            assert!(docs.contains(&format!("posthouse spool {}", sub.get_name())), "{}", sub.get_name());
            for option in sub.get_arguments().filter_map(|argument| argument.get_long()) {
                assert!(docs.contains(&format!("--{option}")), "--{option}");
            }
        }
    }

    #[test]
    fn a_verb_needs_ids_or_filters_or_all_and_only_one_of_them() {
        assert_eq!(chosen("p queue hold 0000000000001"), Ok(Chosen::Ids(vec![QueueId(1)])));
        assert_eq!(chosen("p queue hold --all"), Ok(Chosen::All));
        let day = Query { arrived_before: Some(Timestamp::from_millis(82_800_000)), limit: Some(2), ..Query::default() };
        assert_eq!(chosen("p queue hold --older-than 1h --limit 2"), Ok(Chosen::Filter(day)));
        let notices = Query { sender: Some(ReversePath::Null), ..Query::default() };
        assert_eq!(chosen("p queue hold --sender <>"), Ok(Chosen::Filter(notices)));
        for line in ["p queue hold", "p queue hold --all 0000000000001", "p queue hold --all --state held"] {
            assert!(chosen(line).is_err(), "{line}");
        }
    }
}
