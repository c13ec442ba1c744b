//! What is served to whom: listeners, TLS, certificates, access.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::uri::Authority;
use http::{HeaderName, HeaderValue};
use ipnet::IpNet;
use url::Url;

use super::DnsName;

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
