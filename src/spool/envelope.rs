//! A message's envelope as a JSON document: what an export writes beside the content, and what an import takes. The keys are those
//! of `queue show --json`, and it has everything that is needed to take the message up again.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::mail::{
    Address, Cause, DsnRequest, EnhancedCode, Message, Origin, QueueId, Recipient, RecipientState, RecipientStatus, Request,
    ReversePath, Timestamp,
};

/// The version of the document that is written.
const VERSION: u64 = 2;
/// The oldest that is read: it had no `request` and no `dsn`.
const VERSION_OLDEST: u64 = 1;

#[derive(Serialize)]
struct Document<'a> {
    version: u64,
    id: QueueId,
    arrived: Option<String>,
    size: u64,
    sender: &'a ReversePath,
    body: &'static str,
    request: Option<&'a Request>,
    held: bool,
    delay_notices: u32,
    origin: Option<String>,
    recipients: Vec<RecipientDocument<'a>>,
}

#[derive(Serialize)]
struct RecipientDocument<'a> {
    address: &'a Address,
    original: Option<&'a Address>,
    dsn: Option<&'a DsnRequest>,
    state: RecipientState,
    attempts: u32,
    next_attempt: Option<String>,
    last_status: Option<EnhancedCode>,
    last_cause: Option<Cause>,
    last_reply: &'a str,
    next_hop: &'a str,
}

