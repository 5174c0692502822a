//! Drives `smtp::server::Session` without sockets: answers its questions by a fixed policy and keeps what it accepts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use posthouse::mail::{
    BodyType, DeliverByMode, Domain, EnhancedCode, Hold, QueueId, Reply, Request, Service, Timestamp, TlsInfo, encode_xtext,
};
use posthouse::smtp::server::{Answer, ForwardPath, Mechanism, Question, Secret, Session, Settings, Step};

/// A message that got 250.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub sender: String,
    pub recipients: Vec<String>,
    /// What the parameters asked for.
    pub asked: Vec<String>,
    pub content: Vec<u8>,
}

/// How far a login has come.
#[derive(Debug)]
enum Exchange {
    None,
    Plain,
    Name,
    Password(Vec<u8>),
}

/// A session, its policy and what came of it.
pub(crate) struct Driver {
    pub session: Session,
    pub now: Duration,
    /// Replies, by the name of the question that they answer.
    pub refusals: BTreeMap<&'static str, Reply>,
    sender: String,
    recipients: Vec<String>,
    asked: Vec<String>,
    draft: Option<Vec<u8>>,
    exchange: Exchange,
    /// Who logged in.
    pub login: Option<String>,
    /// Drafts that were begun and dropped.
    pub discarded: usize,
    pub messages: Vec<Received>,
    /// Everything that was sent to the client.
    pub output: Vec<u8>,
    pub closed: bool,
}

/// What the wall clock shows at the start: Sunday, 22 November 2026, 02:00 UTC.
const WALL: Timestamp = Timestamp::from_millis(1_795_312_800_000);

/// The settings that scripts start from.
pub(crate) fn settings() -> Settings {
    let hostname = Domain::parse("mail.example.test").expect("a domain");
    Settings { hold_max: Duration::from_secs(86_400), ..Settings::new(Service::Mx, hostname) }
}

impl Driver {
    pub(crate) fn new(settings: Settings) -> Self {
        let mut session = Session::new(Duration::ZERO, Arc::new(settings));
        session.set_wall_clock(WALL);
        Self {
            session,
            now: Duration::ZERO,
            refusals: BTreeMap::new(),
            sender: String::new(),
            recipients: Vec::new(),
            asked: Vec::new(),
            draft: None,
            exchange: Exchange::None,
            login: None,
            discarded: 0,
            messages: Vec::new(),
            output: Vec::new(),
            closed: false,
        }
    }

    /// Gives the session octets and carries out what it wants.
    pub(crate) fn receive(&mut self, octets: &[u8]) {
        self.session.receive(self.now, octets);
        self.run();
    }

    /// The TLS handshake was made: as the session wished, or before it began.
    pub(crate) fn secure(&mut self) {
        let (version, cipher) = ("TLSv1.3", "TLS_AES_256_GCM_SHA384");
        let tls = TlsInfo { version, cipher, client_names: Vec::new(), exporter: None, end_point: None };
        self.session.secured(self.now, tls);
        self.run();
    }

    /// Carries out steps until the session needs input or ends.
    pub(crate) fn run(&mut self) {
        loop {
            match self.session.next() {
                Step::Send(octets) => self.output.extend_from_slice(&octets),
                Step::Ask(question) => {
                    let answer = self.answer(question);
                    self.session.answer(self.now, answer);
                }
                Step::Body(octets) => {
                    assert!(!octets.is_empty(), "an empty piece of content");
                    self.draft.as_mut().expect("content comes behind Begin").extend_from_slice(&octets);
                }
                Step::Discard => {
                    self.draft.take().expect("only a draft can be dropped");
                    self.discarded += 1;
                }
                // The script says when the handshake is made.
                Step::NeedInput | Step::StartTls => return,
                Step::Close => {
                    assert!(self.draft.is_none(), "a draft was forgotten");
                    self.closed = true;
                    return;
                }
            }
        }
    }

