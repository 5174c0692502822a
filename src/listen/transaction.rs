//! One session's current mail transaction: carries the machine's questions to policy and spool, and streams the content in.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::in_flight::Load;
use super::limits::{self, Refusal};
use super::login::Login;
use super::{Reception, Rules};
use crate::event::{Event, Named};
use crate::mail::{
    Address, BodyType, DsnRequest, EnhancedCode, Forward, HeaderScan, Message, Origin, Protocol, QueueId, Recipient, Reply,
    Request, ReversePath, Service, Submitted, Timestamp, TlsInfo, TraceField,
};
use crate::policy::Client;
use crate::smtp::server::{Answer, ForwardPath, Presented, Question};
use crate::spool::{Accept, Draft, SpoolError};

/// As much of a header block is looked at; octets.
const HEADER_SIZE_MAX: usize = 256 * 1024;

/// What an accepted recipient takes of memory besides its address, roughly; octets.
const RECIPIENT_SIZE: usize = 256;
/// And what it takes if notices were asked for.
const DSN_SIZE: usize = 640;
/// Among so many recipients doubles are found without a set.
const FEW: usize = 16;

/// What the session has said and got accepted so far.
pub(super) struct Transaction<'a> {
    pub(super) reception: &'a Reception,
    pub(super) rules: &'a Arc<Rules>,
    pub(super) client: Client,
    /// An exchange that AUTH began.
    pub(super) login: Option<Login>,
    envelope: Envelope,
    /// The envelope's recipients beyond the first few again, for finding doubles.
    known: BTreeSet<Address>,
    content: Option<Incoming>,
    /// What the transaction takes of `limits.in_flight`.
    load: Load,
    messages: u64,
}

struct Envelope {
    reverse_path: ReversePath,
    body: BodyType,
    request: Option<Box<Request>>,
    /// What MAIL declared of it.
    size: Option<u64>,
    /// When MAIL came: times that the request names count from there.
    mail_at: Timestamp,
    recipients: Vec<Forward>,
}

impl Envelope {
    fn new(mail_at: Timestamp) -> Self {
        let (reverse_path, body) = (ReversePath::Null, BodyType::SevenBit);
        Self { reverse_path, body, request: None, size: None, mail_at, recipients: Vec::new() }
    }

    /// What the spool gets. What was asked for reads as it does at the message's arrival: time has passed since MAIL.
    fn accept(&mut self, arrived: Timestamp, origin: Option<Origin>) -> Accept {
        let elapsed = arrived.since(self.mail_at).as_secs();
        let request = self.request.as_ref().map(|request| Box::new(request.later(elapsed)));
        let released_at = request.as_ref().map_or(arrived, |request| request.released_at(arrived));
        let recipient = |to: Forward| Recipient { dsn: to.dsn, ..Recipient::new(to.address, None, released_at) };
        let recipients = std::mem::take(&mut self.recipients).into_iter().map(recipient).collect();
        let (reverse_path, body) = (self.reverse_path.clone(), self.body);
        Accept { arrived, reverse_path, body, request, origin, recipients, updates: Vec::new() }
    }
}

/// Content on its way in. After a failed write it only remembers why.
struct Incoming {
    draft: Option<Draft>,
    header: HeaderScan,
    /// Completes what our own users submit.
    submitted: Option<Submitted>,
    failure: Option<Reply>,
}

impl Incoming {
    async fn write(&mut self, octets: &[u8]) {
        let Some(draft) = &mut self.draft else { return };
        if let Err(error) = draft.write(octets).await {
            self.failure = Some(spool_reply(&error));
            self.draft = None;
        }
    }
}

/// The bounds on what is in flight, for this client. Behind an LMTP client are all those whose mail it delivers.
fn load_of(reception: &Reception, rules: &Rules, client: &Client) -> Load {
    let bounded = (!matches!(client.service, Service::Lmtp | Service::Local)).then_some(client.address);
    reception.gate.in_flight.session(client.service, bounded, &rules.config.limits, rules.reserve)
}

