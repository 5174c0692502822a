//! Dialogues with the SMTP server's session: every script in this folder, with the client's octets cut up in three ways;
//! and random dialogues that must not depend on how they are cut.

mod driver;
mod properties;
mod script;

use std::fmt::Write as _;
use std::path::Path;

use driver::Driver;
use script::{Action, Check, Script};

/// How the client's octets reach the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// What stands between two expectations comes at once.
    Groups,
    /// Every octet comes alone.
    Octets,
    /// Everything comes at once, without waiting for any reply. Only for scripts in which nothing else happens.
    All,
}

/// Scripts may be added but none may get lost unseen.
const SCRIPTS_MIN: usize = 100;

#[test]
fn every_dialogue_goes_as_scripted() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    let mut failures = String::new();
    let mut count = 0;
    for path in paths {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        for script in script::read(&file, &std::fs::read_to_string(&path).unwrap()) {
            count += 1;
            for cut in [Cut::Groups, Cut::Octets, Cut::All] {
                if cut == Cut::All && !script.can_come_at_once() {
                    continue;
                }
                if let Err(failure) = run(&script, cut) {
                    writeln!(failures, "{file}, cut {cut:?}: {}\n{failure}\n", script.title).unwrap();
                }
            }
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
    assert!(count >= SCRIPTS_MIN, "only {count} scripts were found");
}

impl Script {
    fn can_come_at_once(&self) -> bool {
        !self.actions.iter().any(|(_, action)| {
            matches!(action, Action::Early(_) | Action::Wait(_) | Action::Stop | Action::Secure | Action::Trust)
        })
    }

    /// Index of the last action that sends.
    fn last_send(&self) -> usize {
        self.actions.iter().rposition(|(_, action)| matches!(action, Action::Send(_))).unwrap_or(0)
    }
}

/// A run: the driver, and how much of its output was expected so far.
struct Run {
    driver: Driver,
    cut: Cut,
    read: usize,
    /// Octets of the group that isn't sent yet.
    group: Vec<u8>,
}

fn run(script: &Script, cut: Cut) -> Result<(), String> {
    let mut driver = Driver::new(script.settings.clone());
    driver.refusals.extend(script.refusals.iter().cloned());
    let mut run = Run { driver, cut, read: 0, group: Vec::new() };
    if cut == Cut::All {
        run.driver.run();
        let sent =
            script.actions.iter().filter_map(|(_, action)| if let Action::Send(octets) = action { Some(octets) } else { None });
        // Drivers feed at most 64 KiB at once.
        for piece in sent.flatten().copied().collect::<Vec<u8>>().chunks(64 * 1024) {
            run.driver.receive(piece);
        }
    }
    let last_send = script.last_send();
    for (index, (number, action)) in script.actions.iter().enumerate() {
        let looks_ahead = cut == Cut::All && index < last_send && matches!(action, Action::Check(_));
        if !looks_ahead {
            run.action(action).map_err(|failure| format!("  {}:{number}: {failure}", script.file))?;
        }
    }
    run.flush()?;
    run.nothing_unread().map_err(|failure| format!("  {}, at the end of the script: {failure}", script.file))
}

impl Run {
    fn action(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Send(octets) => {
                if self.cut != Cut::All {
                    self.group.extend_from_slice(octets);
                }
            }
            Action::Early(octets) => self.driver.session.receive(self.driver.now, octets),
            Action::Expect(expected) => {
                self.flush()?;
                let line = self.line()?;
                let right = expected.strip_suffix('…').map_or(line == *expected, |start| line.starts_with(start));
                if !right {
                    return Err(format!("expected {expected:?}, got {line:?}"));
                }
            }
            Action::ExpectReply(code) => {
                self.flush()?;
                let last = format!("{code} ");
                loop {
                    let line = self.line()?;
                    if line.starts_with(&last) {
                        break;
                    }
                    if !line.starts_with(&format!("{code}-")) {
                        return Err(format!("expected a reply {code}, got {line:?}"));
                    }
                }
            }
            Action::Check(check) => {
                self.flush()?;
                self.check(check)?;
            }
            Action::Wait(wait) => {
                self.flush()?;
                self.driver.now += *wait;
                self.driver.session.tick(self.driver.now);
                self.driver.run();
            }
            Action::Trust => self.driver.session.trust(),
            Action::Secure => {
                self.flush()?;
                self.driver.secure();
            }
            Action::Stop => {
                self.flush()?;
                self.driver.session.stop();
                self.driver.run();
            }
        }
        Ok(())
    }

    /// Sends the group, if there is one; before that everything must have been read.
    fn flush(&mut self) -> Result<(), String> {
        self.driver.run();
        let group = std::mem::take(&mut self.group);
        if group.is_empty() {
            return Ok(());
        }
        self.nothing_unread()?;
        let size = if self.cut == Cut::Octets { 1 } else { 64 * 1024 };
        group.chunks(size).for_each(|piece| self.driver.receive(piece));
        Ok(())
    }

    fn nothing_unread(&self) -> Result<(), String> {
        let unread = &self.driver.output[self.read..];
        if unread.is_empty() { Ok(()) } else { Err(format!("not expected: {:?}", String::from_utf8_lossy(unread))) }
    }

    /// The next line of output.
    fn line(&mut self) -> Result<String, String> {
        let unread = &self.driver.output[self.read..];
        let end = unread.windows(2).position(|pair| pair == b"\r\n").ok_or("expected a reply, got none")?;
        self.read += end + 2;
        Ok(String::from_utf8_lossy(&unread[..end]).into_owned())
    }

    fn check(&self, check: &Check) -> Result<(), String> {
        let messages = &self.driver.messages;
        let last = messages.last();
        match check {
            Check::Closed => same(&true, &self.driver.closed),
            Check::Open => same(&false, &self.driver.closed),
            Check::Messages(count) => same(count, &messages.len()),
            Check::Discarded(count) => same(count, &self.driver.discarded),
            Check::Content(content) => {
                let found = last.map(|message| message.content.escape_ascii().to_string()).unwrap_or_default();
                same(&content.escape_ascii().to_string(), &found)
            }
            Check::Size(size) => same(&Some(*size), &last.map(|message| message.content.len())),
            Check::Sender(sender) => same(&Some(sender), &last.map(|message| &message.sender)),
            Check::Login(login) => same(login, &self.driver.login),
            Check::Recipients(recipients) => same(&Some(recipients), &last.map(|message| &message.recipients)),
            Check::Asked(asked) => same(&Some(asked), &last.map(|message| &message.asked)),
        }
    }
}

fn same<T: PartialEq + std::fmt::Debug>(expected: &T, found: &T) -> Result<(), String> {
    if expected == found { Ok(()) } else { Err(format!("expected {expected:?}, found {found:?}")) }
}
