//! Documents that can be tested are tested.

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// All Rust files below a folder, as one text.
fn sources(folder: &str) -> String {
    let mut open = vec![root().join(folder)];
    let mut text = String::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|end| end == "rs") {
            text.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
    text
}

/// What stands between backticks and looks like a name.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split('`').skip(1).step_by(2).filter(move |name| name.len() > 1 && name.chars().all(word))
}

#[test]
fn every_promise_has_its_tests() {
    let (semantics, tests) = (read("docs/semantics.md"), sources("tests/it"));
    let promises = semantics.split("\n* ").skip(1);
    let mut count = 0;
    for promise in promises {
        let names: Vec<_> = quoted(promise).filter(|name| name.contains('_')).collect();
        assert!(!names.is_empty(), "no test stands behind: {promise}");
        for name in names {
            assert!(tests.contains(&format!("fn {name}(")), "there is no test {name}");
            count += 1;
        }
    }
    assert!(count > 60, "only {count} tests were found: the document has another form than this test thinks");
}

#[test]
fn every_fault_has_its_tests() {
    let (testing, tests) = (read("docs/testing.md"), sources("tests/it") + &sources("src"));
    let (_, tables) = testing.split_once("## Faults").unwrap();
    let rows = tables.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| fault "));
    let mut count = 0;
    for row in rows {
        let names: Vec<_> = quoted(row).filter(|name| name.contains('_')).collect();
        assert!(!names.is_empty(), "no test stands behind: {row}");
        for name in names {
            assert!(tests.contains(&format!("fn {name}(")), "there is no test {name}");
            count += 1;
        }
    }
    assert!(count > 70, "only {count} tests were found: the document has another form than this test thinks");
}

#[test]
fn every_limit_is_in_the_threat_model() {
    let (model, source) = (read("docs/threat-model.md"), sources("src"));
    let ends = ["_MAX", "_WAIT", "_WAITS", "_MIN", "_FOR", "_AFTER", "_INTERVAL"];
    let declared = source.lines().filter_map(|line| line.trim().split_once("const "));
    let names = declared.filter_map(|(_, rest)| rest.split_once(':')).map(|(name, _)| name);
    let limits: Vec<_> = names.filter(|name| ends.iter().any(|end| name.ends_with(end))).collect();
    assert!(limits.len() > 50, "{limits:?}");
    for name in limits {
        assert!(model.contains(&format!("{name}`")), "{name} is not in docs/threat-model.md");
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut documents: Vec<PathBuf> =
        std::fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path()).collect();
    documents.extend(std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    documents.retain(|path| path.extension().is_some_and(|end| end == "md"));
    assert!(documents.len() >= 12, "{documents:?}");
    for document in documents {
        let text = std::fs::read_to_string(&document).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            if target.contains("://") {
                continue;
            }
            let path = if file.is_empty() { document.clone() } else { document.parent().unwrap().join(file) };
            assert!(path.exists(), "{}: {target}", document.display());
            if !anchor.is_empty() {
                let headings = std::fs::read_to_string(&path).unwrap();
                let found =
                    headings.lines().filter(|line| line.starts_with('#')).any(|line| slug(line) == anchor);
                assert!(found, "{}: {target}", document.display());
            }
        }
    }
}

/// A heading as it stands in a link.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// `edge → engine → {index, store, upstream} → sys`: a module uses what is below it, never what is beside or above it.
/// `registry` uses nothing; `config` and `observe` stand at the side.
#[test]
fn arrows_between_modules_go_down() {
    let layers: [&[&str]; 5] =
        [&["cli"], &["edge"], &["engine"], &["index", "store", "upstream"], &["sys", "registry"]];
    let side = ["config", "observe"];
    let mut seen = 0;
    for (depth, layer) in layers.iter().enumerate() {
        let below: Vec<_> = match depth {
            4 => Vec::new(),
            _ => layers[depth + 1..].concat().into_iter().chain(side).collect(),
        };
        for module in *layer {
            seen += check_arrows(module, &below);
        }
    }
    seen += check_arrows("config", &["registry", "sys"]);
    seen += check_arrows("observe", &["config", "registry", "sys"]);
    assert!(seen > 100, "only {seen} arrows were found");
}

/// How many arrows there are from a module; all must lead to one of those.
fn check_arrows(module: &str, allowed: &[&str]) -> usize {
    let source = format!("{}\n{}", read(format!("src/{module}.rs")), sources(&format!("src/{module}")));
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut count = 0;
    for line in code {
        for rest in line.split("crate::").skip(1) {
            let target: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            assert!(
                target == module || target.is_empty() || allowed.contains(&target.as_str()),
                "{module} uses {target}: {line}"
            );
            count += 1;
        }
    }
    count
}
