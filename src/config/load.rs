//! From the layers to the configuration in force: fills in defaults, checks each value, builds the types, checks them together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use figment::value::Value;
use serde::Serialize;

use super::layers::{Entry, Layers, Origin, VARIABLE_PREFIX, parse_value};
use super::problem::{Problem, Wrong};
use super::schema::{SECTIONS, Section, Setting};
use super::{Config, build, check, values};

/// A configuration that is right.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration in force.
    pub config: Config,
    /// The main file.
    pub file: PathBuf,
    /// Every file read, the main one first.
    pub files: Vec<PathBuf>,
    /// Each setting in force, in the order of the sample file.
    pub values: Vec<ShownValue>,
    /// What is right and yet may do harm.
    pub warnings: Vec<Problem>,
}

/// A line of `config show`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShownValue {
    /// `limits.message_size`, `listener[0].address`.
    pub key: String,
    /// The value as TOML.
    pub value: String,
    /// `default`, a file, or an environment variable.
    pub origin: String,
}

/// The process' environment, as far as it is meant for us: what `load` takes.
pub fn environment() -> BTreeMap<String, String> {
    let all =
        std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()));
    all.filter(|(name, _)| name.starts_with(VARIABLE_PREFIX)).collect()
}

/// Loads the configuration from `path`, or from where it usually lies; from `conf.d` beside it; and from the environment.
/// Relative paths in it start at the working directory. Errors: every problem there is.
pub fn load(path: Option<&Path>, environment: &BTreeMap<String, String>) -> Result<Loaded, Vec<Problem>> {
    let mut problems = Vec::new();
    let Some(layers) = Layers::read(path, environment, &mut problems) else { return Err(problems) };
    let mut settings = Settings::new(&layers);
    // A section that can't be read at all must not be reported as missing, too.
    settings.faulty.extend(problems.iter().map(|problem| problem.key.clone()));
    settings.check_values(&mut problems);
    match build::config(&settings) {
        Ok(config) => {
            problems.extend(check::together(&config, &settings));
            if problems.is_empty() {
                let (values, warnings) = (settings.show(), check::warnings(&config, &settings));
                return Ok(Loaded { config, file: layers.file, files: layers.files, values, warnings });
            }
        }
        Err(problem) => problems.push(problem),
    }
    Err(problems)
}

/// All values, with defaults filled in.
pub(super) struct Settings {
    pub(super) tables: Vec<Table>,
    /// The main file: to it belongs what is missing everywhere.
    file: Origin,
    /// Keys for which a problem is already known.
    faulty: BTreeSet<String>,
}

/// One table of the file: a section, or one occurrence of a repeated one.
pub(super) struct Table {
    section: &'static Section,
    index: Option<usize>,
    entries: BTreeMap<&'static str, Entry>,
}

impl Table {
    /// The key in full: `listener[1].address`.
    pub(super) fn key(&self, name: &str) -> String {
        match self.index {
            Some(index) => format!("{}[{index}].{name}", self.section.name),
            None => self.section.key(name),
        }
    }

    fn is_set(&self, name: &str) -> bool {
        self.entries.get(name).is_some_and(|entry| entry.value.as_str() != Some(""))
    }

    /// A value in its type. Errors only if the schema and its reader disagree.
    pub(super) fn read<T>(&self, name: &str, parse: impl Fn(&Value) -> Result<T, Wrong>) -> Result<T, Problem> {
        match self.entries.get(name) {
            Some(entry) => parse(&entry.value).map_err(|wrong| wrong.at(&entry.origin, self.key(name))),
            None => Err(Problem::new("", self.key(name), "the setting is missing", "set it")),
        }
    }
}

impl Settings {
    fn new(layers: &Layers) -> Self {
        let mut tables = Vec::new();
        for section in SECTIONS {
            if section.repeated {
                for (index, mut found) in layers.tables(section.name).into_iter().enumerate() {
                    let own = section.settings.iter().filter_map(|s| found.remove(s.name).map(|entry| (s.name, entry)));
                    tables.push(Table { section, index: Some(index), entries: own.collect() });
                }
                continue;
            }
            let found = section.settings.iter().filter_map(|s| layers.entry(&section.key(s.name)).map(|entry| (s.name, entry)));
            tables.push(Table { section, index: None, entries: found.collect() });
        }
        Self { tables, file: Origin::File(layers.file.clone()), faulty: BTreeSet::new() }
    }

