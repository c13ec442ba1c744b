//! The configuration: `config.yml` and the environment, read once, before anything starts.
//!
//! Everything wrong is reported at once, each with its key, where it came from, the value (secrets masked), the reason
//! and the fix. What is understood but not acted on is named in a warning; where ignoring it would be unsafe, it is an
//! error. Keys and rules are those of `registry` 2 and 3; ours stand under a top-level `tidegate:` key.

mod address;
mod compat;
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
#[cfg(test)]
mod tests;
mod units;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::uri::Authority;
use http::{HeaderName, HeaderValue};
use ipnet::IpNet;
use url::Url;

use crate::registry::Pattern;
pub use dns::{BadName, DnsName};
pub use environment::process_variables;
use reader::Reader;
use report::Report;
pub use report::{Errors, Problem};
pub use secret::{Account, Secret};

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

/// `tidegate.edge.*`: who comes in, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// What answers in the place of the mirror.
    pub forward: Option<Backend>,
    /// A second listener, which speaks plain HTTP.
    pub plain: Option<Listen>,
    /// Networks that may come in; empty lets everybody.
    pub allow: Vec<IpNet>,
    /// Networks whose connections begin with a header of the PROXY protocol.
    pub proxies: Vec<IpNet>,
    /// The protocols over TLS, the preferred one first.
    pub alpn: Vec<Protocol>,
    /// Most open connections.
    pub connections: u32,
    /// Most open connections of one client.
    pub per_client: Option<u32>,
    /// How long clients may remember that there is TLS here; `None` says nothing of it.
    pub hsts: Option<Duration>,
}

/// What is spoken over TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2.
    Http2,
    /// HTTP/1.1.
    Http1,
}

impl Protocol {
    /// Its name in ALPN and in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http2 => "h2",
            Self::Http1 => "http/1.1",
        }
    }
}

/// `http.tls.letsencrypt.*`, `tidegate.acme.*` and `tidegate.edge.http`: certificates from a CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acme {
    /// The names; each gets a certificate of its own.
    pub hosts: Vec<DnsName>,
    /// Whom the CA may write to.
    pub email: Option<String>,
    /// The folder of `registry`'s own client, which is taken over.
    pub autocert: Option<PathBuf>,
    /// The CA's directory.
    pub directory: Url,
    /// Another CA for the time that the first fails.
    pub fallback: Option<Url>,
    /// A PEM file of CAs that are trusted for the directory, besides the system's.
    pub cafile: Option<PathBuf>,
    /// How names are proven, the preferred way first.
    pub challenges: Vec<Challenge>,
    /// Where challenges over HTTP are answered; `None` nowhere.
    pub http: Option<Listen>,
}

/// How a CA sees that a name is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Challenge {
    /// By a handshake on the TLS port (RFC 8737).
    TlsAlpn01,
    /// By a request on port 80 (RFC 8555 section 8.3).
    Http01,
}

impl Challenge {
    /// As it is called.
    pub fn label(self) -> &'static str {
        match self {
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Http01 => "http-01",
        }
    }
}

/// `auth.htpasswd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Htpasswd {
    /// What clients are told that they log in to.
    pub realm: String,
    /// The file.
    pub path: PathBuf,
}

/// Something that speaks plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// At a host and a port.
    Tcp(Authority),
    /// On a Unix socket.
    Unix(PathBuf),
}

/// `tidegate.admin.*`: where the commands of an operator go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// The Unix socket.
    pub socket: PathBuf,
    /// Whether the group of the process may use it too: that of its unit.
    pub group: bool,
}

/// `tidegate.fill.*`: how blobs are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// Most transfers at once.
    pub concurrent: u32,
    /// Most transfers at once from one upstream.
    pub per_upstream: u32,
    /// Transfers of one large blob at once for speed alone.
    pub segments: u32,
    /// Whether only what clients ask for is fetched, not the whole blob.
    pub lazy: bool,
    /// How long a transfer may give no byte.
    pub stall: Duration,
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

/// `http.*`.
#[derive(Debug, Clone)]
pub struct Http {
    /// Where to listen.
    pub listen: Listen,
    /// Without a slash at its end; empty for none.
    pub prefix: String,
    /// Headers that every answer of the API gets besides its own.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How long a stop waits for answers that are under way.
    pub drain: Duration,
    /// Where certificates come from; `None` speaks plain HTTP.
    pub tls: Option<Tls>,
    /// `http.debug`; `None` opens no such port.
    pub debug: Option<Debug>,
}

