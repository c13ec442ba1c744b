//! What is wrong with a configuration, and what is merely said about it. Nothing here ever shows a secret.

use std::fmt;
use std::sync::Arc;

/// Where a key was set: a place in the file, or a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    place: Arc<str>,
    position: Option<(usize, usize)>,
}

impl Origin {
    /// A variable, or a file as a whole.
    pub(super) fn whole(place: &str) -> Self {
        Self { place: cleaned(place).into(), position: None }
    }

    /// A line and a column of a file, both counted from 1.
    pub(super) fn position(place: &Arc<str>, line: usize, column: usize) -> Self {
        Self { place: Arc::clone(place), position: Some((line, column)) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)?;
        match self.position {
            Some((line, column)) => write!(f, ":{line}:{column}"),
            None => Ok(()),
        }
    }
}

/// One thing that keeps tidegate from starting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, as in `http.tls.key`; empty if the file as a whole is meant.
    pub key: String,
    /// Where it was set: `config.yml:12:3` or a variable's name. Empty if it was not set, which then is the problem.
    pub origin: String,
    /// What it was set to, masked if it is a secret; empty if that says nothing.
    pub value: String,
    /// Why it cannot stay.
    pub reason: String,
    /// What to do.
    pub fix: String,
}

impl Problem {
    pub(super) fn new(key: &str, reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            key: name_shown(key),
            origin: String::new(),
            value: String::new(),
            reason: cleaned(&reason.into()),
            fix: cleaned(&fix.into()),
        }
    }

    pub(super) fn at(mut self, origin: &Origin) -> Self {
        self.origin = origin.to_string();
        self
    }

    pub(super) fn value(mut self, text: &str) -> Self {
        self.value = shown(text);
        self
    }

    pub(super) fn masked(mut self) -> Self {
        self.value = MASK.to_owned();
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.key.is_empty() { "configuration" } else { &self.key })?;
        if !self.value.is_empty() {
            write!(f, " = {}", self.value)?;
        }
        if !self.origin.is_empty() {
            write!(f, " ({})", self.origin)?;
        }
        write!(f, ": {}\n  fix: {}", self.reason, self.fix)
    }
}

/// Everything that keeps tidegate from starting: two lines each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Errors(Vec<Problem>);

impl Errors {
    pub(super) fn one(problem: Problem) -> Self {
        Self(vec![problem])
    }

    /// The problems, in the order in which they were found.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().take(LINES_MAX).enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        match self.0.len().saturating_sub(LINES_MAX) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

/// Errors and warnings while they are collected.
#[derive(Debug, Default)]
pub(super) struct Report {
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl Report {
    pub(super) fn refuse(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    pub(super) fn warn(&mut self, key: &str, origin: &Origin, text: &str) {
        self.warnings.push(format!("{} ({origin}): {}", name_shown(key), cleaned(text)));
    }

    /// The warnings, or the problems if there are any.
    pub(super) fn finish(mut self) -> Result<Vec<String>, Errors> {
        if !self.problems.is_empty() {
            return Err(Errors(self.problems));
        }
        let more = self.warnings.len().saturating_sub(LINES_MAX);
        self.warnings.truncate(LINES_MAX);
        if more > 0 {
            self.warnings.push(format!("and {more} more warnings"));
        }
        Ok(self.warnings)
    }
}

/// Problems and warnings that are listed; nobody reads more, and a file of nonsense must not flood a log.
const LINES_MAX: usize = 200;

/// Characters of a value or a key that are shown; enough to recognise it.
const CHARACTERS_MAX: usize = 120;

/// What stands for a secret.
pub(super) const MASK: &str = "***";

/// A value for the eyes: in quotes, control characters escaped, cut, without what may be a login or a token in a URL.
pub(super) fn shown(text: &str) -> String {
    let open = without_login(text);
    let cut: String = open.chars().take(CHARACTERS_MAX).collect();
    let dots = if cut.len() < open.len() { "…" } else { "" };
    format!("{cut:?}{dots}")
}

/// Masks `user:password@` and a query, also of what is not quite a URL.
pub(super) fn without_login(text: &str) -> String {
    if text.starts_with('/') {
        return text.to_owned();
    }
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('@') => (format!("{scheme}://"), rest),
        _ => (String::new(), text),
    };
    let (login, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => (format!("{MASK}@"), rest),
        None => (String::new(), rest),
    };
    let rest = match rest.split_once('?') {
        Some((before, _)) => format!("{before}?{MASK}"),
        None => rest.to_owned(),
    };
    format!("{scheme}{login}{rest}")
}

/// A key for the eyes: cut, and without control characters.
pub(super) fn name_shown(key: &str) -> String {
    cleaned(key).chars().take(CHARACTERS_MAX).collect()
}

/// Without control characters: what is shown must not write to a terminal.
fn cleaned(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(shown(text), expected);
    }

    #[test]
    fn a_value_is_shown_without_login_and_query() {
        check("https://hub.example", "\"https://hub.example\"");
        check("https://bot:hunter2@hub.example/x", "\"https://***@hub.example/x\"");
        check("https://bot:hun/t@er2@hub.example", "\"https://***@hub.example\"");
        check("bot:hunter2@hub.example", "\"***@hub.example\"");
        check("https://hub.example?token=hunter2", "\"https://hub.example?***\"");
        check("a@b://hunter2@hub", "\"***@hub\"");
        check("/run/tidegate@1/key.pem", "\"/run/tidegate@1/key.pem\"");
    }

    #[test]
    fn a_value_is_cut_and_escaped() {
        check("a\u{1b}[2J\nb", "\"a\\u{1b}[2J\\nb\"");
        check(&"x".repeat(121), &format!("\"{}\"…", "x".repeat(120)));
    }

    #[test]
    fn a_problem_names_key_value_origin_reason_and_fix() {
        let place: Arc<str> = "config.yml".into();
        let problem = Problem::new("log.level", "no such level", "use info")
            .at(&Origin::position(&place, 12, 3))
            .value("loud");
        assert_eq!(
            Errors::one(problem).to_string(),
            "log.level = \"loud\" (config.yml:12:3): no such level\n  fix: use info"
        );
    }
}
