//! What a scripted mail server does at each stage of a session.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// A moment in a session at which the server may do something else than usual.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The connection was made.
    Greeting,
    /// EHLO or LHLO.
    Ehlo,
    /// HELO.
    Helo,
    /// STARTTLS, of a server with TLS; behind a positive reply it makes the handshake.
    StartTls,
    /// AUTH with PLAIN or LOGIN, once all is said; it believes every password.
    Auth,
    /// MAIL.
    Mail,
    /// RCPT with this address, as in the command; before `AnyRecipient`.
    Recipient(String),
    /// RCPT.
    AnyRecipient,
    /// DATA.
    Data,
    /// The first octets of the content came.
    Content,
    /// A chunk that isn't the last came.
    Chunk,
    /// The final dot, or the last chunk.
    End,
    /// The same, in LMTP, for this recipient; before `End`.
    EndFor(String),
    /// RSET.
    Rset,
    /// QUIT.
    Quit,
}

/// What the server does at a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// The usual: the positive reply.
    Usual,
    /// Says this instead; `\r\n` is added. A negative reply to the final dot means that the message isn't taken.
    Say(String),
    /// Says this, then closes the connection.
    SayAndClose(String),
    /// Closes the connection without a word.
    Close,
    /// Says nothing and keeps the connection open, for ever.
    Stall,
    /// The usual, but only after so long.
    Slow(Duration),
    /// At the final dot: takes the message, then closes without a word.
    TakeAndClose,
}

impl Act {
    /// `Act::Say`.
    pub fn say(text: &str) -> Self {
        Self::Say(text.to_owned())
    }
}

/// A server's behaviour: a friendly server by default.
#[derive(Clone, Debug)]
pub struct Script {
    /// Speaks LMTP: LHLO, and a reply for each recipient at the end.
    pub lmtp: bool,
    /// Its name in greeting and hello.
    pub name: String,
    /// The lines of its reply to EHLO.
    pub extensions: Vec<String>,
    once: BTreeMap<Stage, VecDeque<Act>>,
    always: BTreeMap<Stage, Act>,
}

impl Default for Script {
    fn default() -> Self {
        let extensions = ["PIPELINING", "SIZE 52428800", "8BITMIME", "ENHANCEDSTATUSCODES"];
        Self {
            lmtp: false,
            name: "peer.test".to_owned(),
            extensions: extensions.map(str::to_owned).into(),
            once: BTreeMap::new(),
            always: BTreeMap::new(),
        }
    }
}

impl Script {
    /// A friendly LMTP server.
    pub fn lmtp() -> Self {
        Self { lmtp: true, ..Self::default() }
    }

    /// A server with exactly these extensions: the lines of its reply to EHLO.
    pub fn offering(extensions: &[&str]) -> Self {
        Self { extensions: extensions.iter().map(|&line| line.to_owned()).collect(), ..Self::default() }
    }

    /// Without extensions: every command waits for its reply.
    pub fn plain() -> Self {
        Self { extensions: Vec::new(), ..Self::default() }
    }

    /// From now on, and on all connections, does this at the stage.
    pub fn always(mut self, stage: Stage, act: Act) -> Self {
        self.set_always(stage, act);
        self
    }

    /// The next time does this at the stage; several are done one after the other, before what is done always.
    pub fn once(mut self, stage: Stage, act: Act) -> Self {
        self.set_once(stage, act);
        self
    }

    /// `always`, on a script in use.
    pub fn set_always(&mut self, stage: Stage, act: Act) {
        self.always.insert(stage, act);
    }

    /// `once`, on a script in use.
    pub fn set_once(&mut self, stage: Stage, act: Act) {
        self.once.entry(stage).or_default().push_back(act);
    }

    /// What is to be done now; `None`: nothing is written down for this stage.
    pub(super) fn take(&mut self, stage: &Stage) -> Option<Act> {
        let once = self.once.get_mut(stage).and_then(VecDeque::pop_front);
        once.or_else(|| self.always.get(stage).cloned())
    }
}
