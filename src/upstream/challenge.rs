//! `WWW-Authenticate` (RFC 9110 section 11.6.1, the distribution spec's token documents): what an upstream wants to see.

/// What an upstream asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// A token from a server.
    Bearer {
        /// Where to get it.
        realm: String,
        /// For whom it is.
        service: Option<String>,
        /// `insufficient_scope` and the like: the token was understood and did not suffice.
        error: Option<String>,
    },
    /// User name and password.
    Basic,
}

/// Longest header value that is read; real ones have about 150 characters.
const VALUE_CHARACTERS_MAX: usize = 8 * 1024;

/// Most parameters of one challenge.
const PARAMETERS_MAX: usize = 16;

/// Finds the best challenge in the lines of a header: a bearer token before a password.
pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Option<Challenge> {
    let found: Vec<_> =
        lines.into_iter().filter(|line| line.len() <= VALUE_CHARACTERS_MAX).flat_map(challenges).collect();
    let bearer = found.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
    bearer.or(found.first()).cloned()
}

/// All challenges of one line. A scheme is a word that a parameter does not follow with `=`.
fn challenges(line: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut rest = line.trim_start_matches([' ', ',']);
    while !rest.is_empty() {
        let (scheme, after) = word(rest);
        if scheme.is_empty() {
            break;
        }
        let (parameters, after) = parameters(after);
        found.extend(challenge(scheme, &parameters));
        rest = after.trim_start_matches([' ', ',']);
    }
    found
}

fn challenge(scheme: &str, parameters: &[(String, String)]) -> Option<Challenge> {
    let named =
        |wanted: &str| parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" => Some(Challenge::Bearer {
            realm: named("realm")?,
            service: named("service"),
            error: named("error"),
        }),
        "basic" => Some(Challenge::Basic),
        _ => None,
    }
}

/// `name=value` pairs up to the next scheme, and what follows them.
fn parameters(text: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    let mut rest = text;
    while found.len() < PARAMETERS_MAX {
        let trimmed = rest.trim_start_matches([' ', ',']);
        let (name, after) = word(trimmed);
        let Some(value) = after.trim_start().strip_prefix('=').filter(|_| !name.is_empty()) else {
            return (found, trimmed);
        };
        let (value, after) = value_of(value.trim_start());
        found.push((name.to_ascii_lowercase(), value));
        rest = after;
    }
    (found, "")
}

fn word(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || "-_.!#$%&'*+^`|~".contains(c)))
        .unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

/// A quoted string with its escapes undone, or a bare word.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        let (value, rest) = text.split_at_checked(end).unwrap_or((text, ""));
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bearer(realm: &str, service: Option<&str>, error: Option<&str>) -> Challenge {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Challenge::Bearer { realm: realm.into(), service: owned(service), error: owned(error) }
    }

    #[track_caller]
    fn check(lines: &[&str], expected: Option<Challenge>) {
        assert_eq!(parse(lines.iter().copied()), expected, "{lines:?}");
    }

    #[test]
    fn the_challenge_of_docker_hub() {
        let line = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/a:pull",error="insufficient_scope""#;
        check(
            &[line],
            Some(bearer(
                "https://auth.docker.io/token",
                Some("registry.docker.io"),
                Some("insufficient_scope"),
            )),
        );
    }

    #[test]
    fn other_spellings() {
        check(&["bearer REALM=https://a/t , service = x"], Some(bearer("https://a/t", Some("x"), None)));
        check(&[r#"Bearer realm="a\"b\\c, d""#], Some(bearer("a\"b\\c, d", None, None)));
        check(&[r#"Basic realm="x""#], Some(Challenge::Basic));
        check(&["Basic"], Some(Challenge::Basic));
    }

    #[test]
    fn a_token_is_preferred_to_a_password() {
        let expected = Some(bearer("r", None, None));
        check(&[r#"Basic realm="x", Bearer realm="r""#], expected.clone());
        check(&[r#"Basic realm="x""#, r#"Bearer realm="r""#], expected);
    }

    #[test]
    fn nonsense_is_no_challenge() {
        for line in ["", ",,,", "=", "Negotiate abc==", "Bearer", r#"Bearer service="x""#, r#"Bearer realm"#]
        {
            check(&[line], None);
        }
        check(&[&format!("Bearer realm=\"{}\"", "x".repeat(9000))], None);
    }

    proptest! {
        #[test]
        fn any_line_is_read_without_a_panic(line in "\\PC{0,120}") {
            let _ = parse([line.as_str()]);
        }

        #[test]
        fn lines_of_the_right_alphabet_too(line in "[Ba-z =\",\\\\]{0,60}") {
            let _ = parse([line.as_str()]);
        }
    }
}
