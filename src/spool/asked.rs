//! The encoding of what the sender asked for, with MAIL and with RCPT, inside records: since version 3 of the format.
//!
//! Like `codec`, of which it is a part: every bound is checked, nothing panics, and every value has one spelling.

use super::codec::{Malformed, Reader, put_number, put_text};
use crate::mail::{
    BodyType, DeliverBy, DeliverByMode, DsnRequest, EnvelopeId, Hold, Message, Notify, OriginalRecipient, Priority, Recipient,
    Request, Ret, Timestamp, Update,
};

/// Bits of a request's first byte.
const SMTPUTF8: u8 = 1;
const REQUIRE_TLS: u8 = 2;
const RET_FULL: u8 = 4;
const RET_HDRS: u8 = 8;
const ENVID: u8 = 16;
const DELIVER_BY: u8 = 32;
const HOLD: u8 = 64;
const PRIORITY: u8 = 128;

/// Bits of the byte before the seconds of a deliver-by.
const BY_NEGATIVE: u8 = 1;
const BY_NOTIFY: u8 = 2;
const BY_TRACE: u8 = 4;
const BY_TOLD: u8 = 8;

/// What a hold's first byte says.
const HOLD_FOR: u8 = 1;
const HOLD_UNTIL: u8 = 2;

/// Bits of the first byte of what RCPT asked.
const NOTIFY: u8 = 1;
const NOTIFY_SUCCESS: u8 = 2;
const NOTIFY_FAILURE: u8 = 4;
const NOTIFY_DELAY: u8 = 8;
const ORCPT: u8 = 16;

fn bit(given: bool, bit: u8) -> u8 {
    if given { bit } else { 0 }
}

/// Appends what MAIL asked for.
pub(super) fn put_request(out: &mut Vec<u8>, request: &Request) {
    let Request { smtputf8, require_tls, ret, envid, deliver_by, hold, priority } = request;
    let switches = bit(*smtputf8, SMTPUTF8) | bit(*require_tls, REQUIRE_TLS);
    let ret = bit(*ret == Some(Ret::Full), RET_FULL) | bit(*ret == Some(Ret::Hdrs), RET_HDRS);
    let by_and_hold = bit(deliver_by.is_some(), DELIVER_BY) | bit(hold.is_some(), HOLD);
    out.push(switches | ret | bit(envid.is_some(), ENVID) | by_and_hold | bit(priority.is_some(), PRIORITY));
    if let Some(envid) = envid {
        put_text(out, envid.as_str());
    }
    if let Some(by) = deliver_by {
        let mode = bit(by.mode == DeliverByMode::Notify, BY_NOTIFY) | bit(by.trace, BY_TRACE) | bit(by.told, BY_TOLD);
        out.push(bit(by.seconds < 0, BY_NEGATIVE) | mode);
        put_number(out, by.seconds.unsigned_abs().into());
    }
    match hold {
        None => {}
        Some(Hold::For(seconds)) => {
            out.push(HOLD_FOR);
            put_number(out, u64::from(*seconds));
        }
        Some(Hold::Until(time)) => {
            out.push(HOLD_UNTIL);
            put_number(out, time.as_millis());
        }
    }
    if let Some(priority) = priority {
        // -9 to 9 as 0 to 18.
        out.push(priority.as_i8().saturating_add(9).unsigned_abs());
    }
}

/// Appends what RCPT asked for.
pub(super) fn put_dsn(out: &mut Vec<u8>, dsn: &DsnRequest) {
    let notify = dsn.notify.map_or(0, |notify| {
        let Notify { success, failure, delay } = notify;
        NOTIFY | bit(success, NOTIFY_SUCCESS) | bit(failure, NOTIFY_FAILURE) | bit(delay, NOTIFY_DELAY)
    });
    out.push(notify | bit(dsn.orcpt.is_some(), ORCPT));
    if let Some(orcpt) = &dsn.orcpt {
        put_text(out, orcpt.kind());
        put_text(out, orcpt.address());
    }
}

