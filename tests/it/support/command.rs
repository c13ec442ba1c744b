//! Other programs, which must succeed.

use std::process::{Command, Stdio};

/// Runs a program, and gives what it wrote to stdout.
#[track_caller]
pub fn run(program: &str, arguments: &[&str]) -> String {
    run_with(program, arguments, &[])
}

/// The same with variables.
#[track_caller]
pub fn run_with(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let output =
        Command::new(program).args(arguments).envs(variables.iter().copied()).stdin(Stdio::null()).output();
    let output = output
        .unwrap_or_else(|error| panic!("{program} is needed by the tests (tests/run installs it): {error}"));
    assert!(
        output.status.success(),
        "{program} {}: {}\n{}{}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
