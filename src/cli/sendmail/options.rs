//! The classic command line of sendmail, read as getopt does: `-ti`, `-f ann`, `-fann`, `-oem`. What has no meaning here is taken
//! and does nothing, as it is with the other successors of sendmail.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::mail::QueueId;

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// A message on standard input is to be sent.
    #[default]
    Deliver,
    /// SMTP on standard input and output.
    Smtp,
    /// The queue is listed.
    List,
    /// The aliases are checked.
    Aliases,
    /// It is told how mail would be routed.
    Explain,
    /// The queue is retried.
    Retry(Retry),
}

/// Which messages `-q` is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    All,
    Id(QueueId),
    /// Those for this address or domain.
    Recipient(String),
    /// Those from this address.
    Sender(String),
}

/// The command line, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) mode: Mode,
    pub(super) config: Option<PathBuf>,
    /// `-f`, `-r`.
    pub(super) sender: Option<String>,
    /// `-F`.
    pub(super) full_name: Option<String>,
    /// `-t`: the header names recipients, too.
    pub(super) reads_recipients: bool,
    /// `-i`: a line with only a dot is a line.
    pub(super) ignores_dots: bool,
    /// `-N`, in SMTP's words.
    pub(super) notify: Option<String>,
    /// `-R`, in SMTP's words.
    pub(super) ret: Option<&'static str>,
    /// `-V`, in SMTP's words.
    pub(super) envelope_id: Option<String>,
    /// `-v`.
    pub(super) verbose: bool,
    /// What stands behind the options.
    pub(super) recipients: Vec<String>,
}

/// Options with a value that must be there, attached or as the next word.
const WITH_VALUE: &[u8] = b"ABbCDeFfhLMNOopRrVX";
/// Options whose value is there only if it is attached.
const WITH_ATTACHED: &[u8] = b"dq";
/// Options without a value.
const ALONE: &[u8] = b"EGIimnsTtUvx";

/// Reads the words behind the program's name. Errors: what is wrong, for people.
pub(super) fn parse(arguments: &[OsString]) -> Result<Options, String> {
    let mut options = Options::default();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let word = text(word)?;
        if let Some(file) = word.strip_prefix("--config=") {
            options.config = Some(PathBuf::from(file));
            continue;
        }
        match word.as_bytes() {
            b"--" => {
                options.recipients = words.map(text).collect::<Result<_, _>>()?;
                break;
            }
            b"--config" => {
                let file = words.next().ok_or("--config needs a file behind it")?;
                options.config = Some(PathBuf::from(file));
            }
            [b'-', _, ..] => cluster(&mut options, &word[1..], &mut words)?,
            // Options may stand behind recipients: mail programs put them there.
            _ => options.recipients.push(word),
        }
    }
    Ok(options)
}

fn text(word: &OsString) -> Result<String, String> {
    word.to_str().map(str::to_owned).ok_or_else(|| format!("{word:?} is not UTF-8"))
}

/// One word of options: `i`, `ti`, `fann@example.test`, `tf` with a value behind it.
fn cluster<'a>(options: &mut Options, letters: &str, words: &mut impl Iterator<Item = &'a OsString>) -> Result<(), String> {
    for (at, letter) in letters.char_indices() {
        let attached = &letters[at + letter.len_utf8()..];
        let octet = u8::try_from(letter).unwrap_or(0);
        if ALONE.contains(&octet) {
            flag(options, octet);
        } else if WITH_ATTACHED.contains(&octet) {
            return value(options, octet, attached);
        } else if WITH_VALUE.contains(&octet) {
            let next = if attached.is_empty() { words.next().map(text).transpose()? } else { Some(attached.to_owned()) };
            let next = next.ok_or_else(|| format!("-{letter} needs a value behind it"))?;
            return value(options, octet, &next);
        } else {
            return Err(format!("-{letter} is no option of sendmail"));
        }
    }
    Ok(())
}

fn flag(options: &mut Options, letter: u8) {
    match letter {
        b'i' => options.ignores_dots = true,
        b't' => options.reads_recipients = true,
        b'v' => options.verbose = true,
        b'I' => options.mode = Mode::Aliases,
        _ => {}
    }
}

fn value(options: &mut Options, letter: u8, value: &str) -> Result<(), String> {
    match letter {
        b'b' => options.mode = mode(value)?,
        b'C' => options.config = Some(PathBuf::from(value)),
        b'f' | b'r' => options.sender = Some(value.to_owned()),
        b'F' => options.full_name = Some(value.to_owned()),
        b'N' => options.notify = Some(notify(value)?),
        b'R' => options.ret = Some(ret(value)?),
        b'V' => options.envelope_id = Some(xtext(value)?),
        b'q' => options.mode = Mode::Retry(retry(value)?),
        b'o' if value == "i" => options.ignores_dots = true,
        b'O' if value.eq_ignore_ascii_case("ignoredots=true") => options.ignores_dots = true,
        _ => {}
    }
    Ok(())
}

fn mode(value: &str) -> Result<Mode, String> {
    match value {
        "m" => Ok(Mode::Deliver),
        "s" => Ok(Mode::Smtp),
        "p" => Ok(Mode::List),
        "i" => Ok(Mode::Aliases),
        "v" => Ok(Mode::Explain),
        "d" | "D" => Err(format!("-b{value}: the server is started with `posthouse serve`")),
        _ => Err(format!("-b{value} is not known here")),
    }
}

