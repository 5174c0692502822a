//! Which languages notices are written in, and which of them one is: the original's, or the one that is set. Owns the texts.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::phrases::{Flaw, Phrases};
use crate::mail::fields;

/// Languages that come with us: tag and file.
const BUILT_IN: &[(&str, &str)] = &[
    ("de", include_str!("languages/de.toml")),
    ("en", include_str!("languages/en.toml")),
    ("es", include_str!("languages/es.toml")),
    ("fr", include_str!("languages/fr.toml")),
    ("ja", include_str!("languages/ja.toml")),
    ("pt", include_str!("languages/pt.toml")),
];
/// Tags of a Content-Language field that are looked at.
const TAGS_MAX: usize = 10;

/// The texts in every language there is.
#[derive(Clone, Debug)]
pub struct Languages {
    /// By tag, lower case.
    phrases: BTreeMap<String, Arc<Phrases>>,
    usual: Language,
}

/// A language and its texts.
#[derive(Clone, Debug)]
pub(super) struct Language {
    /// As it stands in Content-Language.
    pub(super) tag: String,
    pub(super) phrases: Arc<Phrases>,
}

impl Languages {
    /// Those that come with us, changed by an operator's files: of a language that we have, or a variety of one, they say
    /// what they like; of another, all. `usual` is written in where nothing else is wanted. Errors: each file's flaws, none (`""`) for `usual`.
    pub fn new<'a>(usual: &str, files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, Vec<(String, Flaw)>> {
        let mut flaws = Vec::new();
        let mut phrases = BTreeMap::new();
        for (tag, file) in BUILT_IN {
            match Phrases::parse(file, None) {
                Ok(parsed) => _ = phrases.insert((*tag).to_owned(), Arc::new(parsed)),
                Err(wrong) => flaws.extend(wrong.into_iter().map(|flaw| ((*tag).to_owned(), flaw))),
            }
        }
        for (tag, file) in files {
            let base = find(&phrases, tag).map(|language| language.phrases);
            match Phrases::parse(file, base.as_deref()) {
                Ok(parsed) => _ = phrases.insert(tag.to_ascii_lowercase(), Arc::new(parsed)),
                Err(wrong) => flaws.extend(wrong.into_iter().map(|flaw| (tag.to_owned(), flaw))),
            }
        }
        let Some(found) = find(&phrases, usual) else {
            let known: Vec<&str> = phrases.keys().map(String::as_str).collect();
            let what = format!("there are no texts in {usual:?}");
            let remedy = format!("choose one of {}, or put {usual}.toml into notice.templates", known.join(", "));
            flaws.push((String::new(), Flaw::new("", what, remedy)));
            return Err(flaws);
        };
        if flaws.is_empty() { Ok(Self { phrases, usual: found }) } else { Err(flaws) }
    }

    /// The one that is used where nothing else is wanted.
    pub(super) fn usual(&self) -> &Language {
        &self.usual
    }

    /// The first language of a header's Content-Language (RFC 3282) that there is; else the usual one.
    pub(super) fn of(&self, header: &[u8]) -> Language {
        let field = fields(header).find(|field| field.is("Content-Language"));
        let value = field.and_then(|field| std::str::from_utf8(field.value).ok()).unwrap_or_default();
        let mut tags = value.split(',').map(str::trim).take(TAGS_MAX);
        tags.find_map(|tag| find(&self.phrases, tag)).unwrap_or_else(|| self.usual.clone())
    }
}

/// A tag's language, or the one that is left when its last subtags are cut off (RFC 4647 section 3.4).
fn find(phrases: &BTreeMap<String, Arc<Phrases>>, tag: &str) -> Option<Language> {
    let tag = tag.to_ascii_lowercase();
    let mut range = tag.as_str();
    loop {
        if let Some(phrases) = phrases.get(range) {
            return Some(Language { tag: range.to_owned(), phrases: phrases.clone() });
        }
        range = range.rsplit_once('-')?.0;
    }
}

#[cfg(test)]
mod tests {
    use super::super::phrases::Part;
    use super::*;

    fn chosen(languages: &Languages, header: &str) -> String {
        languages.of(header.as_bytes()).tag
    }

    #[test]
    fn the_originals_language_counts_if_there_is_one_that_we_have() {
        let languages = Languages::new("fr", []).unwrap();
        for (value, expected) in [
            ("de", "de"),
            ("pt-BR", "pt"),
            ("DE-at-1996", "de"),
            ("nl, sv-FI, ja, en", "ja"),
            ("", "fr"),
            ("x", "fr"),
            ("-", "fr"),
        ] {
            assert_eq!(chosen(&languages, &format!("Subject: x\r\nContent-language: {value}\r\n")), expected, "{value}");
        }
        assert_eq!(chosen(&languages, "Subject: x\r\n"), "fr");
        assert_eq!(chosen(&languages, "Subject: x\r\nContent-Language: ,,,,,,,,,,,de\r\n"), "fr");
    }

    #[test]
    fn an_operator_changes_texts_and_adds_languages() {
        let english = BUILT_IN[1].1;
        let files = [("de", "many = \"{count} Leute\""), ("nl", english), ("pt-BR", "many = \"{count} pessoas\"")];
        let languages = Languages::new("nl-BE", files).unwrap();
        assert_eq!(languages.usual().tag, "nl");
        for (header, expected) in [("de", "3 Leute"), ("pt-BR", "3 pessoas"), ("pt-PT", "3 destinatários")] {
            let phrases = languages.of(format!("Content-Language: {header}\r\n").as_bytes()).phrases;
            assert_eq!(phrases.say(Part::Many, &[("count", "3")]), expected);
        }
        // What no language of ours stands behind must be whole.
        let flaws = Languages::new("en", [("sv", "many = \"{count} personer\"")]).unwrap_err();
        assert!(flaws.iter().all(|(tag, flaw)| tag == "sv" && flaw.what == "it is missing"), "{flaws:?}");
        let (tag, flaw) = Languages::new("tlh", []).unwrap_err().remove(0);
        assert_eq!((tag.as_str(), flaw.what.as_str()), ("", "there are no texts in \"tlh\""));
        assert!(flaw.remedy.starts_with("choose one of de, en, es, fr, ja, pt, or"), "{}", flaw.remedy);
    }
}
