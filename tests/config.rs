//! The configuration from outside: generated files are up to date, samples load, and every mistake is named.
//! `UPDATE_GOLDEN=1 cargo test --test config` rewrites the generated files.

#![allow(clippy::unwrap_used, reason = "a test that can't set itself up has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use posthouse::config::{self, Loaded, Origin, Problem};
use posthouse::directory::{Directory, Resolution};
use posthouse::mail::Address;
use posthouse::system::SystemDisk;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Compares a file of the repository with what it should be.
fn golden(path: &str, wanted: &str) {
    let path = root().join(path);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "{} is out of date: run UPDATE_GOLDEN=1 cargo test --test config", path.display());
}

fn load_with(text: &str, environment: &[(&str, &str)]) -> Result<Loaded, Vec<Problem>> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("posthouse.toml");
    std::fs::write(&file, text).unwrap();
    load_file(&file, environment)
}

fn load_file(file: &Path, environment: &[(&str, &str)]) -> Result<Loaded, Vec<Problem>> {
    let environment: BTreeMap<_, _> = environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    config::load(Some(file), &environment)
}

/// A problem's text with the folder taken off.
fn told(problem: &Problem) -> String {
    let text = problem.to_string();
    match text.split_once("posthouse.toml") {
        Some((before, rest)) if before.starts_with('/') => format!("posthouse.toml{rest}"),
        _ => text,
    }
}

const MINIMAL: &str = "hostname = \"mail.example.test\"\npostmaster = \"ann@example.test\"\n\
                       [[listener]]\naddress = \"127.0.0.1:2525\"\n[[domain]]\nname = \"example.test\"\n";

#[test]
fn the_sample_file_is_what_the_schema_generates() {
    golden("conf/posthouse.toml", &config::sample_file());
}

#[test]
fn the_reference_page_is_what_the_schema_generates() {
    golden("docs/configuration.md", &config::reference_page());
}

/// The pages for operators, but for the generated one.
fn pages() -> Vec<(String, String)> {
    let files = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = files.filter(|path| path.extension().is_some_and(|end| end == "md") && !path.ends_with("configuration.md"));
    let all = pages.chain([root().join("README.md"), root().join("CHANGELOG.md")]);
    all.map(|path| (path.display().to_string(), std::fs::read_to_string(&path).unwrap())).collect()
}

#[test]
fn the_settings_that_the_pages_name_are_there() {
    let reference = config::reference_page();
    let keys: BTreeSet<&str> = reference.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let sections: BTreeSet<&str> = keys.iter().filter_map(|key| Some(key.split_once('.')?.0)).collect();
    let mut named = 0;
    for (path, text) in pages() {
        for span in text.split('`').skip(1).step_by(2) {
            // `[section] key`, `section.key`, and either with a value.
            let words = span.strip_prefix('[').and_then(|rest| rest.split_once("] "));
            let words = words.map(|(section, key)| (section.trim_matches(['[', ']']), key));
            let Some((section, key)) = words.or_else(|| span.split_once('.')) else { continue };
            let key = key.split([' ', '=']).next().unwrap_or("");
            if sections.contains(section) && !["md", "rs", "toml", "key"].contains(&key) || words.is_some() {
                assert!(keys.contains(format!("{section}.{key}").as_str()), "{path}: there is no {section}.{key}: `{span}`");
                named += 1;
            }
        }
    }
    assert!(named > 50, "{named}");
}

#[test]
fn the_examples_in_the_pages_are_right() {
    let (mut examples, around) = (0, MINIMAL.replace("name = \"example.test\"", "name = \"other.test\""));
    // Texts of notices are no settings.
    for (path, text) in pages().into_iter().filter(|(path, _)| !path.ends_with("notices.md")) {
        for block in text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            let loaded = load_with(&format!("{around}{block}"), &[]);
            assert!(
                loaded.is_ok(),
                "{path}: {:?}\n{block}",
                loaded.err().map(|found| found.iter().map(told).collect::<Vec<_>>())
            );
            examples += 1;
        }
    }
    assert!(examples > 5, "{examples}");
}

