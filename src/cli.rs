//! The command line: our own commands, and the forms in which containers and units call `registry`.
//!
//! Exit codes: 0 done, 1 the configuration or the machine does not allow it, 2 the command line makes no sense, 3 no
//! mirror runs, and its volume can't be had.

mod certificates;
mod check;
mod dwelling;
mod operate;
mod renewals;
mod serve;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Errors, Inputs, process_variables};
use crate::engine::Command as Order;

/// A Docker Hub pull-through mirror with an HTTPS edge.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, disable_help_subcommand = false)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the mirror.
    Serve {
        /// A config.yml as registry reads it. Without one: REGISTRY_CONFIGURATION_PATH, then the default paths of both
        /// majors of registry, then none.
        config: Option<PathBuf>,
        /// A folder of which every pair of certificate and key is served, and followed: tidegate.tls.dir.
        #[arg(long)]
        tls_dir: Option<PathBuf>,
    },
    /// Print the effective configuration, secrets masked, or everything that is wrong with it.
    Check {
        /// A config.yml, found as `serve` finds it.
        config: Option<PathBuf>,
    },
    /// The certificates that are served.
    Cert {
        #[command(subcommand)]
        task: certificates::Task,
    },
    /// Keep an image, a digest or the images of repositories, whatever the budget says.
    Pin {
        /// library/alpine:3, sha256:…, or library/*
        what: String,
        #[command(flatten)]
        of: Of,
    },
    /// Let the budget decide again on what was pinned.
    Unpin {
        /// As it was pinned.
        what: String,
        #[command(flatten)]
        of: Of,
    },
    /// List what is pinned.
    Pins {
        #[command(flatten)]
        of: Of,
    },
    /// Make room now, as far as the budget wants it.
    Evict {
        /// Only say what would go.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        of: Of,
    },
    /// Hash everything that is held; what is damaged is set aside and fetched again when it is asked for.
    Scrub {
        #[command(flatten)]
        of: Of,
    },
    /// The index of what is held.
    Index {
        #[command(subcommand)]
        task: IndexTask,
    },
    /// As registry has it: with --dry-run says what would be evicted, else evicts and scrubs once.
    GarbageCollect {
        /// Only say what would go.
        #[arg(short, long)]
        dry_run: bool,
        /// Accepted; there is nothing untagged to tell apart here.
        #[arg(short = 'm', long)]
        delete_untagged: bool,
        /// Accepted.
        #[arg(short, long)]
        quiet: bool,
        #[command(flatten)]
        of: Of,
    },
}

#[derive(Debug, Subcommand)]
enum IndexTask {
    /// Take everything that the tree has into the index.
    Rebuild {
        #[command(flatten)]
        of: Of,
    },
    /// Compare index and tree, and say what differs.
    Verify {
        #[command(flatten)]
        of: Of,
    },
}

/// Which mirror a command is for, and how it answers.
#[derive(Debug, clap::Args)]
struct Of {
    /// The config.yml of the mirror, found as `serve` finds it.
    config: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Runs the command line to its end.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments = as_registry(arguments.collect());
    match Arguments::try_parse_from(arguments) {
        Ok(Arguments { command: Command::Serve { config, tls_dir } }) => {
            with_inputs(config, |inputs| serve::run(&watching(inputs, tls_dir.as_deref())))
        }
        Ok(Arguments { command: Command::Check { config } }) => with_inputs(config, check::run),
        Ok(Arguments { command: Command::Cert { task } }) => certificates::run(task),
        Ok(Arguments { command }) => {
            let (orders, of) = orders(command);
            with_inputs(of.config, |inputs| operate::run(inputs, &orders, of.json))
        }
        Err(error) => {
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}

/// What a command asks of a mirror, one after the other.
fn orders(command: Command) -> (Vec<Order>, Of) {
    match command {
        Command::Pin { what, of } => (vec![Order::Pin { what }], of),
        Command::Unpin { what, of } => (vec![Order::Unpin { what }], of),
        Command::Pins { of } => (vec![Order::Pins], of),
        Command::Evict { dry_run, of } => (vec![Order::Evict { dry_run }], of),
        Command::Scrub { of } => (vec![Order::Scrub], of),
        Command::Index { task: IndexTask::Rebuild { of } } => (vec![Order::IndexRebuild], of),
        Command::Index { task: IndexTask::Verify { of } } => (vec![Order::IndexVerify], of),
        Command::GarbageCollect { dry_run: true, of, .. } => (vec![Order::Evict { dry_run: true }], of),
        Command::GarbageCollect { of, .. } => (vec![Order::Evict { dry_run: false }, Order::Scrub], of),
        Command::Cert { .. } => (Vec::new(), Of { config: None, json: false }),
        Command::Serve { config, .. } | Command::Check { config } => (Vec::new(), Of { config, json: false }),
    }
}

/// The same with a folder of certificates, as its variable has it.
fn watching(inputs: &Inputs, folder: Option<&Path>) -> Inputs {
    let mut inputs = inputs.clone();
    if let Some(folder) = folder {
        inputs.variables.retain(|(name, _)| name != TLS_DIR);
        inputs.variables.push((TLS_DIR.to_owned(), folder.display().to_string()));
    }
    inputs
}

/// The variable of `tidegate.tls.dir`.
const TLS_DIR: &str = "TIDEGATE_TLS_DIR";

/// Rewrites the forms of `registry` and of its image's entrypoint into ours: a file name alone means `serve`, and `-v`
/// is the version.
fn as_registry(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let called =
        arguments.first().map(Path::new).and_then(Path::file_name).is_some_and(|name| name == "registry");
    let Some(first) = arguments.get(1) else { return arguments };
    let is_file = matches!(Path::new(first).extension().and_then(|end| end.to_str()), Some("yml" | "yaml"));
    if is_file {
        arguments.insert(1, "serve".into());
    } else if called && first == "-v" {
        return vec!["tidegate".into(), "--version".into()];
    }
    arguments
}

fn with_inputs(file: Option<PathBuf>, command: impl FnOnce(&Inputs) -> ExitCode) -> ExitCode {
    match process_variables() {
        Ok(variables) => command(&Inputs { file, variables }),
        Err(errors) => refuse(&errors),
    }
}

/// Prints everything that is wrong with the configuration.
fn refuse(errors: &Errors) -> ExitCode {
    say(&errors.to_string());
    ExitCode::FAILURE
}

/// Writes to stderr; a closed one is nobody's fault.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", text.trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(given: &[&str], expected: &[&str]) {
        let given = given.iter().map(OsString::from).collect();
        assert_eq!(as_registry(given), expected.iter().map(OsString::from).collect::<Vec<_>>());
    }

    #[test]
    fn the_forms_of_registry_are_understood() {
        check(&["registry", "serve", "/c.yml"], &["registry", "serve", "/c.yml"]);
        check(
            &["registry", "/etc/docker/registry/config.yml"],
            &["registry", "serve", "/etc/docker/registry/config.yml"],
        );
        check(&["tidegate", "/c.yaml"], &["tidegate", "serve", "/c.yaml"]);
        check(&["/bin/registry", "-v"], &["tidegate", "--version"]);
        check(&["tidegate", "-v"], &["tidegate", "-v"]);
        check(&["registry"], &["registry"]);
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
        let parsed = Arguments::try_parse_from(["registry", "garbage-collect", "-m", "/c.yml"]).unwrap();
        assert!(matches!(parsed.command, Command::GarbageCollect { delete_untagged: true, .. }));
    }
}
