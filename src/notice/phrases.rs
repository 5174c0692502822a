//! The texts of one language: what each part of a notice says, and what may stand in braces in it. Owns the list of parts.

use std::fmt;

/// Octets of a text at the most.
const TEXT_SIZE_MAX: usize = 4096;

/// Lists the parts: what the code calls them, what the files call them, and the words that stand in braces.
macro_rules! parts {
    ($($part:ident = $name:literal [$($word:literal)*],)*) => {
        /// A part of a notice.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Part { $($part,)* }

        /// What each is called in a file, and which words may stand in braces.
        const PARTS: &[(&str, &[&str])] = &[$(($name, &[$($word,)*]),)*];
    };
}

parts! {
    Time = "time" ["year" "month" "day" "clock"],
    Many = "many" ["count"],
    Minute = "span.minute" [],
    Minutes = "span.minutes" ["count"],
    Hours = "span.hours" ["count"],
    Days = "span.days" ["count"],
    SubjectFailed = "subject.failed" ["subject"],
    SubjectFailedUntitled = "subject.failed_untitled" [],
    SubjectLost = "subject.lost" ["subject"],
    SubjectLostUntitled = "subject.lost_untitled" [],
    SubjectDelayed = "subject.delayed" ["subject"],
    SubjectDelayedUntitled = "subject.delayed_untitled" [],
    SubjectDelayOver = "subject.delay_over" ["subject"],
    SubjectDelayOverUntitled = "subject.delay_over_untitled" [],
    SubjectDelivered = "subject.delivered" ["subject"],
    SubjectDeliveredUntitled = "subject.delivered_untitled" [],
    SubjectPassedOn = "subject.passed_on" ["subject"],
    SubjectPassedOnUntitled = "subject.passed_on_untitled" [],
    OpeningFailed = "opening.failed" ["recipients"],
    OpeningLost = "opening.lost" ["recipients"],
    OpeningDelayed = "opening.delayed" ["recipients" "span" "time"],
    OpeningDelayOver = "opening.delay_over" ["recipients"],
    OpeningDelayOverRelayed = "opening.delay_over_relayed" ["recipients"],
    OpeningDelivered = "opening.delivered" ["recipients"],
    OpeningRelayed = "opening.relayed" ["recipients"],
    OpeningExpanded = "opening.expanded" ["recipients"],
    MessageSubject = "message.subject" ["subject"],
    MessageArrived = "message.arrived" ["time"],
    MessageRecipient = "message.recipient" ["recipient" "original"],
    MessageMore = "message.more" ["count"],
    FindingAnswered = "finding.answered" [],
    FindingAnsweredAt = "finding.answered_at" ["hop"],
    FindingConnection = "finding.connection" [],
    FindingConnectionAt = "finding.connection_at" ["hop"],
    FindingDns = "finding.dns" [],
    FindingLocal = "finding.local" [],
    FindingLocalAt = "finding.local_at" ["hop"],
    FindingExpired = "finding.expired" ["span"],
    FindingExpiredUntried = "finding.expired_untried" [],
    FindingOperator = "finding.operator" [],
    FindingUntried = "finding.untried" [],
    FindingLast = "finding.last" [],
    FindingLastAt = "finding.last_at" ["hop"],
    AdviceAddress = "advice.address" [],
    AdviceDomain = "advice.domain" [],
    AdviceNoMail = "advice.no_mail" [],
    AdviceOwnAddress = "advice.own_address" [],
    AdviceOwnDomain = "advice.own_domain" [],
    AdviceFull = "advice.full" [],
    AdviceMailbox = "advice.mailbox" [],
    AdviceLarge = "advice.large" [],
    AdviceLater = "advice.later" [],
    AdviceCircle = "advice.circle" [],
    AdviceContent = "advice.content" [],
    AdviceLetters = "advice.letters" [],
    AdviceDemand = "advice.demand" [],
    AdviceRules = "advice.rules" [],
    AdviceOperator = "advice.operator" [],
    AdviceOther = "advice.other" [],
    ClosingHelp = "closing.help" ["postmaster"],
    ClosingSignature = "closing.signature" ["hostname" "id"],
    ClosingHeader = "closing.header" [],
    ClosingMessage = "closing.message" [],
    DigestSubject = "digest.subject" ["count"],
    DigestOpening = "digest.opening" ["time" "count"],
    DigestMore = "digest.more" ["count"],
    DigestClosing = "digest.closing" ["hostname"],
    RefusedSubject = "refused.subject" [],
    RefusedOpening = "refused.opening" ["file"],
    RefusedClosing = "refused.closing" ["hostname"],
}

