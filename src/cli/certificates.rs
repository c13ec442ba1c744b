//! `tidegate cert …`: what is served, new looks at the files, pairs for another process, and pairs for those who have none.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use http::Method;
use serde::Deserialize;

use super::{Of, operate, say, with_inputs};
use crate::config::{Formatter, Level, Log};
use crate::edge::acme::Wish;
use crate::edge::certificates::{Listed, SelfSigned, self_signed};
use crate::edge::reload;
use crate::observe::lines::Lines;
use crate::observe::log;

/// What can be done with certificates.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// List what is served, from where, until when, and what is wrong.
    Show {
        #[command(flatten)]
        of: Of,
    },
    /// Have the running mirror read all certificate files now, and list what it serves then.
    Reload {
        #[command(flatten)]
        of: Of,
    },
    /// Have the running mirror ask its CA for a certificate now, if the CA's limits allow it.
    Renew {
        /// One of the names in http.tls.letsencrypt.hosts.
        name: String,
        #[command(flatten)]
        of: Of,
    },
    /// Have the running mirror try every challenge with a CA for trials; nothing of it is stored or served.
    Test {
        /// One of the names in http.tls.letsencrypt.hosts.
        name: String,
        /// The directory of that CA. The default is that of Let's Encrypt's staging, for mirrors that use Let's Encrypt.
        #[arg(long)]
        directory: Option<String>,
        #[command(flatten)]
        of: Of,
    },
    /// Hand the good pairs of one folder on to another, as they change: for a small process that may read the first one, and a
    /// mirror that may not.
    Feed {
        /// The folder to watch, such as /root/tls.
        #[arg(long)]
        from: PathBuf,
        /// The folder that the mirror watches. Its owner and group get the files.
        #[arg(long)]
        to: PathBuf,
    },
    /// Make a pair, and a CA that clients can be told to trust.
    SelfSigned {
        /// The folder that is served; fullchain.pem and privkey.pem are put there.
        #[arg(long)]
        out: PathBuf,
        /// The folder of the CA: tidegate-ca beside the other one. It is used again if it is there.
        #[arg(long)]
        ca: Option<PathBuf>,
        /// DNS names and IP addresses by which clients call the mirror.
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// The answer of a running mirror.
#[derive(Debug, Deserialize)]
struct Listing {
    certificates: Vec<Listed>,
}

/// Carries it out.
pub fn run(task: Task) -> ExitCode {
    match task {
        Task::Show { of } => show(of, Method::GET),
        Task::Reload { of } => show(of, Method::POST),
        Task::Renew { name, of } => wish(&Wish::Renew { name }, of),
        Task::Test { name, directory, of } => wish(&Wish::Test { name, directory }, of),
        Task::Feed { from, to } => feed(&from, &to),
        Task::SelfSigned { out, ca, names } => {
            let beside = out.parent().unwrap_or(Path::new("")).join("tidegate-ca");
            match self_signed(&out, &ca.unwrap_or(beside), &names) {
                Ok(made) => print(&trust(&made, &names)),
                Err(reason) => refuse(&reason),
            }
        }
    }
}

fn show(of: Of, method: Method) -> ExitCode {
    let json = of.json;
    with_inputs(of.config, |inputs| {
        operate::query(inputs, &method, "/v1/certificates", Vec::new(), |document| {
            if json {
                return Ok(format!("{document}\n"));
            }
            let listing: Listing =
                serde_json::from_value(document.clone()).map_err(|error| error.to_string())?;
            Ok(listing.certificates.iter().map(paragraph).collect())
        })
    })
}

/// What only the running mirror can do: the CA looks at its ports.
fn wish(wish: &Wish, of: Of) -> ExitCode {
    let json = of.json;
    with_inputs(of.config, |inputs| {
        let body = match serde_json::to_vec(wish) {
            Ok(body) => body,
            Err(error) => return refuse(&error.to_string()),
        };
        operate::query(inputs, &Method::POST, "/v1/acme", body, |document| {
            Ok(if json { format!("{document}\n") } else { operate::plain(document) })
        })
    })
}

fn paragraph(listed: &Listed) -> String {
    let names = if listed.names.is_empty() { "no name".to_owned() } else { listed.names.join(", ") };
    let mut lines = vec![format!("{names}\n  from      {} ({})", listed.origin, listed.source)];
    if !listed.key.is_empty() {
        let valid = if listed.valid { "" } else { ", not valid now" };
        lines.push(format!("  valid     {} to {}{valid}", listed.not_before, listed.not_after));
        lines.push(format!("  key       {}, SHA-256 {}", listed.key, listed.fingerprint));
    }
    if !listed.next_renewal.is_empty() {
        lines.push(format!("  renewal   {}", listed.next_renewal));
    }
    if listed.retained {
        lines.push("  note      its files are gone or name others; it is served until it ends".to_owned());
    }
    if let Some(alarm) = listed.alarm() {
        lines.push(format!("  trouble   {alarm}"));
    }
    format!("{}\n", lines.join("\n"))
}

fn feed(from: &Path, to: &Path) -> ExitCode {
    let Ok(errors) = Lines::new(std::io::stderr()) else { return refuse("no thread could be started") };
    let (level, formatter) = (Level::Info, Formatter::Text);
    log::install(&Log { level, formatter, fields: Vec::new(), access: None }, errors.clone());
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&format!("no runtime: {error}")),
    };
    let fed = runtime.block_on(reload::feed(from, to));
    errors.flush();
    match fed {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => refuse(&reason),
    }
}

/// How clients come to trust a CA.
fn trust(made: &SelfSigned, names: &[String]) -> String {
    let host = names.first().map(String::as_str).unwrap_or_default();
    let (authority, certificate) = (made.authority.display(), made.certificate.display());
    format!(
        "{certificate} and {key} are for {all}, for 397 days; run this again before they end.\n\
         Serve them: tidegate serve --tls-dir {folder}\n\
         \n\
         Clients trust {authority} (give it to them; never the key beside it):\n\
         dockerd, podman, skopeo   copy it to /etc/docker/certs.d/{host}/ca.crt (with a port: {host}:PORT/ca.crt)\n\
         containerd, nerdctl       copy it to /etc/containerd/certs.d/{host}/ca.crt, and name it in hosts.toml: ca = \"…/ca.crt\"\n\
         the whole system          copy it to /usr/local/share/ca-certificates/tidegate.crt, then update-ca-certificates\n\
         curl, once                curl --cacert {authority} https://{host}/v2/\n",
        key = made.key.display(),
        all = names.join(", "),
        folder = made.certificate.parent().unwrap_or(Path::new(".")).display(),
    )
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn refuse(reason: &str) -> ExitCode {
    say(reason);
    ExitCode::FAILURE
}
