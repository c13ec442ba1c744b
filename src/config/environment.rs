//! `REGISTRY_*` and `TIDEGATE_*`: each variable names a key, and its value takes the place of what the file has there.
//!
//! Names are matched without regard to case, by the names in YAML and by those of the Go fields, since `registry` knows
//! only the latter. Parents come before their children, whatever the order of the environment.

use std::cmp::Ordering;
use std::ffi::OsString;

use super::document::Node;
use super::overlay::{Overlay, Variable};
use super::report::{Errors, Origin, Problem, Report};
use super::schema::ROOT;

/// Says which file to read; no key.
pub(super) const CONFIGURATION_PATH: &str = "REGISTRY_CONFIGURATION_PATH";

const REGISTRY: &str = "REGISTRY_";
const TIDEGATE: &str = "TIDEGATE_";

/// The process environment, which is read nowhere else. What is not UTF-8 is left out, unless it is meant for us: then
/// it is an error.
pub fn process_variables() -> Result<Vec<(String, String)>, Errors> {
    texts_of(std::env::vars_os())
}

fn texts_of(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Vec<(String, String)>, Errors> {
    let mut texts = Vec::new();
    for (name, value) in variables {
        let is_ours = is_ours(&name.to_string_lossy());
        match (name.to_str(), value.into_string()) {
            (Some(name), Ok(value)) => texts.push((name.to_owned(), value)),
            _ if is_ours => return Err(Errors::one(not_text(&name.to_string_lossy()))),
            _ => {}
        }
    }
    Ok(texts)
}

fn is_ours(name: &str) -> bool {
    name.starts_with(REGISTRY) || name.starts_with(TIDEGATE)
}

fn not_text(name: &str) -> Problem {
    Problem::new(name, "the variable is not UTF-8", "set it again, as UTF-8, or unset it")
}

/// Names longer than the longest key; Kubernetes makes such from the names of services.
const SEGMENTS_MAX: usize = 24;

/// Puts the variables over a document.
pub(super) fn apply(root: &mut Node, variables: &[(String, String)], report: &mut Report) {
    let mut settings: Vec<_> = variables
        .iter()
        .filter(|(name, _)| is_ours(name) && name != CONFIGURATION_PATH)
        .map(|(name, value)| (segments(name), name.as_str(), value.as_str()))
        .collect();
    settings.sort_by(|(left, ..), (right, ..)| compare(left, right));
    let mut overlay = Overlay::new(report);
    for (segments, name, value) in &settings {
        let variable = Variable { name, value, origin: Origin::whole(name) };
        if segments.len() > SEGMENTS_MAX {
            overlay.unknown(&variable, "");
        } else {
            overlay.keys(root, ROOT, "", segments, &variable);
        }
    }
}

/// The name in parts, the first of which is a key of the top level.
fn segments(name: &str) -> Vec<&str> {
    match name.strip_prefix(TIDEGATE) {
        Some(rest) => std::iter::once("tidegate").chain(rest.split('_')).collect(),
        None => name.strip_prefix(REGISTRY).unwrap_or(name).split('_').collect(),
    }
}

/// By name, parents first; numbers by their value, so that item 10 comes after item 9.
fn compare(left: &[&str], right: &[&str]) -> Ordering {
    let key = |segment: &&str| (segment.parse::<u64>().unwrap_or(u64::MAX), segment.to_ascii_uppercase());
    left.iter().map(key).cmp(right.iter().map(key))
}

/// Whether Kubernetes sets a variable of this name for a service, as in `REGISTRY_PORT_5000_TCP_ADDR`.
pub(super) fn is_of_a_service(name: &str) -> bool {
    let parts: Vec<&str> = name.split('_').collect();
    let port = |rest: &[&str]| match rest {
        [] => true,
        [number, rest @ ..] => number.parse::<u16>().is_ok() && protocol(rest),
    };
    (1..parts.len()).any(|at| match parts.get(at..) {
        Some(["SERVICE", "HOST"] | ["SERVICE", "PORT", ..]) => true,
        Some(["PORT", rest @ ..]) => port(rest),
        _ => false,
    })
}

fn protocol(rest: &[&str]) -> bool {
    match rest {
        [] => true,
        [protocol, rest @ ..] => {
            matches!(*protocol, "TCP" | "UDP" | "SCTP") && matches!(rest, [] | ["PROTO" | "PORT" | "ADDR"])
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[track_caller]
    fn check(name: &[u8], value: &[u8], expected: Result<usize, &str>) {
        let variable = (OsString::from_vec(name.to_vec()), OsString::from_vec(value.to_vec()));
        match (texts_of(std::iter::once(variable)), expected) {
            (Ok(texts), Ok(count)) => assert_eq!(texts.len(), count),
            (Err(errors), Err(name)) => assert_eq!(errors.problems()[0].key, name),
            (got, expected) => panic!("{got:?}, not {expected:?}"),
        }
    }

    #[test]
    fn only_our_variables_must_be_text() {
        check(b"LANG", b"C", Ok(1));
        check(b"LANG", b"\xff", Ok(0));
        check(b"\xff", b"x", Ok(0));
        check(b"REGISTRY_HTTP_ADDR", b":5000", Ok(1));
        check(b"REGISTRY_HTTP_ADDR", b"\xff", Err("REGISTRY_HTTP_ADDR"));
        check(b"TIDEGATE_\xff", b"x", Err("TIDEGATE_\u{fffd}"));
    }
}
