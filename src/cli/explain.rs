//! `explain`: how mail to an address would be routed, step by step. Nothing is sent; the DNS is asked, and a running server how it is
//! with the destination.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::failure::Failure;
use super::print::Out;
use super::{Context, arguments, block_on, now, settings, sites, system};
use crate::control::Client;
use crate::mail::{Destination, ReversePath};
use crate::route::Router;
use crate::system::SystemNet;

/// Destinations behind an alias of which the state is told.
const DESTINATIONS_MAX: usize = 20;

pub(super) fn explain(context: &Context<'_>, arguments: &arguments::Explain, out: &mut Out<'_>) -> Result<(), Failure> {
    let loaded = context.load()?;
    let directory = settings::files(&loaded).map_err(|problems| Failure::problems(&problems))?;
    let (system, socket) = (system(&loaded.config)?, loaded.config.admin.socket.clone());
    let router = Router::new(Arc::new(loaded.config), Arc::new(directory), system);
    block_on(async {
        let mut number = 0;
        let mut say = |step: &str| {
            number += 1;
            // The router indents a step below the one that led there.
            if arguments.json { out.json(&json!({ "step": number, "text": step })) } else { out.line(step) }
        };
        let from = arguments.from.clone().unwrap_or(ReversePath::Null);
        for step in router.explain(&from, &arguments.address).await {
            say(&step)?;
        }
        for line in states(&socket, router.destinations(&from, &arguments.address), &from).await {
            say(&line)?;
        }
        match &arguments.from {
            None => {}
            Some(ReversePath::Null) => say("from <>: if it fails, the postmaster is told, and nobody else")?,
            Some(ReversePath::Address(sender)) => {
                say(&format!("from {sender}: if it fails, a notice goes there:"))?;
                for step in router.explain(&ReversePath::Null, sender).await {
                    say(&format!("  {step}"))?;
                }
            }
        }
        Ok(())
    })
}

/// How it is with these destinations, as a running server knows it; nothing if there is none, or if it won't say.
async fn states(socket: &Path, destinations: Vec<Destination>, sender: &ReversePath) -> Vec<String> {
    let Ok(mut client) = Client::connect(&SystemNet, socket).await else { return Vec::new() };
    let mut lines = Vec::new();
    for destination in destinations.into_iter().filter(Destination::is_remote).take(DESTINATIONS_MAX) {
        let name = destination.to_string();
        match client.site(destination, sender.clone()).await {
            Ok(Some(state)) => {
                lines.push(format!("{name} now:"));
                lines.extend(sites::lines(&state, now()).into_iter().map(|line| format!("  {line}")));
            }
            Ok(None) => lines.push(format!("{name} now: nothing is known, no mail went there of late")),
            Err(_) => break,
        }
    }
    lines
}
