//! The configuration: `config.yml` and the environment, read once, before anything starts.
//!
//! Everything wrong is reported at once, each with its key, where it came from, the value (secrets masked), the reason
//! and the fix. What is understood but not acted on is named in a warning; where ignoring it would be unsafe, it is an
//! error. Keys and rules are those of `registry` 2 and 3; ours stand under a top-level `tidegate:` key.

mod address;
mod compat;
mod content;
mod dns;
mod document;
mod effective;
mod environment;
mod file;
mod overlay;
mod reader;
mod report;
mod schema;
pub mod secret;
mod sections;
mod service;
#[cfg(test)]
mod tests;
mod units;

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

pub use content::{Cache, Durability, Fill, Proxy, Share, Storage, TagRules};
pub use dns::{BadName, DnsName};
pub use environment::process_variables;
use reader::Reader;
use report::Report;
pub use report::{Errors, Problem};
pub use secret::{Account, Secret};
pub use service::{
    Acme, Admin, Backend, Challenge, ClientDemand, Debug, Edge, Htpasswd, Http, Listen, Protocol, Tls,
    TlsClients, TlsFiles,
};

/// What a configuration is made from.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// The file that the command line names.
    pub file: Option<PathBuf>,
    /// The environment, as [`process_variables`] gives it.
    pub variables: Vec<(String, String)>,
}

/// Everything that a start needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// `log.*`.
    pub log: Log,
    /// `http.*`.
    pub http: Http,
    /// `storage.*`.
    pub storage: Storage,
    /// `proxy.*` and `tidegate.proxy.*`.
    pub proxy: Proxy,
    /// `health.*`.
    pub health: Health,
    /// `catalog.maxentries`: most entries of a page of the catalog; more is refused.
    pub catalog_max: u32,
    /// `tags.maxtags`: most tags of a page; more is clamped.
    pub tags_max: u32,
    /// `tidegate.tags.*`.
    pub tags: TagRules,
    /// `tidegate.fill.*`.
    pub fill: Fill,
    /// `tidegate.cache.*` and `proxy.ttl`.
    pub cache: Cache,
    /// `tidegate.admin.*`.
    pub admin: Admin,
    /// `tidegate.edge.*`.
    pub edge: Edge,
    /// `auth.htpasswd`: who must log in; `None` asks nobody.
    pub htpasswd: Option<Htpasswd>,
    /// `http.tls.letsencrypt.*` and `tidegate.acme.*`; `None` gets no certificates.
    pub acme: Option<Acme>,
    /// What was understood but is not acted on, and what is unknown: one line each.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads file and environment. Without a file the defaults make a mirror of Docker Hub.
    pub fn load(inputs: &Inputs) -> Result<Self, Errors> {
        Self::load_with_defaults(inputs, &file::DEFAULT_PATHS)
    }

    fn load_with_defaults(inputs: &Inputs, default_paths: &[&str]) -> Result<Self, Errors> {
        let mut report = Report::default();
        let file = file::choose(inputs.file.as_deref(), &inputs.variables, default_paths);
        let (file, root) = file::read_chosen(file, default_paths, &mut report);
        Self::assemble(file, root, &inputs.variables, report)
    }

    /// Takes a text for what a file held.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn from_text(text: &str, variables: &[(String, String)]) -> Result<Self, Errors> {
        let mut report = Report::default();
        let root = file::parse(text, "config.yml", &mut report);
        Self::assemble(None, root, variables, report)
    }

    fn assemble(
        file: Option<PathBuf>,
        mut root: document::Node,
        variables: &[(String, String)],
        mut report: Report,
    ) -> Result<Self, Errors> {
        environment::apply(&mut root, variables, &mut report);
        compat::check(&mut root, &mut report);
        let places = sections::Places::of(variables);
        let config = Self::read(file, &mut Reader::new(&root, &mut report), &places);
        let warnings = report.finish()?;
        Ok(Self { warnings, ..config })
    }

    fn read(file: Option<PathBuf>, reader: &mut Reader<'_>, places: &sections::Places) -> Self {
        let storage = sections::storage(reader);
        Self {
            file,
            log: sections::log(reader),
            http: sections::http(reader),
            admin: sections::admin(reader, places, &storage),
            acme: sections::acme(reader),
            storage,
            proxy: sections::proxy(reader),
            health: sections::health(reader),
            catalog_max: sections::page(reader, "catalog.maxentries"),
            tags_max: sections::page(reader, "tags.maxtags"),
            tags: sections::tags(reader),
            fill: sections::fill(reader),
            cache: sections::cache(reader),
            edge: sections::edge(reader),
            htpasswd: sections::htpasswd(reader),
            warnings: Vec::new(),
        }
    }
}

/// `log.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The least important level that is written.
    pub level: Level,
    /// The shape of the lines on stderr.
    pub formatter: Formatter,
    /// Constant fields of each line, in order of their names.
    pub fields: Vec<(String, String)>,
    /// The shape of the lines on stdout; `None` writes none.
    pub access: Option<AccessFormat>,
}

/// `log.level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// What needs a person.
    Error,
    /// And what is not as it should be.
    Warn,
    /// And what happens.
    Info,
    /// And why.
    Debug,
}

/// `log.formatter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Formatter {
    /// `key=value` pairs.
    Text,
    /// One JSON object a line.
    Json,
    /// The same with logstash's field names.
    Logstash,
}

/// `tidegate.log.access`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessFormat {
    /// Apache's combined format, exactly.
    Combined,
    /// The same, and after it the outcome, milliseconds and the request's id.
    CombinedPlus,
    /// One JSON object a line.
    Json,
}

/// `health.*`. A failing check answers 503 to everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// The checks besides that of the store, which never gates.
    pub checks: Vec<Check>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is looked at.
    pub probe: Probe,
    /// How often.
    pub interval: Duration,
    /// How long it may take.
    pub timeout: Duration,
    /// How many failures in a row make it fail; 0 and 1 mean the first.
    pub threshold: u32,
}

/// What a check looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// Fails while the file exists.
    File(PathBuf),
    /// Fails unless a HEAD gets this status.
    Http {
        /// Where to ask.
        url: Url,
        /// What to send.
        headers: Vec<(String, String)>,
        /// What to expect.
        status: u16,
    },
    /// Fails unless a connection can be made.
    Tcp(String),
}
