//! A child process in a process group of its own, its output read line by line, gone when the guard is dropped.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::ioctl_fionread;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// A running program, and all it started.
pub struct Process {
    name: String,
    child: Child,
    /// Kills the group should this test process be killed itself: it reads from a pipe that only we hold open.
    guard: Option<Child>,
    status: Option<ExitStatus>,
    output: Output,
}

/// The lines that a process wrote so far, on both outputs. Readers wait for a line to appear.
#[derive(Clone, Default)]
pub struct Output(Arc<(Mutex<Lines>, Condvar)>);

#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    streams: Vec<Stream>,
}

/// One of the outputs, read under the lock only: so that it can be told whether all that was written is here.
struct Stream {
    pipe: Arc<File>,
    taken: u64,
    open: bool,
}

impl Lines {
    fn ended(&self) -> bool {
        self.streams.iter().all(|stream| !stream.open)
    }
}

impl Stream {
    /// How much will have been taken when all that was written until now is.
    fn written(&self) -> u64 {
        self.taken + if self.open { ioctl_fionread(&self.pipe).unwrap_or(0) } else { 0 }
    }
}

impl Process {
    /// Starts the program. Whatever it writes is collected.
    pub fn start(name: &str, command: &mut Command) -> Self {
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn();
        let mut child = spawned.unwrap_or_else(|e| panic!("{name} can't be started: {e}"));
        let guard = Command::new("sh")
            .args(["-c", "read _; kill -s KILL -- \"-$0\"", &child.id().to_string()])
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .ok();
        let output = Output::default();
        output.read(child.stdout.take().expect("piped"));
        output.read(child.stderr.take().expect("piped"));
        Self { name: name.to_owned(), child, guard, status: None, output }
    }

    /// What it wrote.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn as_pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends the program a signal; the rest of its group gets none.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.as_pid(), signal).unwrap_or_else(|e| panic!("{} can't be sent {signal:?}: {e}", self.name));
    }

    /// Waits until the program has ended by itself.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended() {
                self.output.wait_until_closed(deadline);
                return status;
            }
            assert!(Instant::now() < deadline, "{} has not ended in time; it wrote:\n{}", self.name, self.output.text());
            thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("a child can be waited for");
        }
        self.status
    }

    /// kill -9, for it and all that it started.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            // The group may be gone already; then there is nothing to kill.
            let _ = kill_process_group(self.as_pid(), Signal::KILL);
            self.status = self.child.wait().ok();
        }
        self.dismiss_guard();
    }

    fn dismiss_guard(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            let _ = guard.kill();
            let _ = guard.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            let _ = kill_process(self.as_pid(), Signal::TERM);
            let deadline = Instant::now() + Duration::from_secs(5);
            while self.ended().is_none() && Instant::now() < deadline {
                thread::park_timeout(Duration::from_millis(2));
            }
        }
        // Also when the program has ended: what it started may still be there.
        let _ = kill_process_group(self.as_pid(), Signal::KILL);
        if self.status.is_none() {
            let _ = self.child.wait();
        }
        self.dismiss_guard();
        if thread::panicking() {
            eprintln!("--- what {} wrote:\n{}", self.name, self.output.tail(60));
        }
    }
}

impl Output {
    fn read(&self, stream: impl Into<OwnedFd>) {
        let pipe = Arc::new(File::from(stream.into()));
        let index = {
            let mut lines = self.lock();
            lines.streams.push(Stream { pipe: Arc::clone(&pipe), taken: 0, open: true });
            lines.streams.len() - 1
        };
        let this = self.clone();
        thread::spawn(move || {
            let mut rest = Vec::new();
            while this.take(index, &pipe, &mut rest) {}
        });
    }

    /// Waits until there is more, and takes it. False at its end.
    fn take(&self, index: usize, mut pipe: &File, rest: &mut Vec<u8>) -> bool {
        // It doesn't fail but for a signal.
        while poll(&mut [PollFd::new(&pipe, PollFlags::IN)], None).is_err() {}
        let mut piece = [0; 16 * 1024];
        let mut lines = self.lock();
        let size = pipe.read(&mut piece).unwrap_or(0);
        lines.streams[index].taken += size as u64;
        lines.streams[index].open = size > 0;
        rest.extend_from_slice(&piece[..size]);
        if size == 0 && !rest.is_empty() {
            rest.push(b'\n');
        }
        while let Some(end) = rest.iter().position(|octet| *octet == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            lines.lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        drop(lines);
        self.0.1.notify_all();
        size > 0
    }

    /// A test that fails while it waits leaves the lock poisoned; the lines are right all the same.
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the first line, from the beginning or yet to come, in which `find` finds something.
    pub fn wait<T>(&self, what: &str, patience: Duration, mut find: impl FnMut(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + patience;
        let mut seen = 0;
        let mut lines = self.lock();
        loop {
            while seen < lines.lines.len() {
                if let Some(found) = find(&lines.lines[seen]) {
                    return found;
                }
                seen += 1;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || lines.ended() {
                let from = lines.lines.len().saturating_sub(60);
                let why = if left.is_zero() { "in time" } else { "before the program ended" };
                panic!("did not see {what} {why}; the last lines were:\n{}", lines.lines[from..].join("\n"));
            }
            lines = self.0.1.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn wait_until_closed(&self, deadline: Instant) {
        let mut lines = self.lock();
        // A program's children may keep its outputs open: what they write is nothing to wait long for.
        while !lines.ended() && Instant::now() < deadline {
            lines = self.0.1.wait_timeout(lines, Duration::from_millis(50)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// All lines that were written before the call, whoever has read them by then.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = self.lock();
        let written: Vec<u64> = lines.streams.iter().map(Stream::written).collect();
        while lines.streams.iter().zip(&written).any(|(stream, written)| stream.open && stream.taken < *written) {
            lines = self.0.1.wait(lines).unwrap_or_else(PoisonError::into_inner);
        }
        lines.lines.clone()
    }

    /// All lines so far, as one text.
    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    fn tail(&self, count: usize) -> String {
        let lines = self.lines();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }
}