#[test]
fn the_demo_configuration_loads_with_its_users_and_aliases() {
    // Cargo runs tests in the package's folder, where the demo's relative paths start.
    let loaded = load_file(&root().join("conf/posthouse.toml"), &[]).unwrap();
    let directory = Directory::load(&loaded.config, &SystemDisk).unwrap();
    assert_eq!(directory.warnings(), []);
    let resolve = |address: &str| directory.resolve(&Address::parse(address).unwrap());
    for address in ["ann@example.test", "Bob+lists@example.test"] {
        assert!(matches!(resolve(address), Resolution::Mailbox(_)), "{address}");
    }
    for address in ["postmaster@example.test", "abuse@example.test", "team@example.test"] {
        assert!(matches!(resolve(address), Resolution::Alias(_)), "{address}");
    }
    let users = posthouse::directory::users::Users::load(&SystemDisk, &loaded.config.auth.users).unwrap();
    for address in users.iter() {
        assert!(users.verify(address, "posthouse"), "{address}");
    }
}

/// What stands here for a file in /etc/posthouse.
fn fixture(path: PathBuf) -> PathBuf {
    root().join("tests/golden").join(path.file_name().unwrap())
}

#[test]
fn the_examples_load_with_the_files_they_name() {
    for name in ["isp", "business", "relay"] {
        let loaded =
            load_file(&root().join(format!("conf/examples/{name}.toml")), &[]).unwrap_or_else(|p| panic!("{name}: {p:?}"));
        let mut config = loaded.config;
        config.auth.users = fixture(config.auth.users);
        for domain in &mut config.domains {
            domain.aliases = domain.aliases.take().map(fixture);
        }
        Directory::load(&config, &SystemDisk).unwrap_or_else(|p| panic!("{name}: {p:?}"));
    }
}

#[test]
fn later_layers_win_and_every_value_tells_its_origin() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("posthouse.toml");
    let parts = folder.path().join("conf.d");
    std::fs::create_dir(&parts).unwrap();
    std::fs::write(&file, format!("{MINIMAL}[limits]\nhops = 10\nerrors = 11\nrecipients = 12\nconnections = 13\n")).unwrap();
    std::fs::write(parts.join("20-b.toml"), "[limits]\nrecipients = 20\n[[listener]]\naddress = \"127.0.0.1:2600\"\n").unwrap();
    std::fs::write(parts.join("10-a.toml"), "[limits]\nrecipients = 19\nerrors = 19\n").unwrap();
    std::fs::write(parts.join("ignored.txt"), "this is not TOML").unwrap();
    let environment = [
        ("POSTHOUSE_LIMITS__CONNECTIONS", "30"),
        ("POSTHOUSE_HOSTNAME", "env.example.test"),
        ("POSTHOUSE_SPOOL__PATH", "\"/var/spool/x\""),
        ("POSTHOUSE_RELAY__NETWORKS", "[\"192.0.2.0/24\"]"),
        ("POSTHOUSE_QUEUE__PAUSED", "true"),
        ("POSTHOUSE_RETRY__FIRST", "90s"),
        ("POSTHOUSE_ADMIN__HTTP", ""),
        ("OTHER", "x"),
    ];
    let loaded = load_file(&file, &environment).unwrap();
    let config = &loaded.config;
    let limits = &config.limits;
    assert_eq!((limits.hops, limits.errors, limits.recipients, limits.connections), (10, 19, 20, 30));
    assert_eq!(config.hostname.as_str(), "env.example.test");
    assert_eq!(config.listeners.iter().map(|l| l.address.tcp().unwrap().port()).collect::<Vec<_>>(), [2600]);
    assert_eq!(config.relay.networks, ["192.0.2.0/24".parse().unwrap()]);
    assert!(config.queue.paused && config.admin.http.is_none());
    assert_eq!(config.retry.first.as_secs(), 90);
    assert_eq!(config.admin.socket, Path::new("/var/spool/x/control.sock"));
    assert_eq!(loaded.files, [file.clone(), parts.join("10-a.toml"), parts.join("20-b.toml")]);
    let origin = |key: &str| loaded.values.iter().find(|value| value.key == key).unwrap().origin.clone();
    assert_eq!(origin("limits.hops"), Origin::File(file).to_string());
    assert_eq!(origin("limits.recipients"), parts.join("20-b.toml").display().to_string());
    assert_eq!(origin("listener[0].address"), parts.join("20-b.toml").display().to_string());
    assert_eq!(origin("listener[0].service"), "default");
    assert_eq!(origin("limits.connections"), "environment variable POSTHOUSE_LIMITS__CONNECTIONS");
    assert_eq!(origin("spool.min_free"), "default");
    assert_eq!(origin("domain[0].maildir"), "default");
}

