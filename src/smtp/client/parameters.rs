//! What MAIL and RCPT say besides the paths: each parameter where its extension is offered, and otherwise not. Owns nothing.

use std::fmt::Write as _;

use crate::mail::{BodyType, DeliverBy, DeliverByMode, DsnRequest, Request, encode_xtext};

use super::{Extensions, Transaction};

/// MAIL's parameters, each with a space before it.
pub(super) fn of_mail(transaction: &Transaction, offered: Extensions) -> String {
    let mut text = String::new();
    if offered.size {
        add(&mut text, format_args!("SIZE={}", transaction.size));
    }
    match transaction.body {
        BodyType::EightBitMime if offered.eight_bit_mime => add(&mut text, format_args!("BODY=8BITMIME")),
        BodyType::BinaryMime if offered.takes_binary() => add(&mut text, format_args!("BODY=BINARYMIME")),
        _ => {}
    }
    if let Some(request) = &transaction.request {
        of_request(request, offered, &mut text);
    }
    text
}

fn of_request(request: &Request, offered: Extensions, text: &mut String) {
    if request.smtputf8 && offered.smtputf8 {
        add(text, format_args!("SMTPUTF8"));
    }
    if offered.dsn {
        if let Some(ret) = request.ret {
            add(text, format_args!("RET={}", ret.as_str()));
        }
        if let Some(envid) = &request.envid {
            add(text, format_args!("ENVID={}", encode_xtext(envid.as_str())));
        }
    }
    if request.require_tls && offered.require_tls {
        add(text, format_args!("REQUIRETLS"));
    }
    if let Some(DeliverBy { seconds, mode, trace, .. }) = request.deliver_by.filter(|_| offered.deliver_by.is_some()) {
        let mode = if mode == DeliverByMode::Return { 'R' } else { 'N' };
        // Nine digits at the most (RFC 2852 section 4).
        let seconds = seconds.clamp(-999_999_999, 999_999_999);
        add(text, format_args!("BY={seconds};{mode}{}", if trace { "T" } else { "" }));
    }
    if let Some(priority) = request.priority.filter(|_| offered.mt_priority) {
        add(text, format_args!("MT-PRIORITY={priority}"));
    }
}

/// RCPT's parameters, each with a space before it.
pub(super) fn of_recipient(dsn: Option<&DsnRequest>, offered: Extensions) -> String {
    let mut text = String::new();
    let Some(dsn) = dsn.filter(|_| offered.dsn) else { return text };
    if let Some(notify) = dsn.notify {
        add(&mut text, format_args!("NOTIFY={notify}"));
    }
    if let Some(original) = &dsn.orcpt {
        add(&mut text, format_args!("ORCPT={}", original.to_wire()));
    }
    text
}

fn add(text: &mut String, parameter: std::fmt::Arguments<'_>) {
    // Writing to memory can't fail.
    let _ = write!(text, " {parameter}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{EnvelopeId, Notify, OriginalRecipient, Priority, Ret, ReversePath};

    fn everything() -> Request {
        Request {
            smtputf8: true,
            require_tls: true,
            ret: Some(Ret::Hdrs),
            envid: EnvelopeId::new("QQ 31+4"),
            deliver_by: Some(DeliverBy { seconds: 120, mode: DeliverByMode::Return, trace: true, told: false }),
            hold: None,
            priority: Priority::new(-3),
        }
    }

    #[test]
    fn each_parameter_follows_its_extension() {
        let request = everything().boxed();
        let mail = |body, request: &Option<Box<Request>>, offered| {
            let reverse_path = ReversePath::Null;
            of_mail(&Transaction { reverse_path, recipients: Vec::new(), size: 9, body, request: request.clone() }, offered)
        };
        let nothing = Extensions::default();
        assert_eq!(mail(BodyType::BinaryMime, &request, nothing), "");
        for (offered, expected) in [
            (Extensions { size: true, ..nothing }, " SIZE=9"),
            (Extensions { chunking: true, binary_mime: true, ..nothing }, " BODY=BINARYMIME"),
            (Extensions { binary_mime: true, eight_bit_mime: true, ..nothing }, ""),
            (Extensions { smtputf8: true, ..nothing }, " SMTPUTF8"),
            (Extensions { dsn: true, ..nothing }, " RET=HDRS ENVID=QQ+2031+2B4"),
            (Extensions { require_tls: true, ..nothing }, " REQUIRETLS"),
            (Extensions { deliver_by: Some(60), ..nothing }, " BY=120;RT"),
            (Extensions { mt_priority: true, ..nothing }, " MT-PRIORITY=-3"),
        ] {
            assert_eq!(mail(BodyType::BinaryMime, &request, offered), expected);
            let ordinary = mail(BodyType::SevenBit, &None, offered);
            assert_eq!(ordinary, if offered.size { " SIZE=9" } else { "" });
        }
        let eight = Extensions { eight_bit_mime: true, ..nothing };
        assert_eq!(mail(BodyType::EightBitMime, &None, eight), " BODY=8BITMIME");
        let late = DeliverBy { seconds: -5, mode: DeliverByMode::Notify, trace: false, told: false };
        let late = Request { deliver_by: Some(late), ..Request::default() }.boxed();
        assert_eq!(mail(BodyType::SevenBit, &late, Extensions { deliver_by: Some(0), ..nothing }), " BY=-5;N");
    }

    #[test]
    fn recipients_have_theirs() {
        let dsn = Extensions { dsn: true, ..Extensions::default() };
        let notify = Notify { success: true, failure: true, delay: false };
        let asked = DsnRequest { notify: Some(notify), orcpt: OriginalRecipient::new("rfc822", "a+b@x.test") };
        assert_eq!(of_recipient(Some(&asked), dsn), " NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a+2Bb@x.test");
        assert_eq!(of_recipient(Some(&DsnRequest { notify: Some(Notify::NEVER), orcpt: None }), dsn), " NOTIFY=NEVER");
        assert_eq!(of_recipient(None, dsn), "");
        assert_eq!(of_recipient(Some(&asked), Extensions::default()), "");
    }
}