fn retry(value: &str) -> Result<Retry, String> {
    let rest = value.get(1..).unwrap_or("");
    match value.as_bytes().first() {
        None => Ok(Retry::All),
        Some(b'I') => rest.parse().map(Retry::Id).map_err(|error| format!("-q{value}: {error}")),
        Some(b'R') if !rest.is_empty() => Ok(Retry::Recipient(rest.to_owned())),
        Some(b'S') if !rest.is_empty() => Ok(Retry::Sender(rest.to_owned())),
        _ => Err(format!("-q{value}: the server looks after its queue by itself; -q, -qIID, -qRDOMAIN or -qSADDRESS try it now")),
    }
}

/// `never`, or a list of `failure`, `delay` and `success` (RFC 3461 section 4.1).
fn notify(value: &str) -> Result<String, String> {
    let wanted = value.to_ascii_uppercase();
    let words: Vec<&str> = wanted.split(',').map(str::trim).collect();
    let known = words.iter().all(|word| matches!(*word, "SUCCESS" | "FAILURE" | "DELAY"));
    if words == ["NEVER"] || known {
        return Ok(words.join(","));
    }
    Err(format!("-N {value}: say never, or some of failure,delay,success"))
}

/// How much of the message a notice returns (RFC 3461 section 4.3).
fn ret(value: &str) -> Result<&'static str, String> {
    match value.to_ascii_lowercase().as_str() {
        "full" => Ok("FULL"),
        "hdrs" => Ok("HDRS"),
        _ => Err(format!("-R {value}: say full or hdrs")),
    }
}

/// Printable ASCII in the form of an ESMTP value (RFC 3461 section 4).
fn xtext(value: &str) -> Result<String, String> {
    if value.is_empty() || value.len() > 100 || !value.bytes().all(|octet| (b' '..=b'~').contains(&octet)) {
        return Err("-V: an envelope id is 1 to 100 printable characters".to_owned());
    }
    let encode = |octet: u8| match octet {
        b'+' | b'=' | b' ' => format!("+{octet:02X}"),
        octet => char::from(octet).to_string(),
    };
    Ok(value.bytes().map(encode).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Options, String> {
        let words: Vec<OsString> = line.split(' ').filter(|word| !word.is_empty()).map(OsString::from).collect();
        parse(&words)
    }

    #[test]
    fn the_command_lines_of_known_programs_are_understood() {
        // cron, PHP, git send-email, mutt, mailx, Mail of BSD, logwatch, apticron.
        let delivers = |line: &str| {
            let options = read(line).unwrap();
            assert_eq!(options.mode, Mode::Deliver, "{line}");
            options
        };
        let cron = delivers("-i -FCronDaemon -B8BITMIME -oem root");
        assert_eq!(
            (cron.full_name.as_deref(), cron.ignores_dots, &cron.recipients[..]),
            (Some("CronDaemon"), true, &["root".into()][..])
        );
        let php = delivers("-t -i -fwww@example.test");
        assert!(php.reads_recipients && php.ignores_dots);
        assert_eq!(php.sender.as_deref(), Some("www@example.test"));
        let git = delivers("-i ann@example.test bob@example.test");
        assert_eq!(git.recipients.len(), 2);
        let mutt = delivers("-oem -oi -f sue@example.test -N delay,failure -R hdrs -- -odd@example.test ann@example.test");
        assert!(mutt.ignores_dots);
        assert_eq!((mutt.notify.as_deref(), mutt.ret), (Some("DELAY,FAILURE"), Some("HDRS")));
        assert_eq!(mutt.recipients, ["-odd@example.test", "ann@example.test"]);
        let mailx = delivers("-odb -O DeliveryMode=b -OIgnoreDots=true ann@example.test -v");
        assert!(mailx.ignores_dots && mailx.verbose);
        assert!(delivers("-ti").reads_recipients && !delivers("-om -oo -d0.1 -X /dev/null -h 3 ann").ignores_dots);
        assert_eq!(delivers("-V Q+1=x ann").envelope_id.as_deref(), Some("Q+2B1+3Dx"));
    }

    #[test]
    fn modes() {
        for (line, mode) in [
            ("-bs", Mode::Smtp),
            ("-bp", Mode::List),
            ("-b p", Mode::List),
            ("-bi", Mode::Aliases),
            ("-I", Mode::Aliases),
            ("-bv ann", Mode::Explain),
            ("-bm ann", Mode::Deliver),
            ("-q", Mode::Retry(Retry::All)),
            ("-qRexample.org -v", Mode::Retry(Retry::Recipient("example.org".into()))),
            ("-qI0000000000001", Mode::Retry(Retry::Id(QueueId(1)))),
        ] {
            assert_eq!(read(line).unwrap().mode, mode, "{line}");
        }
        let config = Some(PathBuf::from("other.toml"));
        assert_eq!(read("-C other.toml -bp").unwrap().config, config);
        assert_eq!(read("-bp --config other.toml").unwrap().config, config);
        assert_eq!(read("--config=other.toml").unwrap().config, config);
    }

    #[test]
    fn what_can_not_be_meant_is_refused() {
        for line in
            ["-bd -q15m", "-q15m", "-qI12", "-bt", "-f", "-N sometimes", "-N never,delay", "-R all", "-V ü", "-Z", "-ü", "--help"]
        {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
