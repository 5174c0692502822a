//! Gives root away once the ports are bound.

use std::fmt;

/// The server could not become the configured user.
#[derive(Debug)]
pub struct PrivilegeError {
    user: String,
    why: String,
}

impl fmt::Display for PrivilegeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user: can't become \"{}\": {}; name an existing system user, or set user = \"\" to stay", self.user, self.why)
    }
}

impl std::error::Error for PrivilegeError {}

/// Whether the process runs as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Becomes `user`, with its groups, for the whole process and for good. Does nothing when not started as root or when no
/// user is named.
pub fn drop_to(user: &str) -> Result<(), PrivilegeError> {
    if user.is_empty() || !is_root() {
        return Ok(());
    }
    privdrop::PrivDrop::default()
        .user(user)
        .include_default_supplementary_groups()
        .apply()
        .map_err(|error| PrivilegeError { user: user.to_owned(), why: error.to_string() })
}