/// What is wrong with a file of texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// The part, as the file names it; empty for the file as a whole.
    pub part: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl Flaw {
    pub(super) fn new(part: &str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { part: part.to_owned(), what: what.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.part, self.what, self.remedy)
    }
}

/// All texts of a language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Phrases {
    /// In the order of the parts.
    texts: Vec<String>,
}

impl Phrases {
    /// Reads a file. What it leaves out is taken from `base`; without one it must be whole.
    pub(super) fn parse(file: &str, base: Option<&Phrases>) -> Result<Self, Vec<Flaw>> {
        let table: toml::Table =
            file.parse().map_err(|error: toml::de::Error| vec![Flaw::new("", error.to_string().trim(), "write it as TOML")])?;
        let mut flaws = Vec::new();
        let mut given = vec![None; PARTS.len()];
        for (name, value) in flat(&table) {
            match (PARTS.iter().position(|(part, _)| *part == name), value.as_str()) {
                (None, _) => {
                    flaws.push(Flaw::new(&name, "no notice has such a part", "remove it; docs/notices.md lists them all"))
                }
                (Some(_), None) => flaws.push(Flaw::new(&name, "it is no text", "put it in quotes")),
                (Some(at), Some(text)) => match check(text, PARTS[at].1) {
                    Ok(()) => given[at] = Some(text.to_owned()),
                    Err((what, remedy)) => flaws.push(Flaw::new(&name, what, remedy)),
                },
            }
        }
        let mut texts = Vec::with_capacity(PARTS.len());
        for (at, text) in given.into_iter().enumerate() {
            match text.or_else(|| base.map(|base| base.texts[at].clone())) {
                Some(text) => texts.push(text),
                None if flaws.iter().any(|flaw| flaw.part == PARTS[at].0) => {}
                None => flaws.push(Flaw::new(PARTS[at].0, "it is missing", "add it: for this language there is no other text")),
            }
        }
        if flaws.is_empty() { Ok(Self { texts }) } else { Err(flaws) }
    }

    /// What a part says, with these values in its braces. Values are put in as they are: braces in them mean nothing.
    pub(super) fn say(&self, part: Part, values: &[(&str, &str)]) -> String {
        let mut rest = self.texts.get(part as usize).map_or("", String::as_str);
        let mut said = String::with_capacity(rest.len() + 64);
        while let Some((before, behind)) = rest.split_once('{') {
            let (word, behind) = behind.split_once('}').unwrap_or((behind, ""));
            said.push_str(before);
            said.push_str(values.iter().find(|(name, _)| *name == word).map_or("", |(_, value)| value));
            rest = behind;
        }
        said.push_str(rest);
        said
    }
}

/// Keys and values of a table and the tables in it, as `table.key`.
fn flat(table: &toml::Table) -> Vec<(String, &toml::Value)> {
    let mut all = Vec::new();
    for (key, value) in table {
        match value.as_table() {
            Some(inner) => all.extend(inner.iter().map(|(name, value)| (format!("{key}.{name}"), value))),
            None => all.push((key.clone(), value)),
        }
    }
    all
}

