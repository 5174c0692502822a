//! Reads the texts of notices: those that come with us, and the operator's own. Owns nothing.

use std::path::Path;

use crate::config::{Config, Problem};
use crate::notice::{Flaw, Languages};
use crate::system::Disk;

/// Octets of a file at the most.
const FILE_SIZE_MAX: u64 = 256 * 1024;
/// Files at the most.
const FILES_MAX: usize = 100;
/// The end of a file's name, behind the language's tag.
const SUFFIX: &str = ".toml";

/// The languages of a configuration's notices. Errors: every problem.
pub(super) fn load(config: &Config, disk: &dyn Disk) -> Result<Languages, Vec<Problem>> {
    let folder = config.notice.templates.as_deref();
    let mut problems = Vec::new();
    let mut files = Vec::new();
    for name in folder.map(|folder| names(folder, disk)).transpose()?.unwrap_or_default() {
        let path = folder.unwrap_or(Path::new("")).join(&name);
        let read = disk.read(&path, FILE_SIZE_MAX).map(String::from_utf8);
        match (read, name.strip_suffix(SUFFIX).filter(|tag| is_tag(tag))) {
            (Ok(Ok(text)), Some(tag)) => files.push((tag.to_owned(), text)),
            (_, None) => problems.push(Problem::new(
                path.display().to_string(),
                "",
                "its name is no language",
                "call it en.toml or pt-BR.toml, or take it elsewhere",
            )),
            (Ok(Err(_)), _) => {
                problems.push(Problem::new(path.display().to_string(), "", "it is not UTF-8", "save it in that encoding"))
            }
            (Err(error), _) => problems.push(Problem::unreadable(&path, &error, "let the server read it")),
        }
    }
    let texts = files.iter().map(|(tag, text)| (tag.as_str(), text.as_str()));
    let languages = Languages::new(&config.notice.language, texts);
    match languages {
        Ok(languages) if problems.is_empty() => Ok(languages),
        Ok(_) => Err(problems),
        Err(wrong) => {
            problems.extend(wrong.iter().map(|(tag, flaw)| problem(folder, tag, flaw)));
            Err(problems)
        }
    }
}

/// The files of texts in a folder; what doesn't end so isn't looked at.
fn names(folder: &Path, disk: &dyn Disk) -> Result<Vec<String>, Vec<Problem>> {
    let remedy = "correct notice.templates, or let the server read the folder";
    let mut names = disk.list(folder).map_err(|error| vec![Problem::unreadable(folder, &error, remedy)])?;
    names.retain(|name| name.ends_with(SUFFIX));
    names.truncate(FILES_MAX);
    Ok(names)
}

/// Whether it can be a language tag (RFC 5646): subtags of letters and digits.
fn is_tag(text: &str) -> bool {
    text.split('-').all(|part| (1..=8).contains(&part.len()) && part.bytes().all(|octet| octet.is_ascii_alphanumeric()))
}

fn problem(folder: Option<&Path>, tag: &str, flaw: &Flaw) -> Problem {
    match folder.filter(|_| !tag.is_empty()) {
        Some(folder) => {
            Problem::new(folder.join(format!("{tag}{SUFFIX}")).display().to_string(), &*flaw.part, &*flaw.what, &*flaw.remedy)
        }
        None => Problem::new("", "notice.language", &*flaw.what, &*flaw.remedy),
    }
}

/// Whether the texts of notices that a configuration names can be used.
pub fn check_notices(config: &Config, disk: &dyn Disk) -> Result<(), Vec<Problem>> {
    load(config, disk).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_told_from_other_names() {
        assert!(["en", "pt-BR", "zh-Hant-TW"].iter().all(|tag| is_tag(tag)));
        assert!(["", "en_GB", "-", "de-", "Kopie von de", "languages"].iter().all(|tag| !is_tag(tag)));
    }
}
