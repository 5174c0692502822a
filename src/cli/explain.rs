//! `explain`: how mail to an address would be routed, step by step. Nothing is sent; the DNS is asked.

use std::sync::Arc;

use serde_json::json;

use super::failure::Failure;
use super::print::Out;
use super::{Context, arguments, block_on, settings, system};
use crate::mail::ReversePath;
use crate::route::Router;

pub(super) fn explain(context: &Context<'_>, arguments: &arguments::Explain, out: &mut Out<'_>) -> Result<(), Failure> {
    let loaded = context.load()?;
    let directory = settings::files(&loaded).map_err(|problems| Failure::problems(&problems))?;
    let system = system(&loaded.config)?;
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
