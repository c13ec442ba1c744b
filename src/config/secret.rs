//! Text that must not be seen.

use std::fmt;

/// A password or the like. It has no `Display`, its `Debug` shows nothing, and it is read by name alone.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself; for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The account that the mirror has at its upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// `proxy.username`.
    pub username: String,
    /// `proxy.password`: a password or an access token.
    pub password: Secret,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_nothing() {
        let account = Account { username: "bot".into(), password: Secret::new("hunter2") };
        assert!(!format!("{account:?}").contains("hunter2"));
        assert_eq!(account.password.expose(), "hunter2");
    }
}
