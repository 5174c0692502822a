//! All notices of the stories' round trip, read by Python's email package and by flufl.bounce.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::neighbour::helper;
use crate::notices::reader;

/// The stories' own: each notice is made by the whole server, in simulated time.
#[path = "../stories"]
#[allow(dead_code, unused_imports, reason = "the stories use all of it")]
mod stories {
    pub(crate) mod client;
    pub(crate) mod trip;
    pub(crate) mod world;
}
use stories::trip::{Beyond, Case, Expected, Wish, about};

#[test]
fn every_notice_of_the_round_trip_is_read_as_it_is_meant() {
    if !reader() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (mut files, mut meant): (Vec<PathBuf>, Vec<(Case, Expected)>) = (Vec::new(), Vec::new());
    for case in Case::all() {
        let (notices, _) = stories::world::story(case.play());
        for wish in Wish::all() {
            for notice in about(&notices, &wish) {
                let text = String::from_utf8_lossy(notice);
                let is_it = |expected: &Expected| text.contains(&format!("\r\nAction: {}\r\n", expected.action));
                meant.push((case, case.expected(&wish).into_iter().find(is_it).unwrap()));
                files.push(folder.path().join(format!("{}.eml", files.len())));
                std::fs::write(files.last().unwrap(), notice).unwrap();
            }
        }
    }
    let expected = |case: &Case| Wish::all().iter().map(|wish| case.expected(wish).len()).sum::<usize>();
    assert_eq!(files.len(), Case::all().iter().map(expected).sum::<usize>());
    let read = helper("notices.py", &files).unwrap();
    for (notice, (case, expected)) in read.as_array().unwrap().iter().zip(&meant) {
        check(notice, case, expected);
    }
    assert_eq!(read.as_array().unwrap().len(), files.len());
}

fn check(notice: &Value, case: &Case, expected: &Expected) {
    let said = || format!("{case:?} {expected:?}\n{notice:#}");
    assert_eq!(notice["defects"], json!([]), "{}", said());
    assert_eq!((&notice["type"], &notice["report_type"]), (&json!("multipart/report"), &json!("delivery-status")), "{}", said());
    assert!(notice["longest_line"].as_u64().unwrap() <= 998, "{}", said());
    assert_eq!(notice["header"]["in-reply-to"], "<a.letter@client.test>", "{}", said());
    assert_eq!(notice["original"]["message-id"], "<a.letter@client.test>", "{}", said());
    let subject = if case.beyond == Beyond::Nothing { "a letter" } else { "a letter, gr\u{fc}n" };
    assert_eq!(notice["original"]["subject"], subject, "{}", said());
    assert!(notice["header"]["subject"].as_str().unwrap().ends_with(subject), "{}", said());
    assert!(notice["text"].as_str().unwrap().contains(case.recipient()), "{}", said());
    let language = notice["header"]["content-language"].as_str().unwrap();
    assert!(case.language().starts_with(language), "{}", said());
    let english = notice["text"].as_str().unwrap().contains("written by the mail server");
    assert_eq!(english, language == "en", "{}", said());
    let [_, recipient] = &notice["status"].as_array().unwrap()[..] else { panic!("{}", said()) };
    assert_eq!(recipient["action"], expected.action, "{}", said());
    let is_ascii = case.recipient().is_ascii();
    // flufl.bounce knows one type of address (RFC 3464), and one kind of report: those of RFC 6533 say nothing to it.
    let (address, read) = match case.beyond {
        _ if is_ascii && !["failed", "delayed"].contains(&expected.action) => {
            (format!("rfc822; {}", case.recipient()), json!([]))
        }
        Beyond::Nothing | Beyond::Content => (format!("rfc822; {}", case.recipient()), json!(["old+name@old.test"])),
        Beyond::Recipient => {
            let domain = case.recipient().split_once('@').unwrap().1;
            (format!("utf-8;\\x{{437}}\\x{{43E}}\\x{{44F}}@{domain}"), json!([]))
        }
        Beyond::Sender => (format!("utf-8; {}", case.recipient()), json!([])),
    };
    assert_eq!(recipient["final-recipient"], address.as_str(), "{}", said());
    let (permanent, temporary) = match expected.action {
        "failed" => (read, json!([])),
        "delayed" => (json!([]), read),
        _ => (json!([]), json!([])),
    };
    assert_eq!((&notice["permanent"], &notice["temporary"]), (&permanent, &temporary), "{}", said());
}