impl Reader<'_> {
    pub(super) fn request(&mut self) -> Result<Request, Malformed> {
        let flags = self.byte("request")?;
        let given = |bit: u8| flags & bit != 0;
        if flags == 0 || flags & (RET_FULL | RET_HDRS) == RET_FULL | RET_HDRS {
            return Err(Malformed("request"));
        }
        let envid =
            if given(ENVID) { Some(EnvelopeId::new(self.text("envelope id")?).ok_or(Malformed("envelope id"))?) } else { None };
        let deliver_by = if given(DELIVER_BY) { Some(self.deliver_by()?) } else { None };
        let hold = if given(HOLD) { Some(self.hold()?) } else { None };
        let priority = if given(PRIORITY) {
            let number = i8::try_from(self.byte("priority")?).map_err(|_| Malformed("priority"))?;
            Some(Priority::new(number - 9).ok_or(Malformed("priority"))?)
        } else {
            None
        };
        Ok(Request {
            smtputf8: given(SMTPUTF8),
            require_tls: given(REQUIRE_TLS),
            ret: given(RET_FULL).then_some(Ret::Full).or(given(RET_HDRS).then_some(Ret::Hdrs)),
            envid,
            deliver_by,
            hold,
            priority,
        })
    }

    fn deliver_by(&mut self) -> Result<DeliverBy, Malformed> {
        let flags = self.byte("deliver-by")?;
        let size = i64::from(self.small("deliver-by")?);
        let seconds = i32::try_from(if flags & BY_NEGATIVE != 0 { -size } else { size });
        if flags & !(BY_NEGATIVE | BY_NOTIFY | BY_TRACE | BY_TOLD) != 0 || flags & BY_NEGATIVE != 0 && size == 0 {
            return Err(Malformed("deliver-by"));
        }
        Ok(DeliverBy {
            seconds: seconds.map_err(|_| Malformed("deliver-by"))?,
            mode: if flags & BY_NOTIFY != 0 { DeliverByMode::Notify } else { DeliverByMode::Return },
            trace: flags & BY_TRACE != 0,
            told: flags & BY_TOLD != 0,
        })
    }

    fn hold(&mut self) -> Result<Hold, Malformed> {
        match self.byte("hold")? {
            HOLD_FOR => Ok(Hold::For(self.small("hold")?)),
            HOLD_UNTIL => Ok(Hold::Until(Timestamp::from_millis(self.number("hold")?))),
            _ => Err(Malformed("hold")),
        }
    }

    pub(super) fn dsn(&mut self) -> Result<DsnRequest, Malformed> {
        let flags = self.byte("notify")?;
        let given = |bit: u8| flags & bit != 0;
        let wishes = given(NOTIFY_SUCCESS) || given(NOTIFY_FAILURE) || given(NOTIFY_DELAY);
        if flags == 0 || flags >= ORCPT << 1 || wishes && !given(NOTIFY) {
            return Err(Malformed("notify"));
        }
        let notify = Notify { success: given(NOTIFY_SUCCESS), failure: given(NOTIFY_FAILURE), delay: given(NOTIFY_DELAY) };
        let orcpt = if given(ORCPT) { Some(self.original_recipient()?) } else { None };
        Ok(DsnRequest { notify: given(NOTIFY).then_some(notify), orcpt })
    }

    fn original_recipient(&mut self) -> Result<OriginalRecipient, Malformed> {
        let wrong = Malformed("original recipient");
        let (kind, address) = (self.text("original recipient")?, self.text("original recipient")?);
        OriginalRecipient::new(kind, address).ok_or(wrong)
    }
}

fn is_plain(recipients: &[Recipient]) -> bool {
    recipients.iter().all(|recipient| recipient.dsn.is_none())
}

/// Whether versions before 3 could say this.
pub(super) fn message_is_old(message: &Message) -> bool {
    message.request.is_none() && message.origin.is_none() && message.body != BodyType::BinaryMime && is_plain(&message.recipients)
}

/// Whether versions before 3 could say this.
pub(super) fn update_is_old(update: &Update) -> bool {
    !update.deadline_told && is_plain(&update.added)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::spool) fn body_type() -> impl Strategy<Value = BodyType> {
        prop::sample::select(vec![BodyType::SevenBit, BodyType::EightBitMime, BodyType::BinaryMime])
    }

    pub(in crate::spool) fn request() -> impl Strategy<Value = Option<Box<Request>>> {
        let ret = prop::option::of(prop::sample::select(vec![Ret::Full, Ret::Hdrs]));
        let envid = prop::option::of("[ -~]{1,100}".prop_map(|text| EnvelopeId::new(&text).unwrap()));
        let by = (any::<i32>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(seconds, notify, trace, told)| {
            let mode = if notify { DeliverByMode::Notify } else { DeliverByMode::Return };
            DeliverBy { seconds, mode, trace, told }
        });
        let time = (0u64..4_000_000_000).prop_map(|seconds| Hold::Until(Timestamp::from_millis(seconds * 1000)));
        let hold = prop_oneof![any::<u32>().prop_map(Hold::For), time];
        let priority = prop::option::of((-9i8..=9).prop_map(|number| Priority::new(number).unwrap()));
        let all = (any::<bool>(), any::<bool>(), ret, envid, prop::option::of(by), prop::option::of(hold), priority);
        let request = all.prop_map(|(smtputf8, require_tls, ret, envid, deliver_by, hold, priority)| {
            Request { smtputf8, require_tls, ret, envid, deliver_by, hold, priority }.boxed()
        });
        prop_oneof![Just(None), request]
    }

    pub(in crate::spool) fn dsn() -> impl Strategy<Value = Option<Box<DsnRequest>>> {
        let notify = (any::<bool>(), any::<bool>(), any::<bool>());
        let notify = notify.prop_map(|(success, failure, delay)| Notify { success, failure, delay });
        let ascii = "[ -~]{1,60}".prop_map(|address| OriginalRecipient::new("rfc822", &address).unwrap());
        let unicode = "[a-zé-ü+=]{1,30}".prop_map(|address| OriginalRecipient::new("utf-8", &address).unwrap());
        let orcpt = prop::option::of(prop_oneof![ascii, unicode]);
        let request = (prop::option::of(notify), orcpt).prop_map(|(notify, orcpt)| DsnRequest { notify, orcpt }.boxed());
        prop_oneof![Just(None), request]
    }

    #[test]
    fn what_says_nothing_or_contradicts_itself_is_malformed() {
        for bytes in
            [&[0][..], &[RET_FULL | RET_HDRS], &[ENVID, 0], &[ENVID, 1, 0], &[PRIORITY, 19], &[HOLD, 3, 0], &[DELIVER_BY, 1, 0]]
        {
            assert!(Reader(bytes).request().is_err(), "{bytes:?}");
        }
        for bytes in [&[0][..], &[NOTIFY_DELAY], &[32], &[ORCPT, 0, 1, b'a'], &[ORCPT, 1, b' ', 1, b'a'], &[ORCPT, 1, b'a', 1, 0]]
        {
            assert!(Reader(bytes).dsn().is_err(), "{bytes:?}");
        }
    }
}
