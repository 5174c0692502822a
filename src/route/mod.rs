//! stub
use crate::config::Config;
use crate::directory::Directory;
use crate::mail::*;
use crate::system::*;
use std::sync::Arc;
pub struct Router;
pub enum Route {
    Alias(Vec<Address>),
    Deliver(Destination),
    Unknown,
}
pub struct Host {
    pub name: String,
    pub endpoint: Endpoint,
}
impl Router {
    pub fn new(_c: Arc<Config>, _d: Arc<Directory>, _s: System) -> Self {
        Self
    }
    pub fn route(&self, _a: &Address) -> Route {
        Route::Unknown
    }
    pub async fn hosts(&self, _d: &Destination) -> Result<Vec<Host>, Outcome> {
        Ok(vec![])
    }
}
