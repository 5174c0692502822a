//! Writes the sample file and the reference page out of the schema.

use super::schema::{SECTIONS, Section, Setting};

/// The column at which comments of the sample file start.
const COMMENT_COLUMN: usize = 44;

/// Tables that nobody needs: the sample has them, commented out.
const COMMENTED_OUT: [&str; 4] = ["certificate", "sender", "destination", "share"];

/// conf/posthouse.toml: every setting with the demo's value and its meaning.
pub fn sample_file() -> String {
    sample(&COMMENTED_OUT)
}

/// The sample, with these tables commented out.
pub(super) fn sample(commented_out: &[&str]) -> String {
    let mut text = String::from(SAMPLE_INTRO);
    for section in SECTIONS {
        let mark = if commented_out.contains(&section.name) { "# " } else { "" };
        let lines: Vec<_> = section.settings.iter().filter_map(|setting| sample_line(mark, setting)).collect();
        if !section.name.is_empty() {
            let head = if section.repeated { format!("{mark}[[{}]]", section.name) } else { format!("[{}]", section.name) };
            text.push_str(&format!("\n{head:COMMENT_COLUMN$} # {}\n", section.doc));
        } else {
            text.push('\n');
        }
        text.extend(lines);
    }
    text
}

fn sample_line(mark: &str, setting: &Setting) -> Option<String> {
    let assignment = format!("{mark}{} = {}", setting.name, setting.sample_toml()?);
    Some(format!("{assignment:COMMENT_COLUMN$} # {}\n", setting.doc))
}

const SAMPLE_INTRO: &str = "\
# Posthouse: every setting, with its meaning. Most values are the defaults; those that aren't set up the demo domain
# example.test with the mailboxes of conf/users. See docs/configuration.md.
#
# Files in conf.d/*.toml beside this one are read after it, in the order of their names, then the environment:
# POSTHOUSE_LIMITS__MESSAGE_SIZE=10MiB. `posthouse config show` tells where each value in force comes from.
";

/// docs/configuration.md: every setting with type, default and meaning.
pub fn reference_page() -> String {
    let mut text = String::from(REFERENCE_INTRO);
    for section in SECTIONS {
        text.push_str(&heading(section));
        text.push_str("| key | value | default | meaning |\n| --- | --- | --- | --- |\n");
        for setting in section.settings {
            text.push_str(&row(section, setting));
        }
    }
    text
}

fn heading(section: &Section) -> String {
    let name = match (section.name, section.repeated) {
        ("", _) => "Before the first section".to_owned(),
        (name, false) => format!("`[{name}]`"),
        (name, true) => format!("`[[{name}]]`"),
    };
    format!("\n## {name}\n\n{}.\n\n", capitalised(section.doc))
}

fn row(section: &Section, setting: &Setting) -> String {
    let default = setting.default_toml().map_or_else(|| "must be set".to_owned(), |default| format!("`{default}`"));
    let mut meaning = capitalised(setting.doc);
    meaning.push('.');
    let key = section.key(setting.name);
    format!("| `{key}` | {} | {default} | {} |\n", setting.kind.describe(), meaning.replace('|', "\\|"))
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

const REFERENCE_INTRO: &str = r#"# Configuration

This page is generated from the same table that the server reads its settings by (`src/config/schema.rs`); a test keeps them equal.

The format is TOML. `--config FILE` names the file; without it `conf/posthouse.toml` is read, or else `/etc/posthouse/posthouse.toml`.

A value comes from the last of these that sets it:

1. the defaults below;
2. the file;
3. `conf.d/*.toml` in the file's folder, in the order of their names;
4. the environment: `POSTHOUSE_` and the key in capitals, section and name joined by two underscores. `POSTHOUSE_SPOOL__PATH=/var/spool/posthouse`,
   `POSTHOUSE_HOSTNAME=mail.example.test`, `POSTHOUSE_RELAY__NETWORKS='["192.0.2.0/24"]'`. Quotes around a single text may be left out.

Tables that may stand several times (`[[listener]]`, `[[domain]]`, `[[route]]`) are replaced as a whole: a layer that has any of a kind replaces all
of that kind from before. In the environment they are one list: `POSTHOUSE_LISTENER='[{ address = "127.0.0.1:2525" }]'`.

`posthouse config show` prints each value in force with where it came from. `posthouse check` prints every problem with file, key and
remedy. Nothing is ignored: an unknown key is an error, and so is a value that this version can't do yet.

- A *duration* is written in days, hours, minutes, seconds and milliseconds: `"5d"`, `"1h30m"`, `"30s"`, `"500ms"`.
- A *size* is a number of bytes, or written with a unit: `"50MiB"`, `"64KiB"`, `"10GB"` (KB, MB, GB, TB count by thousands; KiB, MiB, GiB, TiB by 1024).
- A *path* that doesn't begin with `/` starts at the working directory.
- A *network* is written `"192.0.2.0/24"`, `"2001:db8::/32"`, or as a single address.
- A *host* is a name or an IP address, with a port or without: `"relay.example.test:587"`, `"192.0.2.1"`, `"[2001:db8::1]:25"`.

`SIGHUP` makes the running server read everything again. If there is any problem, it is logged and nothing changes.
"#;
