//! Which file is read, and its reading: bounded, as text.

use std::path::{Path, PathBuf};

use super::document::{self, Node};
use super::environment::CONFIGURATION_PATH;
use super::report::{Origin, Problem, Report};
use crate::sys::files;

/// Where the images of `registry` 3 and 2 have theirs.
pub(super) const DEFAULT_PATHS: [&str; 2] =
    ["/etc/distribution/config.yml", "/etc/docker/registry/config.yml"];

/// Largest configuration file; `registry`'s longest example has 8 KiB.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// Largest value from a file; an access token has about 2 KiB.
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// The file to read: the argument, else what the variable names, else the first default that exists.
pub(super) fn choose(
    argument: Option<&Path>,
    variables: &[(String, String)],
    defaults: &[&str],
) -> Option<PathBuf> {
    if let Some(argument) = argument {
        return Some(argument.to_owned());
    }
    let named = variables.iter().find(|(name, value)| name == CONFIGURATION_PATH && !value.is_empty());
    match named {
        Some((_, path)) => Some(PathBuf::from(path)),
        None => defaults.iter().map(PathBuf::from).find(|path| path.symlink_metadata().is_ok()),
    }
}

/// The chosen file's path and content; of none, what counts is the environment alone.
pub(super) fn read_chosen(
    chosen: Option<PathBuf>,
    defaults: &[&str],
    report: &mut Report,
) -> (Option<PathBuf>, Node) {
    let nothing = (None, Node::null(Origin::whole("environment")));
    let Some(path) = chosen else { return nothing };
    let found = defaults.iter().any(|default| Path::new(default) == path);
    if found {
        warn_of_another(&path, defaults, report);
    }
    let root = read(&path, report);
    if found && is_of_debians_package(&root) {
        let text = "it is not read: it is the example of Debian's docker-registry, whose logins let nobody in; name it to \
                    have it read";
        report.warn(&path.display().to_string(), &root.origin, text);
        return nothing;
    }
    (Some(path), root)
}

/// Says so if there is another file, with other content, under another default path.
fn warn_of_another(path: &Path, defaults: &[&str], report: &mut Report) {
    let content = |path: &Path| files::read_small(path, FILE_BYTES_MAX).ok().flatten();
    let ours = content(path);
    for other in defaults.iter().map(Path::new).filter(|other| *other != path) {
        let theirs = content(other);
        if theirs.is_some() && theirs != ours {
            let origin = Origin::whole(&path.display().to_string());
            let text = "it is not read: the file that is read comes first; remove one of them, or name the right one";
            report.warn(&other.display().to_string(), &origin, text);
        }
    }
}

/// Whether a file is what Debian's package of `registry` 2.8 installs: no mirror, and logins whose file is a folder, so
/// nobody relies on them. A machine with that package still runs a mirror by its environment alone.
fn is_of_debians_package(root: &Node) -> bool {
    let under = |node: &Node, name: &str| node.child(name).map(|entry| entry.node.clone());
    let logins = under(root, "auth").and_then(|auth| under(&auth, "htpasswd"));
    let path = logins.and_then(|logins| under(&logins, "path"));
    let is_folder = path.is_some_and(|path| path.text().is_some_and(|path| Path::new(path).is_dir()));
    is_folder && root.child("proxy").is_none()
}

/// Reads a configuration file and checks its version.
fn read(path: &Path, report: &mut Report) -> Node {
    let place = path.display().to_string();
    let origin = Origin::whole(&place);
    match bounded(path, FILE_BYTES_MAX) {
        Ok(text) => parse(&text, &place, report),
        Err(reason) => {
            let fix = "name a readable file of YAML, or name none to run with the defaults";
            report.refuse(Problem::new("", reason, fix).at(&origin));
            Node::null(origin)
        }
    }
}

/// Reads what a file holds.
pub(super) fn parse(text: &str, place: &str, report: &mut Report) -> Node {
    match document::parse(text, place) {
        Ok(node) => {
            check_version(&node, report);
            node
        }
        Err(problem) => {
            report.refuse(problem);
            Node::null(Origin::whole(place))
        }
    }
}

/// The only version there ever was; `registry` refuses all others, and none.
const VERSION: &str = "0.1";

fn check_version(root: &Node, report: &mut Report) {
    let entry = root.child("version");
    let version = entry.and_then(|entry| entry.node.text());
    if version == Some(VERSION) {
        return;
    }
    let reason = "unsupported version";
    let problem = Problem::new("version", reason, "write `version: 0.1` at the top of the file");
    let problem = problem.at(entry.map_or(&root.origin, |entry| &entry.node.origin));
    report.refuse(match version {
        Some(version) => problem.value(version),
        None => problem,
    });
}

/// The content of a file as a value: one newline at its end, which editors add, is left out.
pub(super) fn read_value(path: &str) -> Result<String, String> {
    let text = bounded(Path::new(path), VALUE_BYTES_MAX)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').filter(|_| line.len() < text.len()).unwrap_or(line).to_owned())
}

fn bounded(path: &Path, bytes_max: usize) -> Result<String, String> {
    let bytes =
        files::read_small(path, bytes_max).map_err(|error| format!("the file cannot be read: {error}"))?;
    let bytes = bytes.ok_or_else(|| format!("the file has more than {} KiB", bytes_max / 1024))?;
    String::from_utf8(bytes).map_err(|_| "the file is not UTF-8".to_owned())
}