impl<'a> Transaction<'a> {
    pub(super) fn new(reception: &'a Reception, rules: &'a Arc<Rules>, service: Service, address: IpAddr) -> Self {
        let client = Client { service, address, helo: String::new(), extended: false, login: None, tls: None };
        let envelope = Envelope::new(Timestamp::ZERO);
        let load = load_of(reception, rules, &client);
        Self { reception, rules, client, login: None, envelope, known: BTreeSet::new(), content: None, load, messages: 0 }
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
        // No transaction is open: there is nothing to be counted for the one before.
        self.load = load_of(self.reception, self.rules, &self.client);
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
                let envelope = Envelope { reverse_path: path, body, request, size, mail_at, recipients };
                match self.sender(envelope) {
                    Ok(None) => Ok(()),
                    Ok(Some(words)) => return Answer::AcceptAs(words),
                    Err(reply) => Err(self.refused("sender", None, reply)),
                }
            }
            Question::Recipient { path, dsn } => self.recipient(path, dsn).await,
            Question::Login { mechanism, initial } => return self.login(mechanism, initial).await,
            Question::Response(response) => return self.response(&response).await,
            Question::Begin => self.begin().await.map_err(|reply| self.refused("data", None, reply)),
            Question::Commit => match self.commit().await {
                Ok(message) => {
                    self.committed(&message);
                    return Answer::Committed(message.id);
                }
                Err(reply) => Err(reply),
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

    /// Opens a transaction; in the words given, if something in it isn't as asked.
    fn sender(&mut self, envelope: Envelope) -> Result<Option<Reply>, Reply> {
        let size = envelope.size;
        self.content = None;
        self.load.clear();
        self.known.clear();
        self.envelope = envelope;
        self.rules.policy.sender(&self.client, &self.envelope.reverse_path, size)?;
        self.load.check(size.unwrap_or_default().max(1)).map_err(|refusal| self.overloaded(refusal))?;
        self.reception.space().map_err(|error| spool_reply(&error))?;
        // What is coming in already may still take its room, too (RFC 1870 section 6.1).
        let wanted = size.unwrap_or_default().saturating_add(self.reception.gate.in_flight.octets());
        if self.reception.spool.free() < self.rules.config.spool.min_free.saturating_add(wanted) {
            return Err(spool_reply(&SpoolError::Full));
        }
        let Some(mut request) = self.envelope.request.take() else { return Ok(None) };
        let asked = request.priority;
        request.priority = asked.and_then(|asked| self.rules.policy.priority(&self.client, asked));
        let lowered = asked != request.priority;
        self.envelope.request = request.boxed();
        // RFC 6710 section 4.1, with the code that is for it.
        Ok(lowered.then(|| Reply::new(250, EnhancedCode(2, 3, 6), "Sender ok; the priority is 0")))
    }

    /// Tells that too much is coming in, and what the client is told.
    fn overloaded(&self, refusal: Refusal) -> Reply {
        self.reception.limited(Some(self.client.address), refusal);
        Reply::new(452, EnhancedCode(4, 3, 1), "Too much mail is coming in at this moment, try again later")
    }

    async fn recipient(&mut self, path: ForwardPath, dsn: Option<Box<DsnRequest>>) -> Result<(), Reply> {
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
        if !self.is_known(&address) {
            let room = self.rules.policy.room(&self.client, &self.reception.system, &address, self.envelope.size).await;
            room.map_err(|reply| self.refused("recipient", Some(address.clone()), reply))?;
            let asked = if dsn.is_some() { DSN_SIZE } else { 0 };
            let octets = RECIPIENT_SIZE + asked + 2 * (address.local().len() + address.domain().as_str().len());
            if let Err(refusal) = self.load.add(octets as u64) {
                let reply = self.overloaded(refusal);
                return Err(self.refused("recipient", Some(address), reply));
            }
            if self.envelope.recipients.len() >= FEW {
                self.known.insert(address.clone());
            }
            self.envelope.recipients.push(Forward { address, dsn });
        }
        Ok(())
    }

    /// Whether it is a recipient already. The first few are looked at one by one: nearly no message has more.
    fn is_known(&self, address: &Address) -> bool {
        self.known.contains(address) || self.envelope.recipients.iter().take(FEW).any(|known| known.address == *address)
    }

    /// Opens a draft and puts our trace field on top of it.
    async fn begin(&mut self) -> Result<(), Reply> {
        let mut draft = self.reception.spool.begin().map_err(|error| spool_reply(&error))?;
        let trace = self.trace_field(&draft);
        draft.write(trace.as_bytes()).await.map_err(|error| spool_reply(&error))?;
        let submitted = self.submitted(&draft);
        self.content = Some(Incoming { draft: Some(draft), header: HeaderScan::new(HEADER_SIZE_MAX), submitted, failure: None });
        Ok(())
    }

    /// Only submission changes what was written, and only as far as RFC 6409 section 8 goes.
    fn submitted(&self, draft: &Draft) -> Option<Submitted> {
        let login = self.client.login.as_ref().filter(|_| self.client.service == Service::Submission)?;
        let from = match &self.envelope.reverse_path {
            ReversePath::Address(address) => address,
            ReversePath::Null => login,
        };
        Some(Submitted::new(from, &self.rules.config.hostname, draft.id(), self.reception.system.clock.now()))
    }

    fn trace_field(&self, draft: &Draft) -> String {
        let recipient = match &self.envelope.recipients[..] {
            [only] => Some(&only.address),
            _ => None,
        };
        let recipients = self.envelope.recipients.iter().map(|recipient| &recipient.address);
        let marks = self.rules.mark.hop(draft.id(), &self.envelope.reverse_path, recipients);
        let field = TraceField {
            helo: &self.client.helo,
            client: self.client.address,
            hostname: &self.rules.config.hostname,
            protocol: self.protocol(),
            tls: self.client.tls.as_ref(),
            logged_in: self.client.login.is_some(),
            id: draft.id(),
            recipient,
            marks: &marks,
            at: self.reception.system.clock.now(),
        };
        field.to_header()
    }

    /// Takes the next piece of content. What can't be kept is told at the end, when the client listens again.
    pub(super) async fn body(&mut self, chunk: &[u8]) {
        let Some(content) = &mut self.content else { return };
        if content.draft.is_none() {
            // Refused already: not even its header, which no bound counts, is kept in memory.
            return;
        }
        content.header.receive(chunk);
        let chunk = match &mut content.submitted {
            Some(submitted) => submitted.receive(chunk),
            None => Cow::Borrowed(chunk),
        };
        let Some(draft) = &mut content.draft else { return };
        let failure = match self.load.add(chunk.len() as u64) {
            Err(refusal) => Some(self.overloaded(refusal)),
            Ok(()) => draft.write(&chunk).await.err().map(|error| spool_reply(&error)),
        };
        if failure.is_some()
            && let Some(content) = &mut self.content
        {
            (content.failure, content.draft) = (failure, None);
            self.load.clear();
        }
    }

    /// Forgets the content: too large, or malformed.
    pub(super) fn discard(&mut self) {
        self.content = None;
        self.load.clear();
    }

    /// The id of the message whose content is coming in.
    pub(super) fn id(&self) -> Option<QueueId> {
        self.content.as_ref()?.draft.as_ref().map(Draft::id)
    }

    /// Makes the message durable. The rest of the server doesn't know of it before it is handed on.
    pub(super) async fn commit(&mut self) -> Result<Arc<Message>, Reply> {
        let kept = self.keep().await;
        self.load.clear();
        kept.map_err(|reply| self.refused("message", None, reply))
    }

    async fn keep(&mut self) -> Result<Arc<Message>, Reply> {
        let Some(mut content) = self.content.take() else {
            return Err(Reply::new(451, EnhancedCode(4, 3, 0), "No message to keep"));
        };
        if let Some(failure) = content.failure.take() {
            return Err(failure);
        }
        self.rules.policy.message(&self.client, &content.header)?;
        // Where it was here only for some, each of them is looked at when its mail is about to leave (`deliver::returned`).
        let recipients = self.envelope.recipients.iter().map(|recipient| &recipient.address);
        let past = self.rules.mark.past(content.header.header(), &self.envelope.reverse_path, recipients.clone(), None);
        if !past.is_empty() && recipients.clone().all(|recipient| past.has(recipient)) {
            let text = "Mail loop: this message was here before for the same recipients";
            return Err(Reply::new(554, EnhancedCode(5, 4, 6), text));
        }
        if let Some(submitted) = content.submitted.take() {
            content.write(&submitted.finish()).await;
        }
        let draft = match (content.draft, content.failure) {
            (Some(draft), None) => draft,
            (_, failure) => {
                return Err(failure.unwrap_or_else(|| Reply::new(451, EnhancedCode(4, 3, 0), "The message could not be kept")));
            }
        };
        let arrived = self.reception.system.clock.now();
        let origin = self.origin();
        draft.commit(self.envelope.accept(arrived, origin)).await.map_err(|error| spool_reply(&error))
    }

    /// Whose mail it is, as far as sharing goes; none: whoever its reverse-path says. Behind an LMTP client are all those whose mail it
    /// delivers. What comes to us without a sender is no notice of ours.
    fn origin(&self) -> Option<Origin> {
        match (&self.client.login, self.client.service) {
            (Some(login), _) => Some(Origin::Login(Arc::new(login.clone()))),
            (None, Service::Lmtp | Service::Local) => {
                let hostname = &self.rules.config.hostname;
                self.envelope.reverse_path.is_null().then(|| Origin::Domain(Arc::new(hostname.clone())))
            }
            (None, _) => Some(Origin::Client(limits::network(self.client.address, &self.rules.config.limits))),
        }
    }

    fn protocol(&self) -> Protocol {
        let utf8 = self.envelope.request.as_ref().is_some_and(|request| request.smtputf8);
        match self.client.service {
            Service::Lmtp if utf8 => Protocol::Utf8Lmtp,
            Service::Lmtp => Protocol::Lmtp,
            Service::Local => Protocol::Local,
            _ if utf8 => Protocol::Utf8Smtp,
            _ if self.client.extended => Protocol::Esmtp,
            _ => Protocol::Smtp,
        }
    }

    /// Logs the message and hands it on to be delivered.
    fn committed(&mut self, message: &Message) {
        self.accepted(message);
        self.reception.hand_on(message);
    }

    /// Logs the message.
    pub(super) fn accepted(&mut self, message: &Message) {
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
    }
}

/// What a client is told when the spool can't keep its mail: always to try again.
fn spool_reply(error: &SpoolError) -> Reply {
    match error {
        SpoolError::Full => Reply::new(452, EnhancedCode(4, 3, 1), "Not enough disk space, try again later"),
        SpoolError::Behind => Reply::new(452, EnhancedCode(4, 3, 1), "Too much mail waits here at this moment, try again later"),
        _ => Reply::new(451, EnhancedCode(4, 3, 0), "The message could not be stored, try again later"),
    }
}
