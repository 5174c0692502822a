//! Reads the layers (defaults, file, `conf.d`, environment), checks their keys, and merges them; every value remembers where
//! it came from.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};

use super::problem::{Problem, Wrong};
use super::schema::{self, SECTIONS, Section};

/// Where the configuration is looked for when no file is named.
pub(super) const DEFAULT_FILES: [&str; 2] = ["conf/posthouse.toml", "/etc/posthouse/posthouse.toml"];
/// Environment variables that begin so are ours.
pub(super) const VARIABLE_PREFIX: &str = "POSTHOUSE_";
/// Larger files are no configuration.
const FILE_SIZE_MAX: u64 = 16 << 20;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Built in.
    Default,
    /// A file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => path.display().fmt(f),
            Self::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}

impl Origin {
    fn of(metadata: Option<&Metadata>) -> Self {
        match metadata.and_then(|metadata| metadata.source.as_ref()) {
            Some(Source::File(path)) => Self::File(path.clone()),
            Some(Source::Custom(name)) => Self::Variable(name.clone()),
            _ => Self::Default,
        }
    }
}

/// One layer for figment: values, and where they are from.
struct Layer {
    origin: Origin,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        let metadata = Metadata::named("posthouse");
        match &self.origin {
            Origin::Default => metadata,
            Origin::File(path) => metadata.source(Source::File(path.clone())),
            Origin::Variable(name) => metadata.source(Source::Custom(name.clone())),
        }
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

/// All layers merged. Keys are known and tables are tables; values are not yet checked.
pub(super) struct Layers {
    figment: Figment,
    /// The main file.
    pub(super) file: PathBuf,
    /// Every file read, the main one first.
    pub(super) files: Vec<PathBuf>,
}

/// A value and where it came from.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

impl Layers {
    /// Reads everything; problems go to `problems`, and what is right is kept. `None`: a file isn't
    /// there or isn't TOML.
    pub(super) fn read(path: Option<&Path>, environment: &BTreeMap<String, String>, problems: &mut Vec<Problem>) -> Option<Self> {
        let (file, text) = match read_main(path) {
            Ok(read) => read,
            Err(problem) => {
                problems.push(problem);
                return None;
            }
        };
        let mut figment = Figment::from(Layer { origin: Origin::Default, values: defaults() });
        let mut files = vec![file.clone()];
        let mut texts = vec![(file.clone(), text)];
        for path in list_beside(&file, problems) {
            match read_file(&path) {
                Ok(text) => texts.push((path, text)),
                Err(error) => problems.push(Problem::unreadable(&path, &error, "make it readable or remove it")),
            }
        }
        files.extend(texts.iter().skip(1).map(|(path, _)| path.clone()));
        let mut readable = true;
        for (path, text) in texts {
            match Toml::from_str::<Dict>(&text) {
                Ok(values) => figment = figment.merge(sift(Origin::File(path), values, problems)),
                Err(error) => {
                    readable = false;
                    problems.push(not_toml(&path, &text, &error));
                }
            }
        }
        for (name, text) in environment {
            if let Some(values) = variable(name, text, problems) {
                figment = figment.merge(sift(Origin::Variable(name.clone()), values, problems));
            }
        }
        // What a file would have set can't be missed yet.
        readable.then_some(Self { figment, file, files })
    }

    /// The value of `limits.hops` or `hostname`.
    pub(super) fn entry(&self, key: &str) -> Option<Entry> {
        self.figment.find_value(key).ok().map(|value| self.entry_of(value))
    }

    /// The tables of a repeated section.
    pub(super) fn tables(&self, section: &str) -> Vec<BTreeMap<String, Entry>> {
        let tables = self.figment.find_value(section).ok().and_then(Value::into_array).unwrap_or_default();
        let dicts = tables.into_iter().filter_map(Value::into_dict);
        dicts.map(|dict| dict.into_iter().map(|(name, value)| (name, self.entry_of(value))).collect()).collect()
    }

