//! The pages: /healthz, /readyz, /metrics. They tell the truth at the moment of asking; nothing is cached.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::control::{Admin, Health, METRICS_CONTENT_TYPE};

/// How long the delivery loop may take to answer: longer, and it counts as stuck.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// The routes; GET and HEAD only.
pub fn router(admin: Arc<dyn Admin>) -> Router {
    let pages = Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz)).route("/metrics", get(metrics));
    pages.fallback(|| async { text(StatusCode::NOT_FOUND, "not found\n".to_owned()) }).with_state(admin)
}

/// Whether the process serves and the delivery loop answers.
async fn healthz(State(admin): State<Arc<dyn Admin>>) -> Response {
    let health = health(&*admin).await;
    verdict(&[("delivery", health.delivery)])
}

/// Whether mail is taken: the listeners accept and the spool has room and can write.
async fn readyz(State(admin): State<Arc<dyn Admin>>) -> Response {
    let health = health(&*admin).await;
    verdict(&[("delivery", health.delivery), ("reception", health.reception), ("spool", health.spool)])
}

async fn metrics(State(admin): State<Arc<dyn Admin>>) -> Response {
    match tokio::time::timeout(ANSWER_MAX, admin.metrics()).await {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], text).into_response(),
        Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "delivery: no answer\n".to_owned()),
    }
}

async fn health(admin: &dyn Admin) -> Health {
    let stuck = || Health { delivery: Some(format!("no answer for {} seconds", ANSWER_MAX.as_secs())), ..Health::default() };
    tokio::time::timeout(ANSWER_MAX, admin.health()).await.unwrap_or_else(|_| stuck())
}

/// 200 if no part has trouble; 503 and the troubles, one a line.
fn verdict(parts: &[(&str, Option<String>)]) -> Response {
    let troubles: String = parts.iter().filter_map(|(part, trouble)| Some(format!("{part}: {}\n", trouble.as_ref()?))).collect();
    if troubles.is_empty() {
        return text(StatusCode::OK, "ok\n".to_owned());
    }
    text(StatusCode::SERVICE_UNAVAILABLE, troubles)
}

fn text(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fake::FakeAdmin;

    #[tokio::test(start_paused = true)]
    async fn a_delivery_loop_that_does_not_answer_is_not_healthy() {
        let admin = Arc::new(FakeAdmin::with_messages(1));
        *admin.health.lock().unwrap() = None;
        assert_eq!(healthz(State(admin.clone())).await.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(readyz(State(admin)).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
