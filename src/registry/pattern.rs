//! Patterns of repositories: `library/*`, `corp/**`, `*/nginx`.

use super::name::RepositoryName;

/// A pattern over repository names. `*` stands for any characters within one path component, `**` for any at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

/// Wildcards in one pattern; nobody writes more.
const WILDCARDS_MAX: usize = 8;

/// The text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a pattern holds the characters of a repository name and at most {WILDCARDS_MAX} wildcards `*` or `**`"
)]
pub struct PatternError;

impl Pattern {
    /// Reads a pattern.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let sound =
            text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-/*".contains(&b));
        let wildcards = text.replace("**", "*").matches('*').count();
        if text.is_empty() || !sound || wildcards > WILDCARDS_MAX {
            Err(PatternError)
        } else {
            Ok(Self(text.to_owned()))
        }
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name fits the pattern as a whole.
    pub fn matches(&self, name: &RepositoryName) -> bool {
        fits(self.0.as_bytes(), name.as_str().as_bytes())
    }
}

/// Walks along the pattern with all places of the name that it may have come to: patterns come from operators and names
/// from anybody, so that no pair of them may take long.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let mut reached: Vec<bool> = std::iter::once(true).chain(name.iter().map(|_| false)).collect();
    let mut rest = pattern;
    loop {
        let places = reached.iter_mut().zip(name.iter().map(Some).chain([None]));
        let mut open = false;
        match rest {
            [] => return reached.last() == Some(&true),
            [b'*', b'*', behind @ ..] => {
                rest = behind;
                places.for_each(|(here, _)| {
                    open |= *here;
                    *here = open;
                });
            }
            [b'*', behind @ ..] => {
                rest = behind;
                places.for_each(|(here, next)| {
                    *here |= open;
                    open = *here && next.is_some_and(|next| *next != b'/');
                });
            }
            [first, behind @ ..] => {
                rest = behind;
                places.for_each(|(here, next)| open = std::mem::replace(here, open) && next == Some(first));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, name: &str, expected: bool) {
        assert_eq!(
            Pattern::parse(pattern).unwrap().matches(&name.parse().unwrap()),
            expected,
            "{pattern} {name}"
        );
    }

    #[test]
    fn one_star_stays_within_a_component() {
        check("library/*", "library/alpine", true);
        check("library/*", "library/a/b", false);
        check("*", "alpine", true);
        check("*", "library/alpine", false);
        check("*/nginx", "bitnami/nginx", true);
        check("library/al*e", "library/alpine", true);
    }

    #[test]
    fn two_stars_cross_components() {
        check("corp/**", "corp/a/b/c", true);
        check("corp/**", "corporate/a", false);
        check("**", "anything/at/all", true);
        check("library/alpine", "library/alpine", true);
        check("library/alpine", "library/alpine2", false);
    }

    #[test]
    fn what_no_name_can_match_is_refused() {
        for bad in ["", "Library/*", "a b", "a?c", "*a*b*c*d*e*f*g*h*i"] {
            assert_eq!(Pattern::parse(bad), Err(PatternError), "{bad}");
        }
    }

    /// It took ages: every star was tried at every place.
    #[test]
    fn many_stars_over_a_long_name_are_no_work() {
        check(&"**a".repeat(8), &format!("{}b", "a".repeat(254)), false);
        check(&"**a".repeat(8), &"a".repeat(255), true);
    }
}
