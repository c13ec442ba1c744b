//! Repository names (OCI distribution spec, "Pulling manifests"): lower-case path components, 255 characters in all.

use std::fmt;
use std::str::FromStr;

/// A repository's name inside its upstream, such as `library/alpine`.
///
/// Holds only characters of the spec's grammar, so it may stand in a URL or a path as it is.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryName(String);

/// Why a text is no repository name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// More than [`RepositoryName::CHARACTERS_MAX`] characters.
    #[error("repository name must not be more than 255 characters")]
    TooLong,
    /// Outside the grammar `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/…)*`.
    #[error("repository name has an empty or malformed component")]
    Malformed,
}

impl RepositoryName {
    /// The limit of the spec and of `registry`; longer ones do not fit a path component budget either.
    pub const CHARACTERS_MAX: usize = 255;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name has just one component (`alpine`), which on Docker Hub means `library/alpine`.
    pub fn is_one_part(&self) -> bool {
        !self.0.contains('/')
    }

    /// `library/<name>`: how Docker Hub spells its official images on the wire.
    pub fn in_library(&self) -> Self {
        Self(format!("library/{}", self.0))
    }

    /// Splits off the first component: `quay.io/a/b` gives `quay.io` and `a/b`.
    pub fn split_first(&self) -> Option<(&str, Self)> {
        let (first, rest) = self.0.split_once('/')?;
        Some((first, Self(rest.to_owned())))
    }
}

impl FromStr for RepositoryName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > Self::CHARACTERS_MAX {
            return Err(NameError::TooLong);
        }
        if text.split('/').all(is_component) { Ok(Self(text.to_owned())) } else { Err(NameError::Malformed) }
    }
}

/// `[a-z0-9]+` groups joined by one of `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let mut separator = String::new();
    let mut after_group = false;
    for character in component.chars() {
        match character {
            'a'..='z' | '0'..='9' => {
                let joins =
                    separator.chars().all(|c| c == '-') || matches!(separator.as_str(), "." | "_" | "__");
                let well_joined = separator.is_empty() || (after_group && joins);
                if !well_joined {
                    return false;
                }
                separator.clear();
                after_group = true;
            }
            '.' | '_' | '-' => separator.push(character),
            _ => return false,
        }
    }
    after_group && separator.is_empty()
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, valid: bool) {
        assert_eq!(text.parse::<RepositoryName>().is_ok(), valid, "{text}");
    }

    #[test]
    fn the_grammar_of_the_spec_decides() {
        for good in ["a", "library/alpine", "a.b/c_d/e__f/g---h", "0/1", "quay.io/x"] {
            check(good, true);
        }
        for bad in [
            "", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "a._b", "-a", "a-", ".", "..", "a/../b",
            "a%2e", "a\\b", "ü",
        ] {
            check(bad, false);
        }
    }

    #[test]
    fn two_hundred_and_fifty_five_characters_are_the_limit() {
        check(&"a".repeat(255), true);
        assert_eq!("a".repeat(256).parse::<RepositoryName>(), Err(NameError::TooLong));
    }

    #[test]
    fn a_first_component_splits_off() {
        let name: RepositoryName = "quay.io/a/b".parse().unwrap();
        let (first, rest) = name.split_first().unwrap();
        assert_eq!((first, rest.as_str()), ("quay.io", "a/b"));
        assert!("alpine".parse::<RepositoryName>().unwrap().split_first().is_none());
    }

    proptest! {
        #[test]
        fn a_valid_name_never_leaves_its_folder(text in "[a-z0-9./_%\\\\-]{0,40}") {
            if let Ok(name) = text.parse::<RepositoryName>() {
                prop_assert!(name.as_str().split('/').all(|part| !part.is_empty() && part != "." && part != ".."));
            }
        }
    }
}
