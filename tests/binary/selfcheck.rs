//! `selfcheck` beside a running server: every announced extension is there, and works; the server notices nothing.

use std::collections::BTreeSet;
use std::process::Output;

use serde_json::Value;

use crate::support::client::Client;
use crate::support::home::Home;
use crate::support::server::{Server, field, listing, run};

/// Listeners of each kind.
const DOORS: &str = "[[listener]]\naddress = \"127.0.0.1:1\"\nservice = \"submission\"\ntls = \"starttls\"\n\
                     [[listener]]\naddress = \"127.0.0.1:2\"\nservice = \"submission\"\ntls = \"implicit\"\n";

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn every_announced_extension_is_checked_and_works() {
    // Ports that nobody could have are none that it uses.
    let home = Home::new(DOORS);
    let rows = listing(&home, &["selfcheck", "--json"]);
    for row in &rows {
        assert_eq!(row["works"], true, "{row}");
        assert!(!field(row, "result").is_empty() && !field(row, "rfc").is_empty(), "{row}");
    }
    let of = |service: &str| -> BTreeSet<String> {
        let of_service = rows.iter().filter(|row| field(row, "service") == service);
        of_service.map(|row| field(row, "extension").to_owned()).collect()
    };
    for extension in ["PIPELINING", "SIZE", "8BITMIME", "STARTTLS"] {
        assert!(of("mx").contains(extension), "{extension} is missing: {rows:?}");
    }
    let auth: Vec<&Value> =
        rows.iter().filter(|row| field(row, "extension") == "AUTH" && field(row, "service") == "submission").collect();
    assert_eq!(auth.len(), 2, "with STARTTLS and without: {auth:?}");
    for mechanism in ["SCRAM-SHA-256", "PLAIN", "LOGIN"] {
        assert!(field(auth[0], "result").contains(mechanism), "{auth:?}");
    }
}

#[test]
fn the_table_has_what_the_running_server_announces_and_the_server_notices_nothing() {
    let home = Home::new("");
    let mut server = Server::start(&home);
    let output = run(&home, &["selfcheck"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let table = text(&output);
    assert!(table.starts_with("SERVICE  TLS"), "{table}");
    let mut client = Client::open(server.address()).unwrap();
    let announced = client.command("EHLO client.test").unwrap();
    for line in announced.text.lines().skip(1) {
        let keyword = line.split(' ').next().unwrap();
        assert!(table.contains(&format!(" {keyword} ")), "{keyword} is missing in {table}");
    }
    assert!(listing(&home, &["queue", "list", "--json"]).is_empty());
    drop(client);
    assert!(server.events("accepted").is_empty());
    assert_eq!(server.stop().code(), Some(0));
}
