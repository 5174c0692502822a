//! lettre, a client that isn't ours: its composed mail arrives as it was formatted.

use lettre::message::{MultiPart, SinglePart};
use lettre::{Message, SmtpTransport, Transport};

use crate::support::home::Home;
use crate::support::maildir;
use crate::support::server::Server;

#[test]
fn a_multipart_letter_that_lettre_composes_and_sends_arrives_as_it_was() {
    let home = Home::new("");
    let mut server = Server::start(&home);
    let text = SinglePart::plain("Grüße aus Köln.\r\n.\r\n..\r\nEnde\r\n".to_owned());
    let page = SinglePart::html("<p>Grüße aus Köln.</p>".to_owned());
    let letter = Message::builder()
        .from("Sue <sue@client.test>".parse().unwrap())
        .to("Ann <ann@example.test>".parse().unwrap())
        .subject("Grüße")
        .multipart(MultiPart::alternative().singlepart(text).singlepart(page))
        .unwrap();
    let address = server.address();
    let transport = SmtpTransport::builder_dangerous(address.ip().to_string()).port(address.port()).build();
    let response = transport.send(&letter).unwrap();
    assert!(response.is_positive(), "{response:?}");
    let accepted = server.accepted(0);
    server.delivered(accepted["id"].as_str().unwrap(), "ann@example.test");
    let message = maildir::only(&home.maildir("ann"));
    let mut content = letter.formatted();
    // lettre sends a line end before the final dot even when the letter ends with one.
    content.extend_from_slice(b"\r\n");
    maildir::assert_content(&message, &content);
    assert_eq!(server.stop().code(), Some(0));
}