    /// Checks each value alone. What is missing or wrong is replaced, so that the rest can be looked at nevertheless.
    fn check_values(&mut self, problems: &mut Vec<Problem>) {
        for table in &mut self.tables {
            for setting in table.section.settings {
                let key = table.key(setting.name);
                let wrong = match table.entries.get(setting.name) {
                    Some(entry) => {
                        values::check(setting.kind, &entry.value).err().map(|wrong| wrong.at(&entry.origin, key.clone()))
                    }
                    None if setting.default.is_some() => None,
                    None => Some(missing(setting).at(&self.file, key.clone())),
                };
                let absent = wrong.is_some() || !table.entries.contains_key(setting.name);
                if let Some(problem) = wrong {
                    problems.push(problem);
                    self.faulty.insert(key);
                }
                if absent && let Some(value) = stand_in(table, setting) {
                    table.entries.insert(setting.name, Entry { value, origin: Origin::Default });
                }
            }
        }
        self.put_into_spool("admin", "socket", "control.sock");
        self.put_into_spool("sendmail", "drop", "drop");
    }

    /// A path that lies in `spool.path` unless it is set.
    fn put_into_spool(&mut self, section: &str, setting: &str, name: &str) {
        let path = self.section("spool").and_then(|spool| spool.read("path", values::path).ok());
        let table = self.tables.iter_mut().find(|table| table.section.name == section);
        if let (Some(path), Some(entry)) = (path, table.and_then(|table| table.entries.get_mut(setting)))
            && entry.origin == Origin::Default
        {
            entry.value = Value::from(path.join(name).display().to_string());
        }
    }

    /// The table of a section that stands once.
    pub(super) fn section(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.section.name == name && table.index.is_none())
    }

    /// The tables of a repeated section.
    pub(super) fn repeated<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Table> {
        self.tables.iter().filter(move |table| table.section.name == name && table.index.is_some())
    }

    /// Whether nothing is known against a key, nor against the table that it stands in.
    pub(super) fn is_sound(&self, key: &str) -> bool {
        let table = key.split(['[', '.']).next().unwrap_or(key);
        !self.faulty.contains(key) && !self.faulty.contains(table)
    }

    /// Where a key's value came from; the main file for what isn't there.
    pub(super) fn origin(&self, key: &str) -> &Origin {
        let found = self.tables.iter().find_map(|table| {
            let name = table.section.settings.iter().find(|setting| table.key(setting.name) == key)?.name;
            table.entries.get(name)
        });
        found.map(|entry| &entry.origin).filter(|origin| **origin != Origin::Default).unwrap_or(&self.file)
    }

    fn show(&self) -> Vec<ShownValue> {
        let of_table = |table: &Table| -> Vec<ShownValue> {
            let known = table.section.settings.iter().filter_map(|setting| table.entries.get_key_value(setting.name));
            let shown = known.map(|(name, entry)| ShownValue {
                key: table.key(name),
                value: values::toml(&entry.value),
                origin: entry.origin.to_string(),
            });
            shown.collect()
        };
        self.tables.iter().flat_map(of_table).collect()
    }
}

fn missing(setting: &Setting) -> Wrong {
    let sample = setting.sample_toml().unwrap_or_default();
    Wrong::new("the setting is missing", format!("set it, like {} = {sample}", setting.name))
}

/// What stands for a value that is absent or wrong: the default, or the sample's value.
fn stand_in(table: &Table, setting: &Setting) -> Option<Value> {
    // A domain has a Maildir unless it is said to have something else.
    if table.section.name == "domain" && setting.name == "maildir" && table.is_set("lmtp") {
        return Some(Value::from(""));
    }
    parse_value(&setting.default_toml().or_else(|| setting.sample_toml())?)
}

#[cfg(test)]
mod tests {
    use super::super::schema::Kind;
    use super::*;

