//! Commands for the mirror of this configuration: over its admin socket if it runs, else on its volume.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::{dwelling, refuse, say, serve};
use crate::config::{Config, Inputs};
use crate::engine::Command;
use crate::index::{Heat, Index};
use crate::observe::metrics::Metrics;
use crate::store::StoreError;

/// No mirror runs here, and its volume can't be had either.
const NOBODY: u8 = 3;

/// Longest answer: the reports are short, a list of pins has 1,000 lines.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long the end waits for the disk.
const SETTLE_WAIT: Duration = Duration::from_secs(10);

/// Why a command was not carried out.
enum Refused {
    /// The mirror said so, or can't be understood.
    Word(String),
    /// There is none.
    Nobody(String),
}

/// Asks the running mirror for a document, and prints what `show` makes of it. Nobody else can do it.
pub fn query(
    inputs: &Inputs,
    method: &Method,
    path: &str,
    body: Vec<u8>,
    show: impl FnOnce(&Value) -> Result<String, String>,
) -> ExitCode {
    run_with(inputs, async |config| {
        let socket = UnixStream::connect(&config.admin.socket).await.map_err(|error| {
            Refused::Nobody(format!("{} can't be reached: {error}", config.admin.socket.display()))
        })?;
        let document = ask(socket, method, path, body).await.map_err(Refused::Word)?;
        write(&show(&document).map_err(Refused::Word)?)
    })
}

/// Carries commands out, and prints the documents that come of them.
pub fn run(inputs: &Inputs, commands: &[Command], json: bool) -> ExitCode {
    run_with(inputs, async |config| {
        for command in commands {
            print(&carry_out(config, inputs, command).await?, json)?;
        }
        Ok(())
    })
}

fn run_with(inputs: &Inputs, work: impl AsyncFnOnce(&Config) -> Result<(), Refused>) -> ExitCode {
    let config = match Config::load(inputs) {
        Ok(config) => config,
        Err(errors) => return refuse(&errors),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("no runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(work(&config));
    runtime.shutdown_timeout(Duration::from_secs(1));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Refused::Word(reason)) => {
            say(&reason);
            ExitCode::FAILURE
        }
        Err(Refused::Nobody(reason)) => {
            say(&reason);
            ExitCode::from(NOBODY)
        }
    }
}

fn print(document: &Value, json: bool) -> Result<(), Refused> {
    write(&if json { format!("{document}\n") } else { plain(document) })
}

fn write(text: &str) -> Result<(), Refused> {
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Refused::Word(format!("stdout: {error}")))
}

async fn carry_out(config: &Config, inputs: &Inputs, command: &Command) -> Result<Value, Refused> {
    match UnixStream::connect(&config.admin.socket).await {
        Ok(socket) => {
            let body = serde_json::to_vec(command).map_err(|error| Refused::Word(error.to_string()))?;
            ask(socket, &Method::POST, "/v1/operate", body).await.map_err(Refused::Word)
        }
        Err(error) => alone(config, inputs, command).await.map_err(|refused| match refused {
            Refused::Nobody(reason) => Refused::Nobody(format!(
                "{} can't be reached ({error}), and {reason}",
                config.admin.socket.display()
            )),
            word @ Refused::Word(_) => word,
        }),
    }
}

/// Asks the running mirror.
async fn ask(socket: UnixStream, method: &Method, path: &str, body: Vec<u8>) -> Result<Value, String> {
    let broken = |error: &dyn std::fmt::Display| format!("the mirror broke off: {error}");
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(socket)).await.map_err(|error| broken(&error))?;
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "tidegate");
    let request = request.body(Full::<bytes::Bytes>::from(body));
    let request = request.map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| broken(&error))?.to_bytes();
    let document: Value =
        serde_json::from_slice(&body).map_err(|_| format!("the mirror answered {status}"))?;
    match (status, document.get("error").and_then(Value::as_str)) {
        (StatusCode::OK, _) => Ok(document),
        (_, reason) => Err(reason.map_or_else(|| format!("the mirror answered {status}"), str::to_owned)),
    }
}

/// Does it here, with the lock of the volume, which no running mirror lets go.
async fn alone(config: &Config, inputs: &Inputs, command: &Command) -> Result<Value, Refused> {
    let store = dwelling::open(config, inputs).map_err(|error| match error {
        StoreError::Locked { .. } => Refused::Nobody(error.to_string()),
        other => Refused::Word(other.to_string()),
    })?;
    let index = Index::open(&store.index_folder()).with_heat(Heat::open(&store.heat_file()));
    let engine =
        serve::engine(config, inputs, store, index, Arc::new(Metrics::default())).map_err(Refused::Word)?;
    let done = engine.operate(command.clone()).await.map_err(Refused::Word)?;
    if tokio::time::timeout(SETTLE_WAIT, engine.settle()).await.is_err() {
        say("the disk is slow: what was changed last may be lost");
    }
    Ok(done)
}

/// A line for each field, and for each item of a list.
pub(super) fn plain(document: &Value) -> String {
    let Value::Object(fields) = document else { return format!("{document}\n") };
    let line = |name: &str, value: &Value| match value {
        Value::String(text) => format!("{name}: {text}\n"),
        Value::Array(items) => items.iter().map(|item| format!("{}\n", bare(item))).collect(),
        other => format!("{name}: {other}\n"),
    };
    fields.iter().map(|(name, value)| line(name, value)).collect()
}

fn bare(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_document_is_a_line_for_each_field_and_item() {
        assert_eq!(plain(&json!({ "checked": 3, "what": "x" })), "checked: 3\nwhat: x\n");
        assert_eq!(plain(&json!({ "pins": ["a/b:1", "c/*"] })), "a/b:1\nc/*\n");
        assert_eq!(plain(&json!(null)), "null\n");
    }
}
