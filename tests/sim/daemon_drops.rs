//! Users of the machine in the daemon's simulation: what they leave in the drop folder, whether a server runs or not.

use std::sync::Arc;
use std::time::Duration;

use posthouse::maildrop::Writer;
use posthouse::system::sim::{SimDisk, SimRandom, World};
use posthouse::system::{Clock, Disk};

use crate::daemon_rules::Sent;
use crate::daemon_world::{Shared, config};

/// More never waits in these stories.
const FILES_MAX: usize = 100;
const RECIPIENTS: [&str; 6] =
    ["ann@example.test", "team@example.test", "mix@example.test", "eve@far.test", "gone@far.test", "x@dead.test"];

/// One message by `posthouse sendmail`, which tells its user that it is safe when the file is.
pub(crate) fn leave(world: &World, disk: &SimDisk, token: String, random: &mut SimRandom) -> Sent {
    let from = format!("s{}@example.test", random.below(4));
    let mut to: Vec<&str> = (0..1 + random.below(3)).map(|_| RECIPIENTS[random.below(6) as usize]).collect();
    to.dedup();
    // Content that no server takes.
    let is_bad = random.below(4) == 0;
    let lines = "a line of the body, forty-two octets.....\r\n".repeat(random.below(100) as usize);
    let content = format!("Subject: {token}\r\nX-From: {from}\r\n\r\n.{lines}{}\r\n", if is_bad { "\r" } else { "" });
    let content = content.into_bytes();
    let mut sent = Sent { token, from, to, notify: None, content, accepted: false, is_bad };
    let system = world.system(Arc::new(disk.clone()) as Arc<dyn Disk>);
    let folder = config(false).sendmail.drop.unwrap();
    let mut commands = vec![format!("MAIL FROM:<{}>", sent.from)];
    commands.extend(sent.to.iter().map(|to| format!("RCPT TO:<{to}>")));
    let left = Writer::begin(disk, &*system.entropy, world.clock.now(), &folder, FILES_MAX).and_then(|mut writer| {
        writer.write(&sent.content)?;
        writer.finish(&commands)
    });
    sent.accepted = left.is_ok();
    sent
}

/// A user who sends now and then.
pub(crate) async fn user(world: World, disk: SimDisk, number: u64, mut random: SimRandom, sent: Shared<Vec<Sent>>) {
    for n in 0..3 {
        tokio::time::sleep(Duration::from_secs(random.below(90))).await;
        let message = leave(&world, &disk, format!("m-u{number}-{n}"), &mut random);
        sent.lock().unwrap().push(message);
    }
}
