//! `user …`: mailboxes and their passwords, in the users file; a running server is told to read it again.

use std::io::BufRead as _;

use serde_json::json;

use super::arguments::{UserArguments, UserCommand};
use super::failure::{self, Failure};
use super::print::Out;
use super::{Context, block_on, is_interactive};
use crate::config::Config;
use crate::control::{Client, ClientError};
use crate::directory::users::{self, UsersError};
use crate::mail::Address;
use crate::system::{SystemDisk, SystemEntropy, SystemNet};

/// Longest password, octets: keeps a wrong file on standard input from being read to its end.
const PASSWORD_SIZE_MAX: u64 = 1024;

impl From<UsersError> for Failure {
    fn from(error: UsersError) -> Self {
        Failure::new(error.exit_status(), error.to_string())
    }
}

pub(super) fn user(context: &Context<'_>, command: &UserCommand, out: &mut Out<'_>) -> Result<(), Failure> {
    let config = context.load()?.config;
    let path = &config.auth.users;
    match command {
        UserCommand::List { json } => {
            for address in users::list(&SystemDisk, path)? {
                if *json {
                    out.json(&json!({ "address": address }))?
                } else {
                    out.line(&address.to_string())?
                };
            }
            Ok(())
        }
        UserCommand::Add(arguments) => {
            is_local(&config, &arguments.address)?;
            let password = password(arguments)?;
            users::add(&SystemDisk, &SystemEntropy, path, &arguments.address, &password)?;
            changed(&config, &format!("added {}", arguments.address), out)
        }
        UserCommand::Passwd(arguments) => {
            let password = password(arguments)?;
            users::passwd(&SystemDisk, &SystemEntropy, path, &arguments.address, &password)?;
            changed(&config, &format!("changed the password of {}", arguments.address), out)
        }
        UserCommand::Remove { address } => {
            users::remove(&SystemDisk, path, address)?;
            changed(&config, &format!("removed {address}; its mail stays where it is"), out)
        }
    }
}

/// A mailbox in a domain that isn't here would never get mail.
fn is_local(config: &Config, address: &Address) -> Result<(), Failure> {
    if config.domains.iter().any(|domain| &domain.name == address.domain()) {
        return Ok(());
    }
    let what = format!("{} is not a local domain", address.domain());
    Err(Failure::new(failure::DATA, what).remedy("add a [[domain]] table for it to the configuration first"))
}

fn password(arguments: &UserArguments) -> Result<String, Failure> {
    if arguments.password_stdin {
        return first_line(std::io::stdin().lock());
    }
    if !is_interactive() {
        let what = "there is no terminal to ask for the password on";
        return Err(Failure::new(failure::USAGE, what).remedy("give it with --password-stdin on standard input"));
    }
    let ask = |prompt: &str| {
        let asked = rpassword::prompt_password(prompt);
        asked.map_err(|error| Failure::new(failure::UNAVAILABLE, format!("can't ask for the password: {error}")))
    };
    let password = ask(&format!("Password for {}: ", arguments.address))?;
    if password != ask("Again: ")? {
        return Err(Failure::new(failure::DATA, "the two passwords differ").remedy("nothing was changed; try again"));
    }
    Ok(password)
}

/// The first line, without its line end.
fn first_line(input: impl std::io::BufRead) -> Result<String, Failure> {
    let mut line = Vec::new();
    let read = input.take(PASSWORD_SIZE_MAX + 1).read_until(b'\n', &mut line);
    read.map_err(|error| Failure::new(failure::DATA, format!("can't read the password: {error}")))?;
    if line.len() as u64 > PASSWORD_SIZE_MAX {
        return Err(Failure::new(failure::DATA, format!("the password has more than {PASSWORD_SIZE_MAX} bytes")));
    }
    let line = line.strip_suffix(b"\n").unwrap_or(&line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    String::from_utf8(line.to_vec()).map_err(|_| Failure::new(failure::DATA, "the password is not UTF-8"))
}

/// Says what was done, and has a running server go by it.
pub(super) fn changed(config: &Config, what: &str, out: &mut Out<'_>) -> Result<(), Failure> {
    out.line(what)?;
    let reloaded = block_on(async {
        Ok(match Client::connect(&SystemNet, &config.admin.socket).await {
            Ok(mut client) => client.reload().await,
            Err(error) => Err(error),
        })
    })?;
    match reloaded {
        Ok(()) => Ok(out.line("the running server goes by it now")?),
        Err(ClientError::NotRunning(_)) => Ok(out.line("the server is not running; it goes by it when it starts")?),
        Err(error) => {
            out.flush()?;
            let status = if matches!(error, ClientError::Refused(_)) { failure::CONFIG } else { failure::UNAVAILABLE };
            let mut failure = Failure { status, ..Failure::from(error) };
            failure.problems.insert(0, "the file is changed, but the running server could not read it again:".to_owned());
            Err(failure.remedy("mend that, then send the server SIGHUP"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_one_line() {
        assert_eq!(first_line(&b"secret words\r\nmore\n"[..]).unwrap(), "secret words");
        assert_eq!(first_line(&b"secret"[..]).unwrap(), "secret");
        assert_eq!(first_line(&b"\xff\n"[..]).unwrap_err().status, failure::DATA);
        assert_eq!(first_line(&[b'x'; 2000][..]).unwrap_err().status, failure::DATA);
    }

    #[test]
    fn a_mailbox_needs_a_local_domain() {
        let config = crate::control::testing::config();
        assert_eq!(is_local(&config, &Address::parse("ann@example.test").unwrap()), Ok(()));
        assert_eq!(is_local(&config, &Address::parse("ann@example.org").unwrap()).unwrap_err().status, failure::DATA);
    }
}
