//! `tidegate check`: what would be done with this configuration.

use std::io::Write;
use std::process::ExitCode;

use super::{refuse, say};
use crate::config::{Config, Inputs};

/// Prints the effective configuration on stdout and its warnings on stderr, or everything that is wrong.
pub fn run(inputs: &Inputs) -> ExitCode {
    let config = match Config::load(inputs) {
        Ok(config) => config,
        Err(errors) => return refuse(&errors),
    };
    config.warnings.iter().for_each(|warning| say(&format!("warning: {warning}")));
    match std::io::stdout().write_all(config.effective().as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
