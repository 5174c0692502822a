//! Who runs this process, as the system's user database has it.

use nix::unistd::{Uid, User};

/// A system user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnUser {
    /// The login name; `uid-33` for a user that the database doesn't have.
    pub name: String,
    /// The name in full; may be empty.
    pub full_name: String,
}

/// The user that started this process.
pub fn own_user() -> OwnUser {
    let id = Uid::current();
    match User::from_uid(id) {
        Ok(Some(user)) => {
            let full_name = full_name(&user.gecos.to_string_lossy(), &user.name);
            OwnUser { name: user.name, full_name }
        }
        // A database that can't be asked is no reason not to send mail.
        _ => OwnUser { name: format!("uid-{id}"), full_name: String::new() },
    }
}

/// The first part of the user's description; `&` in it is the login name with a capital.
fn full_name(description: &str, login: &str) -> String {
    let first = description.split(',').next().unwrap_or("");
    let mut letters = login.chars();
    let capital: String = letters.next().map(|c| c.to_ascii_uppercase()).into_iter().chain(letters).collect();
    first.replace('&', &capital)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_description() {
        assert_eq!(full_name("Ann Example,Room 7,,", "ann"), "Ann Example");
        assert_eq!(full_name("& Example", "ann"), "Ann Example");
        assert_eq!(full_name("", "ann"), "");
        assert!(!own_user().name.is_empty());
    }
}
