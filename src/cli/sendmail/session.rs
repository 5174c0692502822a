//! `sendmail -bs`: SMTP on standard input and output, by the server's own session machine. What is accepted lies in the drop
//! folder, so that it works with the server down, too.

use std::io::{BufRead, Write};
use std::sync::Arc;

use super::super::failure::Failure;
use super::compose::Composer;
use super::header::Circumstances;
use super::lines::Lines;
use crate::config::{Config, ListenerTls};
use crate::daemon::session_settings;
use crate::mail::{EnhancedCode, Reply, Service};
use crate::smtp::server::{Answer, Question, Session, Step};
use crate::system::{Clock as _, SystemClock};

/// Octets that the session gets at once, at the most.
const PIECE: usize = 32 * 1024;

/// One conversation.
struct Dialogue<'a> {
    config: &'a Config,
    circumstances: Circumstances<'a>,
    /// The line that the session read last: the command that raised a question.
    line: String,
    /// MAIL and RCPT as they were said and accepted.
    commands: Vec<String>,
    message: Option<Composer<'a>>,
    /// Why the message can't be kept.
    failure: Option<Failure>,
}

/// Talks until the client is gone or says QUIT.
pub(super) fn talk(
    config: &Config,
    circumstances: Circumstances<'_>,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
) -> Result<(), Failure> {
    let clock = SystemClock::new();
    let settings = Arc::new(session_settings(config, Service::Local, ListenerTls::None));
    let mut session = Session::new(clock.monotonic(), settings);
    let mut dialogue =
        Dialogue { config, circumstances, line: String::new(), commands: Vec::new(), message: None, failure: None };
    // Dots are the session's business here.
    let mut lines = Lines::new(false);
    loop {
        match session.next() {
            Step::Send(octets) => {
                output.write_all(&octets)?;
                output.flush()?;
            }
            Step::Ask(question) => session.answer(clock.monotonic(), dialogue.answer(question)),
            Step::Body(chunk) => dialogue.body(&chunk),
            Step::Discard => dialogue.message = None,
            Step::NeedInput => {
                let piece = read(input)?;
                if piece.is_empty() {
                    return Ok(());
                }
                let mut line = Vec::with_capacity(piece.len() + 1);
                lines.receive(&piece, &mut line);
                dialogue.line = String::from_utf8_lossy(&line).trim_end().to_owned();
                session.receive(clock.monotonic(), &line);
            }
            Step::Close | Step::StartTls => return Ok(()),
        }
    }
}

/// A line, or as much of a long one as is there.
fn read(input: &mut dyn BufRead) -> Result<Vec<u8>, Failure> {
    let buffer = input.fill_buf()?;
    let end = memchr::memchr(b'\n', buffer).map_or(buffer.len(), |at| at + 1).min(PIECE);
    let piece = buffer[..end].to_vec();
    input.consume(end);
    Ok(piece)
}

impl Dialogue<'_> {
    fn answer(&mut self, question: Question) -> Answer {
        match question {
            Question::Sender { .. } => {
                self.commands = vec![self.line.clone()];
                self.message = None;
                Answer::Accept
            }
            Question::Recipient { .. } => {
                self.commands.push(self.line.clone());
                Answer::Accept
            }
            Question::Begin => match Composer::begin(self.config, self.circumstances.clone()) {
                Ok(message) => {
                    self.message = Some(message);
                    self.failure = None;
                    Answer::Accept
                }
                Err(failure) => refusal(&failure),
            },
            Question::Commit => self.commit(),
            _ => Answer::Accept,
        }
    }

    fn body(&mut self, chunk: &[u8]) {
        let Some(message) = &mut self.message else { return };
        if let Err(failure) = message.receive(chunk) {
            self.message = None;
            self.failure = Some(failure);
        }
    }

    fn commit(&mut self) -> Answer {
        let finished = match (self.message.take(), self.failure.take()) {
            (Some(mut message), None) => message.content_end().map(|_| ()).and_then(|()| message.finish(&self.commands)),
            (_, Some(failure)) => Err(failure),
            (None, None) => return Answer::Accept,
        };
        match finished {
            Ok(name) => Answer::Dropped(name),
            Err(failure) => refusal(&failure),
        }
    }
}

fn refusal(failure: &Failure) -> Answer {
    let text: String = failure.problems.join("; ").chars().map(|c| if (' '..='~').contains(&c) { c } else { '?' }).collect();
    Answer::Refuse(match failure.status {
        super::super::failure::DATA => Reply::new(554, EnhancedCode(5, 6, 0), text),
        _ => Reply::new(451, EnhancedCode(4, 3, 0), text),
    })
}