    fn entry_of(&self, value: Value) -> Entry {
        let origin = Origin::of(self.figment.get_metadata(value.tag()));
        Entry { value, origin }
    }
}

/// The built-in values of every section that stands once.
fn defaults() -> Dict {
    let mut all = Dict::new();
    for section in SECTIONS.iter().filter(|section| !section.repeated) {
        for setting in section.settings {
            let Some(value) = setting.default_toml().and_then(|toml| parse_value(&toml)) else { continue };
            if section.name.is_empty() {
                all.insert(setting.name.to_owned(), value);
                continue;
            }
            let table = all.entry(section.name.to_owned()).or_insert_with(|| Value::from(Dict::new()));
            if let Value::Dict(_, table) = table {
                table.insert(setting.name.to_owned(), value);
            }
        }
    }
    all
}

/// One value in TOML syntax.
pub(super) fn parse_value(toml: &str) -> Option<Value> {
    Toml::from_str::<Dict>(&format!("value = {toml}")).ok().filter(|dict| dict.len() == 1)?.remove("value")
}

fn read_main(path: Option<&Path>) -> Result<(PathBuf, String), Problem> {
    if let Some(path) = path {
        let text = read_file(path);
        let remedy = "name a readable file with --config FILE";
        return text.map(|text| (path.to_owned(), text)).map_err(|error| Problem::unreadable(path, &error, remedy));
    }
    for path in DEFAULT_FILES.map(Path::new) {
        match read_file(path) {
            Ok(text) => return Ok((path.to_owned(), text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Problem::unreadable(path, &error, "make it readable or name another with --config FILE")),
        }
    }
    let what = format!("there is no configuration: neither {} nor {} exists", DEFAULT_FILES[0], DEFAULT_FILES[1]);
    Err(Problem::new("", "", what, "name one with --config FILE"))
}

fn read_file(path: &Path) -> io::Result<String> {
    if std::fs::metadata(path)?.len() > FILE_SIZE_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has more than 16 MiB"));
    }
    std::fs::read_to_string(path)
}

/// The files of `conf.d` beside the main file, sorted by name.
fn list_beside(file: &Path, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let folder = file.with_file_name("conf.d");
    let entries = match std::fs::read_dir(&folder).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                problems.push(Problem::unreadable(&folder, &error, "make the folder readable or remove it"));
            }
            return Vec::new();
        }
    };
    let mut files: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    files
}

fn not_toml(path: &Path, text: &str, error: &toml_error::Error) -> Problem {
    let at = error.span().map(|span| 1 + text.bytes().take(span.start).filter(|b| *b == b'\n').count());
    let key = at.map(|line| format!("line {line}")).unwrap_or_default();
    let what = format!("this is not TOML: {}", error.message().replace('\n', ", "));
    Problem::new(path.display().to_string(), key, what, "correct the line; see docs/configuration.md for samples")
}

/// figment's TOML error, whose crate isn't a dependency of its own.
mod toml_error {
    pub(super) type Error = <figment::providers::Toml as figment::providers::Format>::Error;
}

/// The values that an environment variable sets: `POSTHOUSE_LIMITS__HOPS=20` as `limits = { hops = 20 }`. `None`: not ours,
/// or a problem.
fn variable(name: &str, text: &str, problems: &mut Vec<Problem>) -> Option<Dict> {
    let path = name.strip_prefix(VARIABLE_PREFIX)?.to_ascii_lowercase();
    let parts: Vec<&str> = path.split("__").collect();
    let setting = match parts.as_slice() {
        [name] => schema::section("").and_then(|section| section.setting(name)),
        [section, name] => schema::section(section).filter(|s| !s.repeated && !section.is_empty()).and_then(|s| s.setting(name)),
        _ => None,
    };
    let value = match setting {
        Some(setting) if setting.kind.is_quoted() && !text.trim_start().starts_with(['"', '\'']) => Value::from(text),
        _ => parse_value(text).unwrap_or_else(|| Value::from(text)),
    };
    let known = match parts.as_slice() {
        [name] => setting.is_some() || schema::section(name).is_some_and(|section| !section.name.is_empty()),
        [..] => setting.is_some(),
    };
    if !known {
        problems.push(unknown_variable(name, &parts));
        return None;
    }
    let mut dict = Dict::new();
    match parts.as_slice() {
        [section, name] => {
            let inner = Dict::from([((*name).to_owned(), value)]);
            dict.insert((*section).to_owned(), Value::from(inner));
        }
        _ => {
            dict.insert(path, value);
        }
    }
    Some(dict)
}