/// The document, a key a line.
pub(super) fn write(message: &Message) -> Vec<u8> {
    let recipients = message.recipients.iter().map(|Recipient { address, original, dsn, status }| RecipientDocument {
        address,
        original: original.as_ref(),
        dsn: dsn.as_deref(),
        state: status.state,
        attempts: status.attempts,
        next_attempt: written(status.next_attempt),
        last_status: status.last_status,
        last_cause: status.last_cause,
        last_reply: &status.last_reply,
        next_hop: &status.next_hop,
    });
    let document = Document {
        version: VERSION,
        id: message.id,
        arrived: written(message.arrived),
        size: message.size,
        sender: &message.reverse_path,
        body: message.body.as_str(),
        request: message.request.as_deref(),
        held: message.held,
        delay_notices: message.delays_noticed,
        origin: message.origin.as_ref().map(ToString::to_string),
        recipients: recipients.collect(),
    };
    // Numbers, texts and names: nothing of it can fail.
    let mut bytes = serde_json::to_vec_pretty(&document).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// A time that never comes is `null`.
fn written(time: Timestamp) -> Option<String> {
    (time != Timestamp::NEVER).then(|| time.rfc3339_millis())
}

/// Reads a document strictly; an error names the field.
pub(super) fn read(bytes: &[u8]) -> Result<Message, String> {
    let value = serde_json::from_slice(bytes).map_err(|error| format!("no JSON document: {error}"))?;
    let mut fields = Fields::new(String::new(), value)?;
    let version = fields.number("version")?;
    if !(VERSION_OLDEST..=VERSION).contains(&version) {
        return Err(format!("version is {version}, and this posthouse reads {VERSION_OLDEST} to {VERSION}"));
    }
    let id = fields.parsed("id", |text| text.parse().map_err(|error| format!("{error}")))?;
    let message = Message {
        id,
        arrived: fields.time("arrived")?,
        size: fields.number("size")?,
        reverse_path: fields
            .parsed("sender", |text| ReversePath::try_from(text.to_owned()).map_err(|error| error.to_string()))?,
        body: fields.named("body")?.ok_or_else(|| fields.error("body", "null"))?,
        request: if version > 1 { fields.named("request")?.and_then(Request::boxed) } else { None },
        held: fields.flag("held")?,
        delays_noticed: fields.small("delay_notices")?,
        // Not in documents of other servers of this version.
        origin: if fields.has("origin") { fields.optional("origin", origin)? } else { None },
        recipients: recipients(&mut fields, version)?,
    };
    fields.end()?;
    Ok(message)
}

fn origin(name: &str) -> Result<Box<Origin>, String> {
    Origin::parse(name).map(Box::new).ok_or_else(|| "not a sender's name".to_owned())
}

fn recipients(fields: &mut Fields, version: u64) -> Result<Vec<Recipient>, String> {
    let Value::Array(values) = fields.take("recipients")? else { return Err(fields.error("recipients", "not a list")) };
    if values.is_empty() {
        return Err(fields.error("recipients", "empty: a message has at least one"));
    }
    let each = values.into_iter().enumerate();
    each.map(|(at, value)| recipient(Fields::new(format!("recipients[{at}]."), value)?, version)).collect()
}

fn recipient(mut fields: Fields, version: u64) -> Result<Recipient, String> {
    let address = |text: &str| Address::parse_utf8(text).map_err(|error| error.to_string());
    let recipient = Recipient {
        address: fields.parsed("address", address)?,
        original: fields.optional("original", address)?,
        dsn: if version > 1 { fields.named("dsn")?.and_then(DsnRequest::boxed) } else { None },
        status: RecipientStatus {
            state: fields.named("state")?.ok_or_else(|| fields.error("state", "null"))?,
            attempts: fields.small("attempts")?,
            next_attempt: fields.time("next_attempt")?,
            last_status: fields.optional("last_status", |text| {
                EnhancedCode::parse(text).ok_or_else(|| "not an enhanced status code (RFC 3463)".to_owned())
            })?,
            last_cause: fields.named("last_cause")?,
            last_reply: fields.parsed("last_reply", |text| Ok(text.to_owned()))?,
            next_hop: fields.parsed("next_hop", |text| Ok(text.to_owned()))?,
        },
    };
    fields.end()?;
    Ok(recipient)
}

/// What is left of an object, and where it stands in the document.
struct Fields {
    prefix: String,
    map: Map<String, Value>,
}

impl Fields {
    fn new(prefix: String, value: Value) -> Result<Self, String> {
        match value {
            Value::Object(map) => Ok(Self { prefix, map }),
            _ if prefix.is_empty() => Err("the document is no object".to_owned()),
            _ => Err(format!("{}: not an object", prefix.trim_end_matches('.'))),
        }
    }

    fn error(&self, name: &str, what: &str) -> String {
        format!("{}{name}: {what}", self.prefix)
    }

    fn take(&mut self, name: &str) -> Result<Value, String> {
        self.map.remove(name).ok_or_else(|| self.error(name, "missing"))
    }

    fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    fn number(&mut self, name: &str) -> Result<u64, String> {
        self.take(name)?.as_u64().ok_or_else(|| self.error(name, "not a number from 0 up"))
    }

    fn small(&mut self, name: &str) -> Result<u32, String> {
        let number = self.number(name)?;
        u32::try_from(number).map_err(|_| self.error(name, "too large"))
    }

    fn flag(&mut self, name: &str) -> Result<bool, String> {
        self.take(name)?.as_bool().ok_or_else(|| self.error(name, "neither true nor false"))
    }

    fn parsed<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T, String> {
        self.optional(name, parse)?.ok_or_else(|| self.error(name, "null, not a text"))
    }

    fn optional<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, String> {
        match self.take(name)? {
            Value::Null => Ok(None),
            Value::String(text) => parse(&text).map(Some).map_err(|what| self.error(name, &format!("{text:?}: {what}"))),
            _ => Err(self.error(name, "not a text")),
        }
    }

    /// One of a type's names.
    fn named<T: serde::de::DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, String> {
        let value = self.take(name)?;
        serde_json::from_value(value).map_err(|error| self.error(name, &error.to_string()))
    }

    fn time(&mut self, name: &str) -> Result<Timestamp, String> {
        let time =
            self.optional(name, |text| Timestamp::parse_rfc3339(text).ok_or_else(|| "not a time (RFC 3339)".to_owned()))?;
        Ok(time.unwrap_or(Timestamp::NEVER))
    }

    /// Nothing may be left.
    fn end(&self) -> Result<(), String> {
        match self.map.keys().next() {
            Some(name) => Err(self.error(name, "unknown")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::asked::tests::{body_type, dsn, request};
    use super::*;

    fn time() -> impl Strategy<Value = Timestamp> {
        prop_oneof![Just(Timestamp::NEVER), (0u64..4_000_000_000_000).prop_map(Timestamp::from_millis)]
    }

    fn address() -> impl Strategy<Value = Address> {
        ("[ -~]{1,20}", "[a-z]{1,5}\\.test")
            .prop_map(|(local, domain)| Address::new(&local, crate::mail::Domain::parse(&domain).unwrap()).unwrap())
    }

    fn recipient() -> impl Strategy<Value = Recipient> {
        let state = prop::sample::select(vec![
            RecipientState::Pending,
            RecipientState::Deferred,
            RecipientState::Delivered,
            RecipientState::Bounced,
            RecipientState::Expanded,
            RecipientState::Removed,
        ]);
        let cause = prop::sample::select(vec![
            Cause::Remote,
            Cause::Connection,
            Cause::Dns,
            Cause::Local,
            Cause::Expired,
            Cause::Operator,
        ]);
        let code = prop::option::of((prop::sample::select(vec![2u8, 4, 5]), 0u16..1000, 0u16..1000));
        let texts = (any::<String>(), any::<String>());
        ((address(), dsn()), prop::option::of(address()), state, any::<u32>(), time(), code, prop::option::of(cause), texts)
            .prop_map(|((address, dsn), original, state, attempts, next_attempt, code, last_cause, (last_reply, next_hop))| {
                let last_status = code.map(|(class, subject, detail)| EnhancedCode(class, subject, detail));
                let status = RecipientStatus { state, attempts, next_attempt, last_status, last_cause, last_reply, next_hop };
                Recipient { address, original, dsn, status }
            })
    }

    fn sender_of(id: u64) -> Option<Box<Origin>> {
        (id % 2 == 1).then(|| Box::new(Origin::parse("login:ann@example.test").unwrap()))
    }

    pub(in crate::spool) fn message() -> impl Strategy<Value = Message> {
        let recipients = prop::collection::vec(recipient(), 1..5);
        let asked = (body_type(), request());
        (any::<u64>(), time(), any::<u64>(), prop::option::of(address()), asked, any::<bool>(), any::<u32>(), recipients)
            .prop_map(|(id, arrived, size, sender, (body, request), held, delays_noticed, recipients)| Message {
                id: QueueId(id),
                arrived,
                size,
                reverse_path: sender.map_or(ReversePath::Null, ReversePath::Address),
                body,
                request,
                held,
                delays_noticed,
                origin: sender_of(id),
                recipients,
            })
    }

    proptest! {
        #[test]
        fn every_message_survives_being_written_and_read(message in message()) {
            prop_assert_eq!(read(&write(&message)), Ok(message));
        }
    }

    #[test]
    fn the_document_in_the_manual_is_one_that_is_written() {
        let manual = include_str!("../../docs/spool-tools.md");
        let (_, behind) = manual.split_once("The envelope has everything").unwrap();
        let (_, document) = behind.split_once("```json\n").unwrap();
        let (document, _) = document.split_once("```").unwrap();
        let message = read(document.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(write(&message)).unwrap(), document);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_field() {
        let sound = r#"{"version":1,"id":"0000000000001","arrived":"2026-11-22T02:00:00Z","size":3,"sender":"","body":"7BIT",
            "held":false,"delay_notices":0,"recipients":[{"address":"a@x.test","original":null,"state":"deferred","attempts":1,
            "next_attempt":null,"last_status":"4.2.1","last_cause":"remote","last_reply":"450 no","next_hop":""}]}"#;
        assert!(read(sound.as_bytes()).is_ok());
        for (from, to, problem) in [
            ("\"version\":1", "\"version\":3", "version is 3, and this posthouse reads 1 to 2"),
            ("\"version\":1", "\"version\":2", "request: missing"),
            ("\"version\":1,", "", "version: missing"),
            ("0000000000001", "1", "id: \"1\": not a queue id"),
            ("\"2026-11-22T02:00:00Z\"", "5", "arrived: not a text"),
            ("\"size\":3", "\"size\":-3", "size: not a number from 0 up"),
            ("\"sender\":\"\"", "\"sender\":\"x\"", "sender: \"x\": the address has no domain"),
            ("7BIT", "9BIT", "body: unknown variant `9BIT`"),
            ("false", "\"no\"", "held: neither true nor false"),
            ("\"delay_notices\":0", "\"delay_notices\":0,\"extra\":1", "extra: unknown"),
            ("a@x.test", "a@", "recipients[0].address: \"a@\": "),
            ("\"deferred\"", "\"lost\"", "recipients[0].state: unknown variant `lost`"),
            ("\"deferred\"", "null", "recipients[0].state: "),
            ("\"attempts\":1", "\"attempts\":9999999999", "recipients[0].attempts: too large"),
            ("4.2.1", "9.2.1", "recipients[0].last_status: \"9.2.1\": not an enhanced"),
            ("\"remote\"", "\"moon\"", "recipients[0].last_cause: unknown variant"),
            (",\"next_hop\":\"\"", "", "recipients[0].next_hop: missing"),
            ("{\"version\"", "[\"version\"", "no JSON document"),
        ] {
            assert!(sound.contains(from), "{from}");
            let error = read(sound.replace(from, to).as_bytes()).unwrap_err();
            assert!(error.starts_with(problem), "{error:?} isn't {problem:?}");
        }
        let nobody = sound.split("[{").next().unwrap().to_owned() + "[]}";
        assert_eq!(read(nobody.as_bytes()).unwrap_err(), "recipients: empty: a message has at least one");
    }
}
