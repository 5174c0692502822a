//! The real binary as a child process: started in a home, its log read as events, its command line run beside it.

use std::net::SocketAddr;
use std::process::{Command, ExitStatus, Output};
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;

use super::PATIENCE;
use super::client::Client;
use super::home::Home;
use super::process::Process;

/// A server.
pub struct Server {
    process: Process,
    address: Option<SocketAddr>,
}

/// A command of the binary, in a home.
pub fn posthouse(home: &Home) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_posthouse"));
    at_home(&mut command, home);
    command
}

/// Runs in the home, and without settings of the tests themselves.
fn at_home(command: &mut Command, home: &Home) {
    without_settings(command.current_dir(home.path()));
}

/// Takes the tests' own settings out of a program's environment: the binary, which it may call, would take them for its own.
pub fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("POSTHOUSE_") {
            command.env_remove(name);
        }
    }
}

/// Runs a command of the binary to its end.
pub fn run(home: &Home, arguments: &[&str]) -> Output {
    posthouse(home).args(arguments).output().expect("the binary runs")
}

/// The lines of a `--json` listing.
pub fn listing(home: &Home, arguments: &[&str]) -> Vec<Value> {
    let output = run(home, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    let text = String::from_utf8(output.stdout).expect("a listing is UTF-8");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

/// Waits until the control socket of a server that has just started answers.
pub fn wait_for_control(home: &Home) {
    let deadline = Instant::now() + PATIENCE;
    // 69: the server has the spool, but doesn't answer yet.
    while run(home, &["queue", "list", "--limit", "1", "--json"]).status.code() == Some(69) {
        assert!(Instant::now() < deadline, "the control socket doesn't answer in time");
    }
}

/// Text of an event's field.
pub fn field<'a>(event: &'a Value, name: &str) -> &'a str {
    event.get(name).and_then(Value::as_str).unwrap_or("")
}

impl Server {
    /// Starts a server and waits until it takes mail.
    pub fn start(home: &Home) -> Self {
        let mut server = Self::launch(home);
        server.wait_until_listening();
        server
    }

    /// Starts a server and doesn't wait for anything.
    pub fn launch(home: &Home) -> Self {
        Self::launch_with(home, |_| {})
    }

    /// The same with something added to the command.
    pub fn launch_with(home: &Home, prepare: impl FnOnce(&mut Command)) -> Self {
        let mut command = posthouse(home);
        prepare(command.arg("serve"));
        Self { process: Process::start("posthouse", &mut command), address: None }
    }

    /// The same by another program, which `wrap` makes for the binary's path.
    pub fn launch_within(home: &Home, wrap: impl FnOnce(&std::ffi::OsStr) -> Command) -> Self {
        let mut command = wrap(posthouse(home).get_program());
        at_home(&mut command, home);
        Self { process: Process::start("posthouse", &mut command), address: None }
    }

    /// Waits until it takes mail.
    pub fn wait_until_listening(&mut self) {
        let address = self.event("listening", |event| field(event, "service") == "mx");
        self.address = Some(field(&address, "address").parse().expect("an address"));
        self.event("started", |_| true);
    }

    /// Where it takes mail.
    pub fn address(&self) -> SocketAddr {
        self.address.expect("the server listens")
    }

    /// A connection to it, greeted and introduced.
    pub fn client(&self) -> Client {
        Client::open(self.address()).expect("the server takes a connection")
    }

    /// The child process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The first event of this name for which `fits` is true: one that was, or one to come.
    pub fn event(&self, name: &str, mut fits: impl FnMut(&Value) -> bool) -> Value {
        self.process.output().wait(&format!("the event {name}"), PATIENCE, |line| {
            let event = parse(line)?;
            (field(&event, "event") == name && fits(&event)).then_some(event)
        })
    }

    /// All events of this name so far: whatever the server did before the call is among them.
    pub fn events(&self, name: &str) -> Vec<Value> {
        self.all_events().into_iter().filter(|event| field(event, "event") == name).collect()
    }

    /// All events so far.
    pub fn all_events(&self) -> Vec<Value> {
        self.process.output().lines().iter().filter_map(|line| parse(line)).collect()
    }

    /// Waits until a message with one destination waits: its recipients were tried, or put off because the destination is down.
    pub fn put_off(&self, id: &str) {
        let state = |event: &Value| ["deferred", "postponed"].contains(&field(event, "event")) && field(event, "id") == id;
        self.process.output().wait(&format!("{id} being put off"), PATIENCE, |line| parse(line).filter(state));
    }

    /// Waits until a message, and every recipient of it, is delivered to somebody.
    pub fn delivered(&self, id: &str, to: &str) -> Value {
        self.event("delivered", |event| field(event, "id") == id && field(event, "to") == to)
    }

    /// Waits until nothing remains to be done for a message.
    pub fn finished(&self, id: &str) {
        self.event("finished", |event| field(event, "id") == id);
    }

    /// The id of the message accepted as number `number`, counted from 0; waits for it.
    pub fn accepted(&self, number: usize) -> Value {
        let mut seen = 0;
        self.event("accepted", |_| {
            seen += 1;
            seen > number
        })
    }

    /// Stops it as systemd does, and says how it ended.
    pub fn stop(&mut self) -> ExitStatus {
        self.process.signal(Signal::TERM);
        self.process.wait(PATIENCE)
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

fn parse(line: &str) -> Option<Value> {
    line.starts_with('{').then(|| serde_json::from_str(line).ok()).flatten()
}