/// `http.net` and `http.addr`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// All addresses of the machine, IPv4 and IPv6, on a port.
    Anywhere(u16),
    /// One address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// `http.tls`, and what `tidegate` adds to it. At least one place has certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// `http.tls.certificate` and `http.tls.key`.
    pub files: Option<TlsFiles>,
    /// `tidegate.tls.dir`: a folder of which every pair is served.
    pub folder: Option<PathBuf>,
    /// `tidegate.tls.keep`: whether the last good pairs are kept for a start with bad files.
    pub keep: bool,
    /// `tidegate.edge.strictsni`: whether clients that ask for no name, or an unknown one, are refused.
    pub strict_sni: bool,
    /// Whom clients must be known by; `None` asks them for nothing.
    pub clients: Option<TlsClients>,
    /// Whether TLS 1.2 is refused.
    pub only_1_3: bool,
    /// The names of the suites to offer, by their IANA names; empty offers all. TLS 1.3 suites are always offered.
    pub suites: Vec<String>,
}

/// One pair of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM: the leaf, and its chain.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// `http.tls.clientcas` and `http.tls.clientauth`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsClients {
    /// PEM files of the CAs that sign for clients.
    pub authorities: Vec<PathBuf>,
    /// What is asked of a client.
    pub demand: ClientDemand,
}

/// `http.tls.clientauth`, from the least to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientDemand {
    /// A certificate is asked for, none and any will do.
    Request,
    /// Any certificate will do, none does not.
    RequireAny,
    /// None will do; one that is given must be signed by a CA of the list.
    VerifyIfGiven,
    /// One that is signed by a CA of the list.
    RequireAndVerify,
}

/// `http.debug`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Debug {
    /// Where to listen.
    pub listen: Listen,
    /// The path of the metrics, if they are on.
    pub metrics: Option<String>,
}

/// `storage.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    /// A folder.
    Filesystem {
        /// `storage.filesystem.rootdirectory`.
        root: PathBuf,
        /// Whether it was named, or is the default.
        configured: bool,
    },
    /// `storage.inmemory`: a folder that ends with the process.
    Temporary,
}

/// `proxy.*` and `tidegate.proxy.*`.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Scheme, host and port of the upstream; no path, no user.
    pub remoteurl: Url,
    /// Whether it was named, or is the default.
    pub configured: bool,
    /// `proxy.username` and `proxy.password`.
    pub account: Option<Account>,
    /// The name of the upstream: what `ns=` calls it.
    pub name: String,
    /// Whether that name was set by hand.
    pub name_configured: bool,
    /// A PEM file of CAs that are trusted for the upstream, besides the system's.
    pub cafile: Option<PathBuf>,
    /// Hosts that may see the account as token servers.
    pub realms: Vec<String>,
    /// Hosts that redirects may lead to, whatever network they are in.
    pub redirects: Vec<String>,
    /// Repositories of which one must match; empty allows all.
    pub allow: Vec<Pattern>,
    /// Repositories of which none may match.
    pub deny: Vec<Pattern>,
    /// Whether a refused login goes on anonymously.
    pub anonymous_fallback: bool,
}

/// `tidegate.tags.*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TagRules {
    /// How long a confirmed tag is served without asking again.
    pub fresh: Duration,
    /// How long an unconfirmed tag is served; `None` without limit.
    pub stale_for: Option<Duration>,
    /// Whether a tag that the upstream no longer has is refused.
    pub refuse_gone: bool,
    /// How long an absence is remembered.
    pub negative: Duration,
}

/// `tidegate.cache.*` and `proxy.ttl`: how much is kept, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cache {
    /// How often each blob is read and hashed again; zero for never.
    pub scrub: Duration,
    /// How fast that goes.
    pub scrub_bytes_per_second: u64,
    /// The most that the cache takes.
    pub max_size: Share,
    /// The least that is left free on its file system.
    pub min_free: Share,
    /// How long what was named in an answer stays at least.
    pub hold: Duration,
    /// How long what nobody uses is kept; `None` without limit.
    pub idle: Option<Duration>,
    /// Whether blobs wait for the disk before they get their names.
    pub durability: Durability,
    /// Whether what was found in the volume goes without asking the upstream whether it still has it.
    pub evict_adopted: bool,
}

/// Whether a blob waits for the disk before it gets its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It is synced first, and its name after it.
    Full,
    /// It is not. After a power cut, what came since the start is verified again.
    Relaxed,
}

/// A part of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of it, at most 100.
    Percent(u8),
}

impl Share {
    /// The part of a whole.
    pub fn of(self, whole: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => whole / 100 * u64::from(percent),
        }
    }
}

impl Default for Cache {
    /// What is used where nothing is set.
    fn default() -> Self {
        Self {
            scrub: Duration::from_secs(30 * 24 * 3600),
            scrub_bytes_per_second: 16 * 1024 * 1024,
            max_size: Share::Percent(80),
            min_free: Share::Percent(5),
            hold: Duration::from_secs(600),
            idle: None,
            durability: Durability::Full,
            evict_adopted: false,
        }
    }
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