#[test]
fn the_contracts_sample_loads_without_what_is_not_built_yet() {
    let text = r#"
hostname = "mail.example.test"
postmaster = "postmaster@example.test"
shutdown_grace = "30s"
user = ""
[spool]
path = "spool"
min_free = "64MiB"
[[listener]]
address = "127.0.0.1:2525"
service = "mx"
tls = "starttls"
[auth]
users = "conf/users"
[limits]
message_size = "50MiB"
recipients = 1000
connections = 10000
connections_per_client = 200
errors = 20
command_timeout = "5m"
data_timeout = "10m"
hops = 50
[[domain]]
name = "example.test"
maildir = "mail/{domain}/{user}"
subaddress = "+"
catch_all = ""
aliases = "conf/aliases"
[relay]
networks = []
domains = []
[[route]]
domain = "partner.test"
hosts = ["127.0.0.1:2526"]
tls = "opportunistic"
[remote]
port = 25
concurrency = 20
connect_timeout = "30s"
reply_timeout = "5m"
tls = "opportunistic"
special_addresses = "refuse"
[queue]
paused = false
[retry]
first = "5m"
factor = 2.0
max = "4h"
jitter = 0.1
lifetime = "5d"
bounce_lifetime = "1d"
delay_notice = ["4h"]
[dns]
servers = []
timeout = "5s"
[admin]
socket = "spool/control.sock"
http = "127.0.0.1:8025"
[log]
format = "text"
level = "info"
"#;
    let loaded = load_with(text, &[]).unwrap();
    // The contract's values are the defaults, where there are defaults.
    assert_eq!(loaded.config, load_file(&root().join("conf/posthouse.toml"), &[]).unwrap().config);
}

/// Cases of a golden file: the text above `--`, what is said about it below; cases end with `==`.
fn mistakes(path: &str, judge: impl Fn(&str) -> Vec<String>) {
    let cases = std::fs::read_to_string(root().join(path)).unwrap();
    let mut wanted = String::new();
    for case in cases.split_inclusive("==\n") {
        let (text, _) = case.split_once("--\n").unwrap();
        let said = judge(text);
        assert!(!said.is_empty(), "nothing is wrong with\n{text}");
        wanted.push_str(&format!("{text}--\n{}\n==\n", said.join("\n")));
    }
    golden(path, &wanted);
}

#[test]
fn every_mistake_is_named_with_file_key_and_remedy() {
    mistakes("tests/golden/config-mistakes.txt", |text| {
        // A case stands for itself, or comes behind a configuration that is right.
        let text = if text.contains("hostname") { text.to_owned() } else { format!("{MINIMAL}{text}") };
        load_with(&text, &[]).map(|loaded| loaded.config).unwrap_err().iter().map(told).collect()
    });
}

#[test]
fn mistakes_in_the_environment_are_named_by_their_variable() {
    mistakes("tests/golden/environment-mistakes.txt", |text| {
        let variables: Vec<_> = text.lines().filter_map(|line| line.split_once('=')).collect();
        load_with(MINIMAL, &variables).map(|loaded| loaded.config).unwrap_err().iter().map(told).collect()
    });
}

#[test]
fn a_repeated_table_can_come_from_the_environment() {
    let text = "[{ address = \"127.0.0.1:2600\" }, { address = \"127.0.0.1:2601\" }]";
    let loaded = load_with(MINIMAL, &[("POSTHOUSE_LISTENER", text)]).unwrap();
    assert_eq!(loaded.config.listeners.len(), 2);
    assert_eq!(loaded.config.listeners[1].address.tcp().unwrap().port(), 2601);
}