    fn answer(&mut self, question: Question) -> Answer {
        let name = match &question {
            Question::Connect => "connect",
            Question::Presented(_) => "presented",
            Question::Hello { .. } => "hello",
            Question::Sender { .. } => "sender",
            Question::Recipient { .. } => "recipient",
            Question::Login { .. } | Question::Response(_) => "login",
            Question::Begin => "begin",
            Question::Commit => "commit",
        };
        if let Some(reply) = self.refusals.get(name) {
            if name == "commit" {
                self.draft = None;
            }
            return Answer::Refuse(reply.clone());
        }
        match question {
            Question::Connect | Question::Presented(_) | Question::Hello { .. } => Answer::Accept,
            Question::Sender { path, body, request, .. } => {
                self.sender = path.to_string();
                self.recipients.clear();
                self.asked = asked(body, &request.map(|request| *request).unwrap_or_default());
                Answer::Accept
            }
            Question::Recipient { path, dsn } => {
                let dsn = dsn.map(|dsn| *dsn).unwrap_or_default();
                self.asked.extend(dsn.notify.map(|notify| format!("NOTIFY={notify}")));
                self.asked.extend(dsn.orcpt.map(|orcpt| format!("ORCPT={}", orcpt.to_wire())));
                self.recipient(&path)
            }
            Question::Login { mechanism, initial } => self.login(mechanism, initial),
            Question::Response(response) => self.response(&response.0),
            Question::Begin => {
                assert!(self.draft.replace(Vec::new()).is_none(), "one draft at a time");
                Answer::Accept
            }
            Question::Commit => {
                let content = self.draft.take().expect("Commit comes behind Begin");
                let (sender, recipients) = (self.sender.clone(), std::mem::take(&mut self.recipients));
                let asked = std::mem::take(&mut self.asked);
                self.messages.push(Received { sender, recipients, asked, content });
                Answer::Committed(QueueId(self.messages.len() as u64))
            }
        }
    }

    fn login(&mut self, mechanism: Mechanism, initial: Option<Secret>) -> Answer {
        let (exchange, first) = match mechanism {
            Mechanism::Login => (Exchange::Name, "Username:"),
            _ => (Exchange::Plain, ""),
        };
        self.exchange = exchange;
        match initial {
            Some(initial) => self.response(&initial.0),
            None => Answer::Challenge(first.into()),
        }
    }

    /// Ann logs in with the password "secret", and nobody else.
    fn response(&mut self, response: &[u8]) -> Answer {
        let claim = match std::mem::replace(&mut self.exchange, Exchange::None) {
            Exchange::Plain => response.to_vec(),
            Exchange::Name => {
                self.exchange = Exchange::Password([b"\0", response, b"\0"].concat());
                return Answer::Challenge(b"Password:".to_vec());
            }
            Exchange::Password(name) => [&name[..], response].concat(),
            Exchange::None => panic!("a response, and nothing was asked"),
        };
        if claim == b"\0ann\0secret" {
            self.login = Some("ann".to_owned());
            return Answer::Accept;
        }
        Answer::Refuse(Reply::new(535, EnhancedCode(5, 7, 8), "Authentication credentials invalid"))
    }

    /// Ann, bob and postmaster live here, all others are unknown, and nobody may relay.
    fn recipient(&mut self, path: &ForwardPath) -> Answer {
        if let ForwardPath::Address(address) = path {
            if address.domain().as_str() != "example.test" {
                let text = format!("No relaying to {}", address.domain());
                return Answer::Refuse(Reply::new(550, EnhancedCode(5, 7, 1), text));
            }
            let local = address.local().to_ascii_lowercase();
            if !["ann", "bob", "postmaster"].contains(&local.as_str()) {
                return Answer::Refuse(Reply::new(550, EnhancedCode(5, 1, 1), format!("No such user: {}", address.local())));
            }
        }
        self.recipients.push(path.to_string());
        Answer::Accept
    }
}

/// What MAIL's parameters came to, in a fixed order.
fn asked(body: BodyType, request: &Request) -> Vec<String> {
    let mut asked = Vec::new();
    if body != BodyType::SevenBit {
        asked.push(format!("BODY={}", body.as_str()));
    }
    for (given, name) in [(request.smtputf8, "SMTPUTF8"), (request.require_tls, "REQUIRETLS")] {
        asked.extend(given.then(|| name.to_owned()));
    }
    asked.extend(request.ret.map(|ret| format!("RET={}", ret.as_str())));
    asked.extend(request.envid.as_ref().map(|envid| format!("ENVID={}", encode_xtext(envid.as_str()))));
    asked.extend(request.deliver_by.map(|by| {
        let mode = if by.mode == DeliverByMode::Return { "R" } else { "N" };
        format!("BY={};{mode}{}", by.seconds, if by.trace { "T" } else { "" })
    }));
    asked.extend(request.hold.map(|hold| match hold {
        Hold::For(seconds) => format!("HOLDFOR={seconds}"),
        Hold::Until(time) => format!("HOLDUNTIL={time}"),
    }));
    asked.extend(request.priority.map(|priority| format!("MT-PRIORITY={priority}")));
    asked
}
