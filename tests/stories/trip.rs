//! The round trips that there are: every wish of a sender × every kind of next hop × addresses in ASCII and beyond × every end; each
//! played by the real server. tests/interop plays them, too, and has foreign programs read the notices.

use posthouse::system::sim::{Act, Script, Stage};

use super::world::*;

/// NOTIFY.
const NOTIFY: [Option<&str>; 9] = [
    None,
    Some("NEVER"),
    Some("SUCCESS"),
    Some("FAILURE"),
    Some("DELAY"),
    Some("SUCCESS,FAILURE"),
    Some("SUCCESS,DELAY"),
    Some("FAILURE,DELAY"),
    Some("SUCCESS,FAILURE,DELAY"),
];
/// RET.
const RET: [Option<&str>; 3] = [None, Some("FULL"), Some("HDRS")];

/// What a sender asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) notify: Option<&'static str>,
    pub(crate) ret: Option<&'static str>,
    /// Its envelope id says so.
    pub(crate) number: usize,
}

/// Where the mail goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    /// A server that confirms deliveries itself.
    Dsn,
    /// One that doesn't.
    Plain,
    /// A mailbox here.
    Mailbox,
    /// An address here that stands for two others.
    Group,
}

/// What is beyond ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beyond {
    Nothing,
    /// Header and content.
    Content,
    /// That, and the recipient's address.
    Recipient,
    /// That, and the sender's.
    Sender,
}

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Taken,
    Refused,
    /// Taken, after so long that delays are told.
    Late,
}

/// The same for all wishes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) hop: Hop,
    pub(crate) beyond: Beyond,
    pub(crate) end: End,
}

/// A notice that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) action: &'static str,
    /// Whether it brings back the whole message.
    pub(crate) whole: bool,
}

impl Wish {
    pub(crate) fn all() -> Vec<Wish> {
        let wish = |(number, (notify, ret))| Wish { notify, ret, number };
        NOTIFY.into_iter().flat_map(|notify| RET.map(|ret| (notify, ret))).enumerate().map(wish).collect()
    }

    pub(crate) fn envelope_id(&self) -> String {
        format!("wish-{}-", self.number)
    }

    fn wants(&self, what: &str) -> bool {
        self.notify.map_or(what != "SUCCESS", |notify| notify.contains(what))
    }
}

impl Case {
    pub(crate) fn all() -> Vec<Case> {
        let mut cases = Vec::new();
        for beyond in [Beyond::Nothing, Beyond::Content, Beyond::Recipient, Beyond::Sender] {
            for hop in [Hop::Dsn, Hop::Plain] {
                cases.extend([End::Taken, End::Refused, End::Late].map(|end| Case { hop, beyond, end }));
            }
            cases.extend([Hop::Mailbox, Hop::Group].map(|hop| Case { hop, beyond, end: End::Taken }));
        }
        cases
    }