/// What is wrong with a text, and what helps.
fn check(text: &str, words: &[&str]) -> Result<(), (String, String)> {
    if text.trim().is_empty() || text.len() > TEXT_SIZE_MAX {
        return Err(("it is empty or too long".to_owned(), format!("write a text of at most {TEXT_SIZE_MAX} octets")));
    }
    if text.chars().any(|c| c.is_control() && c != '\n') {
        return Err(("it has a control character".to_owned(), "remove that".to_owned()));
    }
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let word = rest[at..].strip_prefix('{').and_then(|behind| behind.split_once('}')).map(|(word, _)| word);
        let Some(word) = word else { return Err(("its braces don't fit together".to_owned(), "close what is open".to_owned())) };
        if !words.contains(&word) {
            let known: Vec<String> = words.iter().map(|word| format!("{{{word}}}")).collect();
            let remedy =
                if known.is_empty() { "use none here".to_owned() } else { format!("here it knows {}", known.join(", ")) };
            return Err((format!("{{{word}}} stands for nothing"), remedy));
        }
        rest = &rest[at + word.len() + 2..];
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const ENGLISH: &str = include_str!("languages/en.toml");

    /// Each part with its words in braces and its English text, in the order of the file.
    pub(in crate::notice) fn listing() -> Vec<(String, String, String)> {
        let english = Phrases::parse(ENGLISH, None).unwrap();
        let row = |((name, words), text): (&(&str, &[&str]), &String)| {
            let words: Vec<String> = words.iter().map(|word| format!("`{{{word}}}`")).collect();
            ((*name).to_owned(), words.join(" "), text.clone())
        };
        PARTS.iter().zip(&english.texts).map(row).collect()
    }

    #[test]
    fn braces_are_filled_once() {
        let english = Phrases::parse(ENGLISH, None).unwrap();
        let said = english.say(Part::MessageRecipient, &[("recipient", "{original}"), ("original", "x{y}")]);
        assert_eq!(said, "{original} (written to x{y})");
    }

    #[test]
    fn a_file_with_a_base_says_only_what_differs() {
        let english = Phrases::parse(ENGLISH, None).unwrap();
        let own = Phrases::parse("[closing]\nhelp = \"\"\"Call 555.\nOr ask {postmaster}.\"\"\"", Some(&english)).unwrap();
        assert_eq!(own.say(Part::ClosingHelp, &[("postmaster", "p@x.test")]), "Call 555.\nOr ask p@x.test.");
        assert_eq!(own.say(Part::AdviceFull, &[]), english.say(Part::AdviceFull, &[]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let english = Phrases::parse(ENGLISH, None).unwrap();
        for (file, part, what) in [
            ("[closing]\nhelp = \"ask {boss}\"", "closing.help", "{boss} stands for nothing"),
            ("[closing]\nheader = \"ask {id}\"", "closing.header", "{id} stands for nothing"),
            ("[closing]\nhelp = \"ask {postmaster\"", "closing.help", "braces"),
            ("[closing]\nhelp = \"ask }\"", "closing.help", "braces"),
            ("[closing]\nhelp = \" \"", "closing.help", "empty"),
            ("[closing]\nhelp = \"a\\u0007\"", "closing.help", "control"),
            ("[closing]\nhelp = 7", "closing.help", "no text"),
            ("[closing]\nhalp = \"x\"", "closing.halp", "no notice has"),
            ("help", "", "TOML"),
        ] {
            let flaws = Phrases::parse(file, Some(&english)).unwrap_err();
            assert_eq!((flaws.len(), flaws[0].part.as_str()), (1, part), "{file}: {flaws:?}");
            assert!(flaws[0].to_string().contains(what), "{file}: {flaws:?}");
        }
        let flaws = Phrases::parse("time = \"{year}\"", None).unwrap_err();
        assert_eq!(flaws.len(), PARTS.len() - 1);
        assert!(flaws.iter().all(|flaw| flaw.what == "it is missing" && flaw.part != "time"));
    }
}