fn unknown_variable(name: &str, parts: &[&str]) -> Problem {
    let remedy = match parts {
        [section, key] if schema::section(section).is_some_and(|section| !section.repeated) => {
            format!("did you mean {}?", as_variable(&schema::nearest(section, key)))
        }
        [section, ..] if schema::section(section).is_some_and(|section| section.repeated) => {
            format!("set all of them at once: {VARIABLE_PREFIX}{}='[{{ … }}]'", section.to_ascii_uppercase())
        }
        [section, key, ..] => format!("did you mean {}?", as_variable(&schema::nearest(&nearest_section(section), key))),
        _ => format!("did you mean {}?", as_variable(&schema::nearest("", parts.first().unwrap_or(&"")))),
    };
    Problem::new(format!("environment variable {name}"), "", "there is no such setting", remedy)
}

fn nearest_section(name: &str) -> String {
    schema::nearest("", name).trim_matches(['[', ']']).to_owned()
}

fn as_variable(key: &str) -> String {
    let key = key.trim_matches(['[', ']']);
    format!("{VARIABLE_PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

/// Keeps what the schema knows; a problem for everything else.
fn sift(origin: Origin, values: Dict, problems: &mut Vec<Problem>) -> Layer {
    let mut kept = Dict::new();
    for (name, value) in values {
        if schema::section("").is_some_and(|section| section.setting(&name).is_some()) {
            kept.insert(name, value);
            continue;
        }
        match schema::section(&name).filter(|section| !section.name.is_empty()) {
            Some(section) => match sift_section(&origin, section, value, problems) {
                Ok(value) => {
                    kept.insert(name, value);
                }
                Err(wrong) => problems.push(wrong.at(&origin, name)),
            },
            None => problems.push(unknown(&origin, "", &name, &name)),
        }
    }
    Layer { origin, values: kept }
}

fn sift_section(origin: &Origin, section: &Section, value: Value, problems: &mut Vec<Problem>) -> Result<Value, Wrong> {
    let name = section.name;
    if !section.repeated {
        return match value {
            Value::Dict(tag, dict) => Ok(Value::Dict(tag, sift_table(origin, section, name, dict, problems))),
            _ => Err(Wrong::new("this is a section", section_remedy(origin, section))),
        };
    }
    let wrong = || Wrong::new("this is a table that may stand several times", section_remedy(origin, section));
    let Value::Array(tag, tables) = value else { return Err(wrong()) };
    let mut kept = Vec::new();
    for (index, table) in tables.into_iter().enumerate() {
        let Value::Dict(tag, dict) = table else { return Err(wrong()) };
        kept.push(Value::Dict(tag, sift_table(origin, section, &format!("{name}[{index}]"), dict, problems)));
    }
    Ok(Value::Array(tag, kept))
}

fn section_remedy(origin: &Origin, section: &Section) -> String {
    let name = section.name;
    match (origin, section.repeated) {
        (Origin::Variable(variable), true) => format!("write {variable}='[{{ … }}]'"),
        (Origin::Variable(variable), false) => format!("set its keys one by one: {variable}__…"),
        (_, true) => format!("write [[{name}]], with two brackets, and its keys below"),
        (_, false) => format!("write [{name}] and its keys below"),
    }
}

fn sift_table(origin: &Origin, section: &Section, path: &str, dict: Dict, problems: &mut Vec<Problem>) -> Dict {
    let mut kept = Dict::new();
    for (name, value) in dict {
        if section.setting(&name).is_some() {
            kept.insert(name, value);
        } else {
            problems.push(unknown(origin, section.name, &name, &format!("{path}.{name}")));
        }
    }
    kept
}

fn unknown(origin: &Origin, section: &str, name: &str, key: &str) -> Problem {
    let remedy = format!("did you mean {}?", schema::nearest(section, name));
    Wrong::new("there is no such setting", remedy).at(origin, key)
}
