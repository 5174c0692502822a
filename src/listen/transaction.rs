//! One session's current mail transaction: carries the machine's questions to policy and spool, and streams the content in.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::login::Login;
use super::{Reception, Rules};
use crate::event::{Event, Named};
use crate::mail::{
    Address, BodyType, DsnRequest, EnhancedCode, Forward, HeaderScan, Message, Protocol, Recipient, Reply, Request, ReversePath,
    Service, Timestamp, TlsInfo, TraceField,
};
use crate::policy::Client;
use crate::smtp::server::{Answer, ForwardPath, Presented, Question};
use crate::spool::{Accept, Draft, SpoolError};

/// As much of a header block is looked at; octets.
const HEADER_SIZE_MAX: usize = 256 * 1024;

/// What the session has said and got accepted so far.
pub(super) struct Transaction<'a> {
    pub(super) reception: &'a Reception,
    pub(super) rules: &'a Arc<Rules>,
    pub(super) client: Client,
    /// An exchange that AUTH began.
    pub(super) login: Option<Login>,
    envelope: Envelope,
    /// The envelope's recipients again, for finding doubles.
    known: BTreeSet<Address>,
    content: Option<Incoming>,
    messages: u64,
}

struct Envelope {
    reverse_path: ReversePath,
    body: BodyType,
    request: Option<Box<Request>>,
    /// When MAIL came: times that the request names count from there.
    mail_at: Timestamp,
    recipients: Vec<Forward>,
}

impl Envelope {
    fn new(mail_at: Timestamp) -> Self {
        let (reverse_path, body) = (ReversePath::Null, BodyType::SevenBit);
        Self { reverse_path, body, request: None, mail_at, recipients: Vec::new() }
    }

    /// What was asked for, as it reads at the message's arrival.
    fn request_at(&self, arrived: Timestamp) -> Option<Box<Request>> {
        let elapsed = arrived.since(self.mail_at).as_secs();
        self.request.as_ref().map(|request| Box::new(request.later(elapsed)))
    }
}

/// Content on its way in. After a failed write it only remembers why.
struct Incoming {
    draft: Option<Draft>,
    header: HeaderScan,
    failure: Option<Reply>,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(reception: &'a Reception, rules: &'a Arc<Rules>, service: Service, address: IpAddr) -> Self {
        let client = Client { service, address, helo: String::new(), extended: false, login: None, tls: None };
        let envelope = Envelope::new(Timestamp::ZERO);
        Self { reception, rules, client, login: None, envelope, known: BTreeSet::new(), content: None, messages: 0 }
    }

    /// The session is encrypted from here on, and knows nothing of what was said in the clear (RFC 3207 section 4.2).
    pub(super) fn secured(&mut self, tls: TlsInfo) {
        let Client { service, address, .. } = self.client;
        self.login = None;
        self.client = Client { service, address, helo: String::new(), extended: false, login: None, tls: Some(tls) };
    }

    /// The client is another one's go-between, and that one's session begins here.
    fn presented(&mut self, presented: Presented) {
        let by = self.client.address;
        let Presented { address, login, .. } = presented;
        self.login = None;
        self.client.address = address.unwrap_or(by);
        self.client.login = login.unwrap_or(self.client.login.take());
        (self.client.helo, self.client.extended) = (String::new(), false);
        let (client, login) = (self.client.address, self.client.login.clone());
        self.reception.events.report(Event::Presented { client, by, means: "XCLIENT", login });
    }

    /// Messages accepted in this session.
    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    /// Answers one question of the session.
    pub(super) async fn answer(&mut self, question: Question) -> Answer {
        let answer = match question {
            Question::Connect => Ok(()),
            Question::Presented(presented) => {
                self.presented(presented);
                Ok(())
            }
            Question::Hello { name, extended } => {
                self.client.helo = name;
                self.client.extended = extended;
                self.rules.policy.hello(&self.client).map_err(|reply| self.refused("hello", None, reply))
            }
            Question::Sender { path, size, body, request } => {
                let recipients = Vec::new();
                let mail_at = self.reception.system.clock.now();
                let envelope = Envelope { reverse_path: path, body, request, mail_at, recipients };
                self.sender(envelope, size).map_err(|reply| self.refused("sender", None, reply))
            }
            Question::Recipient { path, dsn } => self.recipient(path, dsn),
            Question::Login { mechanism, initial } => return self.login(mechanism, initial).await,
            Question::Response(response) => return self.response(&response).await,
            Question::Begin => self.begin().await.map_err(|reply| self.refused("data", None, reply)),
            Question::Commit => match self.commit().await {
                Ok(message) => return Answer::Committed(message.id),
                Err(reply) => Err(self.refused("message", None, reply)),
            },
        };
        match answer {
            Ok(()) => Answer::Accept,
            Err(reply) => Answer::Refuse(reply),
        }
    }

    /// Logs a refusal on its way to the client.
    fn refused(&self, stage: &'static str, to: Option<Address>, reply: Reply) -> Reply {
        self.reception.events.report(Event::Refused {
            id: None,
            stage,
            client: self.client.address,
            helo: self.client.helo.clone(),
            from: (stage != "hello").then(|| self.envelope.reverse_path.clone()),
            to,
            reply: reply.to_string(),
        });
        reply
    }