#[test]
fn an_lmtp_domain_needs_no_word_about_maildir() {
    let text = MINIMAL.to_owned() + "lmtp = \"unix:/run/lmtp\"\n";
    let loaded = load_with(&text, &[]).unwrap();
    assert_eq!(loaded.config.domains[0].store, config::MailStore::Lmtp(config::LmtpAddress::Unix("/run/lmtp".into())));
}

#[test]
fn a_missing_file_is_named_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("posthouse.toml");
    let problems = load_file(&file, &[]).unwrap_err();
    let wanted = "posthouse.toml: the file does not exist; name a readable file with --config FILE";
    assert_eq!(problems.iter().map(told).collect::<Vec<_>>(), [wanted]);
    assert_eq!(Problem::exit_status(&problems), 78);
}

#[test]
fn the_consoles_certificate_and_key_must_be_readable() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate, "nothing").unwrap();
    let text = format!("{MINIMAL}[admin]\ntls_certificate = {certificate:?}\ntls_key = {key:?}\n");
    let config = load_with(&text, &[]).unwrap().config;
    let said: Vec<_> = config::check_files(&config).iter().map(Problem::to_string).collect();
    assert_eq!(said[0], format!("{}: there is no certificate in the file; put one there in PEM form", certificate.display()));
    assert!(said[1].contains("key.pem: the file does not exist"), "{}", said[1]);
}

#[test]
fn a_routes_password_must_be_readable() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    let route = "[[route]]\ndomain = \"*\"\nhosts = [\"relay.test\"]\ntls = \"verify\"\nlogin = \"ann\"\n";
    let config = load_with(&format!("{MINIMAL}{route}password_file = {file:?}\n"), &[]).unwrap().config;
    let said = || config::check_files(&config).iter().map(Problem::to_string).collect::<Vec<_>>();
    assert!(said()[0].contains("password: the file does not exist; correct route.password_file"), "{:?}", said());
    std::fs::write(&file, "\nsecret\n").unwrap();
    assert_eq!(said(), [format!("{}: its first line is empty; put the password there, in the first line", file.display())]);
    std::fs::write(&file, "secret\n").unwrap();
    assert!(said().is_empty());
}

#[test]
fn a_login_at_a_host_that_may_be_anybody_is_warned_of() {
    let route = |hosts: &str, tls: &str, login: &str| {
        let text = format!("{MINIMAL}[[route]]\ndomain = \"*\"\nhosts = [{hosts:?}]\ntls = {tls:?}\n{login}");
        load_with(&text, &[]).unwrap().warnings.iter().map(Problem::to_string).collect::<Vec<_>>()
    };
    let login = "login = \"ann\"\npassword_file = \"p\"\n";
    let warned = route("relay.test", "require", login);
    assert_eq!(warned.len(), 1);
    assert!(
        warned[0].contains("route[0].tls: whoever gets between us") && warned[0].contains("set it to \"verify\""),
        "{warned:?}"
    );
    for harmless in [("relay.test", "verify", login), ("relay.test", "require", ""), ("127.0.0.1:2526", "require", login)] {
        assert_eq!(route(harmless.0, harmless.1, harmless.2), [""; 0]);
    }
}

#[test]
fn all_mail_in_one_line_is_warned_of() {
    let warned = |table: &str| {
        let text = format!("{MINIMAL}[remote]\nsources = [\"192.0.2.1\"]\n[[destination]]\n{table}");
        load_with(&text, &[]).unwrap().warnings.iter().map(Problem::to_string).collect::<Vec<_>>()
    };
    let said = warned("shared = true\noutgoing_concurrency = 5\n");
    assert_eq!(said.len(), 1);
    assert!(said[0].contains("destination[0].shared: all mail to other servers") && said[0].contains("mx = "), "{said:?}");
    for harmless in ["mx = \"*.p.test\"", "domain = \"*.p.test\"", "source = \"192.0.2.1\""] {
        assert_eq!(warned(&format!("{harmless}\nshared = true\noutgoing_concurrency = 5\n")), [""; 0], "{harmless}");
    }
    assert_eq!(warned("outgoing_concurrency = 5\n"), [""; 0]);
}

