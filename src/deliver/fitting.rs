//! What one message becomes for one next hop, by what that offers: the same octets, converted ones, or an outcome. State: none.

use std::sync::Arc;
use std::time::Duration;

use super::Attempt;
use super::convert::{self, Converted, Findings, Form, Obstacle, Remedy};
use crate::mail::{Address, BodyType, Cause, DeliverByMode, Diagnosis, EnhancedCode, Outcome, Request};
use crate::smtp::client::Extensions;
use crate::system::Content;

/// What is sent.
pub(super) struct Fitted {
    /// The octets.
    pub(super) content: Arc<dyn Content>,
    /// What is declared about them.
    pub(super) body: BodyType,
    /// What else is asked for; the session leaves out what isn't offered.
    pub(super) request: Option<Box<Request>>,
}

/// Why nothing is sent.
pub(super) enum Unfit {
    /// Another host of the destination may do.
    Host(Diagnosis),
    /// No host will; the outcome of all recipients.
    Message(Outcome),
}

/// Finds what this next hop can be given of the message, `elapsed` after it was accepted. `relayed`: it doesn't end there.
pub(super) async fn fit(attempt: &Attempt, offered: Extensions, elapsed: Duration, relayed: bool) -> Result<Fitted, Unfit> {
    let mut request = attempt.request.as_ref().map(|request| Box::new(request.later(elapsed.as_secs())));
    if let Some(request) = &request {
        check_promises(request, relayed, offered)?;
    }
    let utf8_in_vain = !offered.smtputf8 && request.as_ref().is_some_and(|request| request.smtputf8);
    let form = form_needed(attempt.body, offered);
    if !utf8_in_vain && form.is_none() {
        return Ok(Fitted { content: Arc::clone(&attempt.content), body: attempt.body, request });
    }
    // Where only the header is in question, any form will do.
    let findings = convert::survey(&*attempt.content, form.unwrap_or(Form::EightBit)).await.map_err(|_| unreadable())?;
    if utf8_in_vain {
        // RFC 6531 section 3.2: it may go as ordinary mail if it is that.
        check_ascii(attempt, &findings)?;
        request.iter_mut().for_each(|request| request.smtputf8 = false);
    }
    let Some(form) = form else {
        return Ok(Fitted { content: Arc::clone(&attempt.content), body: attempt.body, request });
    };
    let content = convert(attempt, form, findings).await?;
    let body = if form == Form::SevenBit { BodyType::SevenBit } else { BodyType::EightBitMime };
    Ok(Fitted { content, body, request })
}

/// The outcome of a recipient that this next hop can't be told of (RFC 6531 section 3.5).
pub(super) fn recipient(address: &Address, offered: Extensions) -> Option<Outcome> {
    (!offered.smtputf8 && !address.local().is_ascii()).then(|| {
        let text = "the server doesn't offer SMTPUTF8, which the recipient's address needs";
        Outcome::Failed(Diagnosis::new(EnhancedCode(5, 6, 7), Cause::Remote, text))
    })
}

/// What the sender made a condition, and only an extension can promise.
fn check_promises(request: &Request, relayed: bool, offered: Extensions) -> Result<(), Unfit> {
    if request.require_tls && relayed && !offered.require_tls {
        // RFC 8689 section 4.2.1.
        let text = "the message requires TLS all the way, and the server doesn't offer REQUIRETLS over verified TLS";
        return Err(Unfit::Host(Diagnosis::new(EnhancedCode(5, 7, 30), Cause::Remote, text)));
    }
    let Some(by) = request.deliver_by.filter(|by| relayed && by.mode == DeliverByMode::Return) else { return Ok(()) };
    if by.seconds <= 0 {
        let text = "the time in which the message was to be delivered is over";
        return Err(Unfit::Message(Outcome::Failed(Diagnosis::new(EnhancedCode(5, 4, 7), Cause::Expired, text))));
    }
    // RFC 2852 section 4.1.4: nobody else may be trusted to send it back in time.
    let text = match offered.deliver_by {
        None => "the server doesn't offer DELIVERBY, so it would not return the message when its time is over".to_owned(),
        Some(min) if i64::from(by.seconds) < i64::from(min) => {
            format!("the message is to be delivered within {} s, the server takes {min} s at the least", by.seconds)
        }
        Some(_) => return Ok(()),
    };
    Err(Unfit::Host(Diagnosis::new(EnhancedCode(5, 3, 3), Cause::Remote, text)))
}

/// The form that the content has to have; `None` if it may stay as it is.
fn form_needed(body: BodyType, offered: Extensions) -> Option<Form> {
    match body {
        // RFC 6152 section 3: no octet above 127 goes to a server without 8BITMIME. Senders forget to declare them, so all mail is looked at.
        BodyType::SevenBit | BodyType::EightBitMime => (!offered.eight_bit_mime).then_some(Form::SevenBit),
        BodyType::BinaryMime if offered.takes_binary() => None,
        BodyType::BinaryMime if offered.eight_bit_mime => Some(Form::EightBit),
        BodyType::BinaryMime => Some(Form::SevenBit),
    }
}

/// RFC 6531 section 3.2, and status X.6.9 of RFC 6531 section 3.5.
fn check_ascii(attempt: &Attempt, findings: &Findings) -> Result<(), Unfit> {
    let failed = |status, what: &str| {
        let text = format!("the server doesn't offer SMTPUTF8, which the message's {what} needs");
        Err(Unfit::Message(Outcome::Failed(Diagnosis::new(status, Cause::Remote, text))))
    };
    if attempt.reverse_path.address().is_some_and(|address| !address.local().is_ascii()) {
        return failed(EnhancedCode(5, 6, 7), "sender address");
    }
    if findings.header_is_ascii { Ok(()) } else { failed(EnhancedCode(5, 6, 9), "header") }
}

async fn convert(attempt: &Attempt, form: Form, findings: Findings) -> Result<Arc<dyn Content>, Unfit> {
    let as_it_is = || Arc::clone(&attempt.content);
    match findings.remedy {
        // Its lines may be too long and whatever else: that has nothing to do with what is offered here.
        _ if findings.is_ascii && attempt.body != BodyType::BinaryMime => Ok(as_it_is()),
        Remedy::Needless => Ok(as_it_is()),
        Remedy::Plan(plan) => {
            let converted = Converted::new(as_it_is(), plan).await.map_err(|_| unreadable())?;
            Ok(Arc::new(converted))
        }
        Remedy::Impossible(obstacle) => Err(Unfit::Message(needs_conversion(form, obstacle))),
    }
}

/// Status 5.6.3: conversion required but not supported (RFC 3463 section 3.7).
fn needs_conversion(form: Form, obstacle: Obstacle) -> Outcome {
    let extension = if form == Form::SevenBit { "8BITMIME" } else { "BINARYMIME" };
    let text = format!("the server doesn't offer {extension}, and the message can't be converted: {obstacle}");
    Outcome::Failed(Diagnosis::new(EnhancedCode(5, 6, 3), Cause::Remote, text))
}

fn unreadable() -> Unfit {
    let diagnosis = Diagnosis::new(EnhancedCode(4, 3, 0), Cause::Local, "the message can't be read from the spool");
    Unfit::Message(Outcome::Deferred(diagnosis))
}