    fn sender(&mut self, envelope: Envelope, size: Option<u64>) -> Result<(), Reply> {
        self.content = None;
        self.known.clear();
        self.envelope = envelope;
        self.rules.policy.sender(&self.client, &self.envelope.reverse_path, size)?;
        self.reception.space().map_err(|error| spool_reply(&error))
    }

    fn recipient(&mut self, path: ForwardPath, dsn: Option<Box<DsnRequest>>) -> Result<(), Reply> {
        let already = self.envelope.recipients.len();
        let answer = self.rules.policy.recipient(&self.client, &self.envelope.reverse_path, &path, already);
        let address = answer.map_err(|reply| {
            let to = match path {
                ForwardPath::Address(address) => Some(address),
                ForwardPath::Postmaster => None,
            };
            self.refused("recipient", to, reply)
        })?;
        // The same recipient twice is one delivery.
        if self.known.insert(address.clone()) {
            self.envelope.recipients.push(Forward { address, dsn });
        }
        Ok(())
    }

    /// Opens a draft and puts our trace field on top of it.
    async fn begin(&mut self) -> Result<(), Reply> {
        let mut draft = self.reception.spool.begin().map_err(|error| spool_reply(&error))?;
        let trace = self.trace_field(&draft);
        draft.write(trace.as_bytes()).await.map_err(|error| spool_reply(&error))?;
        self.content = Some(Incoming { draft: Some(draft), header: HeaderScan::new(HEADER_SIZE_MAX), failure: None });
        Ok(())
    }

    fn trace_field(&self, draft: &Draft) -> String {
        let recipient = match &self.envelope.recipients[..] {
            [only] => Some(&only.address),
            _ => None,
        };
        let field = TraceField {
            helo: &self.client.helo,
            client: self.client.address,
            hostname: &self.rules.config.hostname,
            protocol: self.protocol(),
            tls: self.client.tls.as_ref(),
            logged_in: self.client.login.is_some(),
            id: draft.id(),
            recipient,
            at: self.reception.system.clock.now(),
        };
        field.to_header()
    }

    /// Takes the next piece of content. What can't be kept is told at the end, when the client listens again.
    pub(super) async fn body(&mut self, chunk: &[u8]) {
        let Some(content) = &mut self.content else { return };
        content.header.receive(chunk);
        let Some(draft) = &mut content.draft else { return };
        if let Err(error) = draft.write(chunk).await {
            content.failure = Some(spool_reply(&error));
            content.draft = None;
        }
    }

    /// Forgets the content: too large, or malformed.
    pub(super) fn discard(&mut self) {
        self.content = None;
    }

    async fn commit(&mut self) -> Result<Message, Reply> {
        let Some(content) = self.content.take() else {
            return Err(Reply::new(451, EnhancedCode(4, 3, 0), "No message to keep"));
        };
        self.rules.policy.message(&content.header)?;
        let draft = match (content.draft, content.failure) {
            (Some(draft), None) => draft,
            (_, failure) => {
                return Err(failure.unwrap_or_else(|| Reply::new(451, EnhancedCode(4, 3, 0), "The message could not be kept")));
            }
        };
        let arrived = self.reception.system.clock.now();
        let recipients = std::mem::take(&mut self.envelope.recipients);
        let accept = Accept {
            arrived,
            reverse_path: self.envelope.reverse_path.clone(),
            body: self.envelope.body,
            request: self.envelope.request_at(arrived),
            recipients: recipients
                .into_iter()
                .map(|to| Recipient { dsn: to.dsn, ..Recipient::new(to.address, None, arrived) })
                .collect(),
            updates: Vec::new(),
        };
        let message = draft.commit(accept).await.map_err(|error| spool_reply(&error))?;
        self.committed(&message);
        Ok(message)
    }

    fn protocol(&self) -> Protocol {
        if self.client.extended { Protocol::Esmtp } else { Protocol::Smtp }
    }

    fn committed(&mut self, message: &Message) {
        self.messages += 1;
        self.reception.events.report(Event::Accepted {
            id: message.id,
            from: message.reverse_path.clone(),
            to: Named::new(message.recipients.iter().map(|recipient| &recipient.address)),
            recipients: message.recipients.len(),
            size: message.size,
            client: self.client.address,
            helo: self.client.helo.clone(),
            login: self.client.login.clone(),
            protocol: self.protocol().keyword(self.client.tls.is_some(), self.client.login.is_some()),
            tls: self.client.tls.as_ref().map(|tls| tls.version),
            cipher: self.client.tls.as_ref().map(|tls| tls.cipher),
        });
        // When the queue is busy the message waits in the index: memory stays bounded.
        if self.reception.accepted.try_send((message.id, message.arrived)).is_err() {
            self.reception.spool.park(message.id, message.arrived);
            self.reception.overflow.notify_one();
        }
    }
}

/// What a client is told when the spool can't keep its mail: always to try again.
fn spool_reply(error: &SpoolError) -> Reply {
    match error {
        SpoolError::Full => Reply::new(452, EnhancedCode(4, 3, 1), "Not enough disk space, try again later"),
        _ => Reply::new(451, EnhancedCode(4, 3, 0), "The message could not be stored, try again later"),
    }
}