#[test]
fn missing_and_broken_users_and_aliases_are_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("aliases"), "a: |cat\nb\n").unwrap();
    let text = format!("{MINIMAL}aliases = {:?}\n[auth]\nusers = {:?}\n", at("aliases"), at("users"));
    let config = load_with(&text, &[]).unwrap().config;
    let said: Vec<_> = Directory::load(&config, &SystemDisk).unwrap_err().iter().map(Problem::to_string).collect();
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said[0].starts_with(&format!("{}: line 1: |cat runs a program", at("aliases").display())), "{}", said[0]);
    assert!(said[1].starts_with(&format!("{}: line 2: b has no colon", at("aliases").display())), "{}", said[1]);
    assert!(
        said[2].contains("users: the file does not exist; ") && said[2].contains("`posthouse user add ADDRESS`"),
        "{}",
        said[2]
    );
}

#[test]
fn texts_of_notices_are_checked_with_file_part_and_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let check = |language: &str| {
        let text = format!("{MINIMAL}[notice]\nlanguage = {language:?}\ntemplates = {:?}\n", folder.path());
        let config = load_with(&text, &[]).unwrap().config;
        let problems = posthouse::daemon::check_notices(&config, &SystemDisk).err().unwrap_or_default();
        problems.iter().map(Problem::to_string).collect::<Vec<_>>()
    };
    std::fs::write(at("de.toml"), "many = \"{count} Leute\"\n").unwrap();
    assert_eq!(check("de-CH"), [""; 0]);
    assert_eq!(check("it").len(), 1);
    std::fs::write(at("de.toml"), "many = \"{number} Leute\"\nmanny = 7\n").unwrap();
    std::fs::write(at("fr.toml"), [0xe9]).unwrap();
    let said = check("de");
    let file = at("de.toml").display().to_string();
    assert_eq!(
        said,
        [
            format!("{}: it is not UTF-8; save it in that encoding", at("fr.toml").display()),
            format!("{file}: manny: no notice has such a part; remove it; docs/notices.md lists them all"),
            format!("{file}: many: {{number}} stands for nothing; here it knows {{count}}"),
        ]
    );
    drop(folder);
}

#[test]
fn a_configuration_as_benchmarks_write_it_loads_with_its_empty_users_file() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().display();
    std::fs::write(folder.path().join("users"), "").unwrap();
    let text = format!(
        r#"
hostname = "mx.bench.test"
postmaster = "u0@bench.test"

[spool]
path = "{root}/spool"

[[listener]]
address = "127.0.0.1:2525"
service = "mx"
tls = "none"

[auth]
users = "{root}/users"

[limits]
connections = 10000
connections_per_client = 10000

[[domain]]
name = "nobody.invalid"
maildir = "{root}/mail/{{user}}/Maildir"

[relay]
networks = ["127.0.0.0/8"]

[[route]]
domain = "*"
hosts = ["127.0.0.1:2526"]
tls = "none"

[remote]
concurrency = 50
special_addresses = "allow"

[queue]
paused = true

[retry]
first = "1h"
delay_notice = []

[admin]
socket = "{root}/control.sock"
http = ""

[log]
level = "warn"
"#
    );
    let config = load_with(&text, &[]).unwrap().config;
    assert!(config.retry.delay_notice.is_empty() && config.admin.http.is_none() && config.queue.paused);
    assert_eq!(Directory::load(&config, &SystemDisk).unwrap().warnings(), []);
}

#[test]
fn the_reference_page_names_every_setting_once_and_show_tells_them_all() {
    let page = config::reference_page();
    let keys: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let mut unique = keys.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), keys.len());
    let loaded = load_file(&root().join("conf/posthouse.toml"), &[]).unwrap();
    let shown: Vec<_> = loaded.values.iter().map(|value| value.key.replace("[0]", "")).collect();
    // The demo has no such tables.
    let missing: Vec<_> = keys.iter().filter(|key| !shown.iter().any(|shown| shown == *key)).collect();
    let tables = ["certificate.", "sender.", "destination.", "share."];
    assert!(missing.iter().all(|key| tables.iter().any(|table| key.starts_with(table))), "{missing:?}");
}