    /// A right value of this kind that is neither default nor sample.
    fn other(kind: Kind, default: &str) -> String {
        match kind {
            Kind::Boolean => (default != "true").to_string(),
            Kind::Count | Kind::CountOrNone | Kind::Port | Kind::Prefix(_) => "7".to_owned(),
            Kind::Number(min, _) => format!("{:?}", min + 0.75),
            Kind::Duration | Kind::Period if default == "5m" => "\"6m\"".to_owned(),
            // Beside which others must be longer.
            Kind::Duration if default == "30s" => "\"31s\"".to_owned(),
            Kind::Duration | Kind::Period | Kind::PeriodOrNone => "\"9h\"".to_owned(),
            Kind::ShareOf => "\"other.test\"".to_owned(),
            Kind::RateOrNone => "\"7/9h\"".to_owned(),
            Kind::Size | Kind::SizeOrNone => "\"77KiB\"".to_owned(),
            Kind::Text | Kind::Path(_) => "\"other\"".to_owned(),
            Kind::Hostname | Kind::Domain(_) | Kind::Pattern => "\"other.test\"".to_owned(),
            Kind::Address(_) => "\"ann@example.test\"".to_owned(),
            Kind::Mode => "\"0777\"".to_owned(),
            Kind::Socket(_) | Kind::Listen => "\"127.0.0.1:7777\"".to_owned(),
            Kind::Choice(words) => format!("{:?}", words.iter().find(|word| **word != default).unwrap()),
            Kind::Template => "\"other/{user}\"".to_owned(),
            Kind::Lmtp => "\"127.0.0.1:2424\"".to_owned(),
            Kind::Login => "\"*\"".to_owned(),
            Kind::SenderPattern => "\"<>\"".to_owned(),
            Kind::IpOrNone => "\"192.0.2.9\"".to_owned(),
            Kind::Addresses => "[\"192.0.2.1\"]".to_owned(),
            Kind::AddressPatterns => "[\"*@other.test\"]".to_owned(),
            Kind::Networks => "[\"192.0.2.0/24\"]".to_owned(),
            Kind::Domains => "[\"other.test\"]".to_owned(),
            Kind::Hosts => "[\"192.0.2.1:25\"]".to_owned(),
            Kind::Servers => "[\"192.0.2.1\"]".to_owned(),
            Kind::Periods => "[\"1h\"]".to_owned(),
        }
    }

    #[test]
    fn no_setting_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("posthouse.toml");
        // Without `maildir`, which an LMTP server takes the place of.
        let sample: String = super::super::generate::sample(&[])
            .lines()
            .filter(|line| !line.starts_with("maildir"))
            .map(|l| format!("{l}\n"))
            .collect();
        // What a destination's source has to be one of.
        let sample = sample.replace("\nsources = []", "\nsources = [\"192.0.2.9\"]");
        let load_text = |text: &str| {
            std::fs::write(&file, text).unwrap();
            load(Some(&file), &BTreeMap::new()).map_err(|problems| format!("{text}\n{problems:?}")).unwrap().config
        };
        let base = load_text(&sample);
        for section in SECTIONS {
            for setting in section.settings {
                let head = if section.repeated { format!("\n[[{}]]", section.name) } else { format!("\n[{}]", section.name) };
                let (before, table) = match section.name.is_empty() {
                    true => ("", sample.as_str()),
                    false => sample.split_at(sample.find(&head).unwrap() + 1),
                };
                let (first, rest) = table.split_once('\n').unwrap();
                let start = format!("{} = ", setting.name);
                let kept: String = match rest.find(&start) {
                    Some(at) if setting.name != "maildir" => {
                        let end = at + rest[at..].find('\n').unwrap();
                        format!("{}{}", &rest[..at], &rest[end..])
                    }
                    _ => rest.to_owned(),
                };
                let value = other(setting.kind, setting.sample.or(setting.default).unwrap_or_default());
                let mut text = format!("{before}{first}\n{start}{value}\n{kept}");
                // The two are right only together.
                if section.name == "admin" && setting.name.starts_with("tls_") {
                    text = sample
                        .replace("tls_certificate = \"\"", "tls_certificate = \"c\"")
                        .replace("tls_key = \"\"", "tls_key = \"k\"");
                } else if section.name == "tls" && ["certificate", "key"].contains(&setting.name) {
                    text =
                        sample.replace("\ncertificate = \"\"", "\ncertificate = \"c\"").replace("\nkey = \"\"", "\nkey = \"k\"");
                }
                if section.name == "route" && ["login", "password_file"].contains(&setting.name) {
                    text = sample
                        .replace("tls = \"opportunistic\"", "tls = \"verify\"")
                        .replace("\nlogin = \"\"", "\nlogin = \"ann\"")
                        .replace("\npassword_file = \"\"", "\npassword_file = \"p\"");
                }
                assert_ne!(load_text(&text), base, "{} changes nothing", section.key(setting.name));
            }
        }
    }
}