    pub(crate) fn sender(&self) -> &'static str {
        if self.beyond == Beyond::Sender { "jos\u{e9}" } else { "ann" }
    }

    pub(crate) fn recipient(&self) -> &'static str {
        match (self.hop, self.beyond) {
            (Hop::Mailbox, Beyond::Recipient | Beyond::Sender) => "\u{437}\u{43e}\u{44f}@example.test",
            (Hop::Mailbox, _) => "bob@example.test",
            (Hop::Group, _) => "team@example.test",
            (_, Beyond::Recipient | Beyond::Sender) => "\u{437}\u{43e}\u{44f}@far.test",
            _ => "eve@far.test",
        }
    }

    /// What the sender calls the recipient.
    fn original(&self) -> &'static str {
        match self.beyond {
            Beyond::Nothing | Beyond::Content => "rfc822;old+2Bname@old.test",
            Beyond::Recipient | Beyond::Sender => "utf-8;alt\\x{FC}@old.test",
        }
    }

    /// What is to come, by the letter of RFC 3461.
    pub(crate) fn expected(&self, wish: &Wish) -> Vec<Expected> {
        let mut expected = Vec::new();
        let mut tell = |action, whole| expected.push(Expected { action, whole });
        if self.end == End::Late && wish.wants("DELAY") {
            tell("delayed", false);
        }
        match (self.end, self.hop) {
            (End::Refused, _) if wish.wants("FAILURE") => tell("failed", wish.ret == Some("FULL")),
            (End::Refused, _) | (_, Hop::Dsn) => {}
            (_, Hop::Plain) if wish.wants("SUCCESS") => tell("relayed", false),
            (_, Hop::Mailbox) if wish.wants("SUCCESS") => tell("delivered", false),
            (_, Hop::Group) if wish.wants("SUCCESS") => tell("expanded", false),
            _ => {}
        }
        expected
    }

    /// The original's language.
    pub(crate) fn language(&self) -> &'static str {
        match (self.hop, self.beyond) {
            (Hop::Mailbox | Hop::Group, _) => "pt-BR",
            (_, Beyond::Nothing) => "en",
            (Hop::Plain, Beyond::Content) => "es",
            (_, Beyond::Content) => "de",
            (_, Beyond::Recipient) => "ja",
            (_, Beyond::Sender) => "fr",
        }
    }

    /// MAIL's argument and RCPT's, and the content.
    fn message(&self, wish: &Wish) -> (String, String, String) {
        let utf8 = if self.beyond == Beyond::Nothing { "" } else { " SMTPUTF8 BODY=8BITMIME" };
        let ret = wish.ret.map(|ret| format!(" RET={ret}")).unwrap_or_default();
        let mail = format!("<{}@example.test> ENVID={}{ret}{utf8}", self.sender(), wish.envelope_id());
        let notify = wish.notify.map(|notify| format!(" NOTIFY={notify}")).unwrap_or_default();
        let rcpt = format!("<{}> ORCPT={}{notify}", self.recipient(), self.original());
        let (subject, words) = match self.beyond {
            Beyond::Nothing => ("a letter", "secret words"),
            _ => ("a letter, gr\u{fc}n", "secret words, gr\u{f6}\u{df}er"),
        };
        let content = format!(
            "Message-ID: <a.letter@client.test>\r\nContent-Language: {}\r\nSubject: {subject}\r\nFrom: a@b.test\r\n\r\n{words}\r\n",
            self.language()
        );
        (mail, rcpt, content)
    }

    /// Sends all wishes; the notices that came, and what the next hop was told.
    pub(crate) async fn play(&self) -> (Vec<Vec<u8>>, Vec<String>) {
        let setup = Setup::new().user("jos\u{e9}@example.test").user("\u{437}\u{43e}\u{44f}@example.test");
        let server = setup.aliases("team: bob, sue\n").config(|config| config.retry.delay_notice = vec![4 * HOUR]).start().await;
        let offered = ["8BITMIME", "SMTPUTF8", "PIPELINING", "DSN"];
        let script = Script::offering(if self.hop == Hop::Dsn { &offered } else { &offered[..3] });
        let far = server.domain("far.test", script).await;
        let act = match self.end {
            End::Taken => Act::Usual,
            End::Refused => Act::say("550-5.1.1 no such user\r\n550 5.1.1 at all"),
            End::Late => Act::say("450 4.2.1 mailbox busy"),
        };
        far.script(|script| script.set_always(Stage::AnyRecipient, act));
        for wish in Wish::all() {
            let (mail, rcpt, content) = self.message(&wish);
            server.client(TRUSTED).await.ask(&mail, &[&rcpt], &content).await;
        }
        if self.end == End::Late {
            server.pass(5 * HOUR).await;
            far.script(|script| script.set_always(Stage::AnyRecipient, Act::Usual));
        }
        server.empty().await;
        (server.mailbox(self.sender()), far.commands())
    }
}

/// The notices about a wish, in the order of the ends.
pub(crate) fn about<'a>(notices: &'a [Vec<u8>], wish: &Wish) -> Vec<&'a [u8]> {
    let field = format!("\r\nOriginal-Envelope-Id: {}\r\n", wish.envelope_id());
    let ours = notices.iter().map(Vec::as_slice).filter(|notice| String::from_utf8_lossy(notice).contains(&field));
    ours.collect()
}
