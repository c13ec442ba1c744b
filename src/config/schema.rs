//! The keys that `registry` 2 and 3 know, and ours: one table, by which files and variables are read alike.

/// A key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    /// Its name in YAML.
    pub(super) name: &'static str,
    /// Another name for it, mostly that of the Go field, by which `registry` matches variables.
    pub(super) alias: &'static str,
    pub(super) kind: Kind,
    pub(super) fate: Fate,
}

/// What a key holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Text,
    /// A text that variables give as it is, whatever YAML would make of it.
    Raw,
    /// The same, and never shown.
    Secret,
    Flag,
    Number,
    Duration,
    /// A list of texts, or one text with commas.
    Texts,
    /// Names with a text each.
    Fields,
    /// Names with a text or a list of texts each.
    Headers,
    /// These keys.
    Keys(&'static [Field]),
    /// A list of these keys.
    Each(&'static [Field]),
    /// What tidegate does not look into.
    Opaque,
}

/// What becomes of a key.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fate {
    /// It is acted on.
    Used,
    /// Nothing, and nobody would miss it in a mirror.
    Silent,
    /// Nothing, and a warning says why.
    Unused(&'static str),
    /// It stops the start: why, and what to do.
    Refused(&'static str, &'static str),
}

const fn used(name: &'static str, kind: Kind) -> Field {
    field(name, kind, Fate::Used)
}

const fn silent(name: &'static str) -> Field {
    field(name, Kind::Opaque, Fate::Silent)
}

const fn unused(name: &'static str, why: &'static str) -> Field {
    field(name, Kind::Opaque, Fate::Unused(why))
}

const fn refused(name: &'static str, why: &'static str, fix: &'static str) -> Field {
    field(name, Kind::Opaque, Fate::Refused(why, fix))
}

const fn field(name: &'static str, kind: Kind, fate: Fate) -> Field {
    Field { name, alias: "", kind, fate }
}

impl Field {
    const fn or(self, alias: &'static str) -> Self {
        Self { alias, ..self }
    }

    /// Whether a file means this key.
    pub(super) fn is(&self, name: &str) -> bool {
        name == self.name || (name == self.alias && !name.is_empty())
    }

    /// Whether a variable means this key.
    pub(super) fn is_upper(&self, name: &str) -> bool {
        let named = |own: &str| !own.is_empty() && own.eq_ignore_ascii_case(name);
        named(self.name) || named(self.alias)
    }
}

/// The top level.
pub(super) const ROOT: &[Field] = &[
    silent("version"),
    used("log", Kind::Keys(LOG)),
    used("loglevel", Kind::Text),
    used("http", Kind::Keys(HTTP)),
    used("storage", Kind::Keys(STORAGE)),
    used("proxy", Kind::Keys(PROXY)),
    used("health", Kind::Keys(HEALTH)),
    used("catalog", Kind::Keys(&[used("maxentries", Kind::Number)])),
    used("tags", Kind::Keys(&[used("maxtags", Kind::Number)])),
    used("auth", Kind::Keys(AUTH)),
    unused("middleware", "tidegate has no middleware"),
    unused("notifications", "tidegate sends no notifications"),
    unused("redis", "tidegate keeps its own index and needs no redis"),
    unused("validation", "a mirror takes no pushes, which is what it validates"),
    unused("policy", "tidegate has no repository classes"),
    unused("compatibility", "schema 1 manifests are passed on as they are"),
    unused("reporting", "tidegate reports to no service"),
    used("tidegate", Kind::Keys(TIDEGATE)),
];

const LOG: &[Field] = &[
    used("level", Kind::Text),
    used("formatter", Kind::Text),
    used("fields", Kind::Fields),
    used("accesslog", Kind::Keys(&[used("disabled", Kind::Flag)])),
    unused("hooks", "tidegate sends no mail; watch its log or its metrics"),
    silent("reportcaller"),
];

const UPLOADS: &str = "it concerns uploads, and a mirror takes none";

const HTTP: &[Field] = &[
    used("addr", Kind::Text),
    used("net", Kind::Text),
    unused("host", UPLOADS),
    used("prefix", Kind::Text),
    field("secret", Kind::Secret, Fate::Silent),
    unused("relativeurls", UPLOADS),
    used("draintimeout", Kind::Duration),
    used("headers", Kind::Headers),
    used("debug", Kind::Keys(DEBUG)),
    used("http2", Kind::Keys(&[used("disabled", Kind::Flag)])),
    unused("h2c", "HTTP/2 is offered over TLS only"),
    used("tls", Kind::Keys(TLS)),
];

const DEBUG: &[Field] = &[
    used("addr", Kind::Text),
    used("prometheus", Kind::Keys(&[used("enabled", Kind::Flag), used("path", Kind::Text)])),
];

const TLS: &[Field] = &[
    used("certificate", Kind::Text),
    used("key", Kind::Text),
    used("minimumtls", Kind::Text),
    used("ciphersuites", Kind::Texts),
    used("clientcas", Kind::Texts),
    used("clientauth", Kind::Text),
    used("letsencrypt", Kind::Keys(LETSENCRYPT)),
];

const LETSENCRYPT: &[Field] = &[
    used("cachefile", Kind::Text),
    used("email", Kind::Text),
    used("hosts", Kind::Texts),
    used("directoryurl", Kind::Text),
];

const ONLY_DRIVERS: &str = "this version keeps blobs in a folder only";
const USE_FILESYSTEM: &str = "use storage.filesystem, or set REGISTRY_STORAGE=filesystem";

const fn driver(name: &'static str) -> Field {
    refused(name, ONLY_DRIVERS, USE_FILESYSTEM)
}

/// `storage`. What is in here and no driver is in [`NO_DRIVERS`].
const STORAGE: &[Field] = &[
    used("filesystem", Kind::Keys(&[used("rootdirectory", Kind::Text), silent("maxthreads")])),
    used("inmemory", Kind::Opaque),
    driver("s3"),
    driver("s3aws"),
    driver("azure"),
    driver("gcs"),
    driver("oss"),
    driver("swift"),
    driver("rados"),
    // A mirror takes no deletes, and makes room without leave.
    silent("delete"),
    used("cache", Kind::Keys(CACHE)),
    silent("redirect"),
    unused("maintenance", "a mirror takes no uploads, so it is read-only and has none to purge"),
    silent("tag"),
];

/// Keys of `storage` that are no drivers.
pub(super) const NO_DRIVERS: [&str; 5] = ["maintenance", "cache", "delete", "redirect", "tag"];

const CACHE: &[Field] = &[
    used("blobdescriptor", Kind::Text).or("layerinfo"),
    unused("blobdescriptorsize", "tidegate's index is mapped, and needs no size"),
];

const PROXY: &[Field] = &[
    used("remoteurl", Kind::Text),
    used("username", Kind::Raw),
    used("password", Kind::Secret),
    refused(
        "exec",
        "this version runs no credential helper",
        "set proxy.username and proxy.password, or their _FILE variables",
    ),
    used("ttl", Kind::Duration),
    unused("cachewritetimeout", "a fill ends when the upstream stalls, not by the clock"),
];

const HEALTH: &[Field] = &[
    // A failing store never makes tidegate answer 503 to what it can still serve.
    silent("storagedriver"),
    used("file", Kind::Each(&[used("file", Kind::Text), used("interval", Kind::Duration)]))
        .or("filecheckers"),
    used("http", Kind::Each(HTTP_CHECK)).or("httpcheckers"),
    used("tcp", Kind::Each(TCP_CHECK)).or("tcpcheckers"),
];

const HTTP_CHECK: &[Field] = &[
    used("uri", Kind::Text),
    used("headers", Kind::Headers),
    used("statuscode", Kind::Number),
    used("timeout", Kind::Duration),
    used("interval", Kind::Duration),
    used("threshold", Kind::Number),
];

const TCP_CHECK: &[Field] = &[
    used("addr", Kind::Text),
    used("timeout", Kind::Duration),
    used("interval", Kind::Duration),
    used("threshold", Kind::Number),
];

const NETWORK: &str = "remove it, and keep the port within your network";

const AUTH: &[Field] = &[
    silent("none"),
    used("htpasswd", Kind::Keys(&[used("realm", Kind::Raw), used("path", Kind::Text)])),
    refused("silly", "it is a test of registry and no protection", NETWORK),
    refused("token", "tidegate takes no tokens of clients, so everybody would be let in", NETWORK),
];

const LATER: &str = "this version does not have it";
const REMOVE: &str = "remove it";

/// `tidegate`. Unlike elsewhere, a key that is unknown in here is an error.
const TIDEGATE: &[Field] = &[
    used("proxy", Kind::Keys(OUR_PROXY)),
    used(
        "tags",
        Kind::Keys(&[
            used("fresh", Kind::Duration),
            used("stalefor", Kind::Text),
            used("gone", Kind::Text),
            used("negative", Kind::Duration),
        ]),
    ),
    used("log", Kind::Keys(&[used("access", Kind::Text)])),
    used("cache", Kind::Keys(OUR_CACHE)),
    used(
        "fill",
        Kind::Keys(&[
            used("concurrent", Kind::Number),
            used("perupstream", Kind::Number),
            used("segments", Kind::Number),
            used("lazy", Kind::Flag),
            used("stall", Kind::Duration),
        ]),
    ),
    used("edge", Kind::Keys(OUR_EDGE)),
    used("tls", Kind::Keys(&[used("dir", Kind::Text), used("keep", Kind::Flag)])),
    used(
        "acme",
        Kind::Keys(&[
            used("cafile", Kind::Text),
            used("challenges", Kind::Texts),
            used("fallback", Kind::Text),
        ]),
    ),
    used("admin", Kind::Keys(&[used("socket", Kind::Text)])),
    refused("debug", LATER, REMOVE),
];

const OUR_EDGE: &[Field] = &[
    used("forward", Kind::Text),
    used("plain", Kind::Text),
    used("allow", Kind::Texts),
    used("proxyprotocol", Kind::Texts),
    used("alpn", Kind::Texts),
    used("connections", Kind::Number),
    used("perclient", Kind::Text),
    used("hsts", Kind::Text),
    used("http", Kind::Text),
    refused("ktls", LATER, REMOVE),
    used("strictsni", Kind::Flag),
];

const OUR_CACHE: &[Field] = &[
    used("maxsize", Kind::Text),
    used("minfree", Kind::Text),
    used("hold", Kind::Duration),
    used("evictadopted", Kind::Flag),
    used("durability", Kind::Text),
    used("scrub", Kind::Duration),
    used("scrubrate", Kind::Text),
];

const OUR_PROXY: &[Field] = &[
    used("name", Kind::Text),
    used("cafile", Kind::Text),
    used("realms", Kind::Texts),
    used("redirects", Kind::Texts),
    used("allow", Kind::Texts),
    used("deny", Kind::Texts),
    used("anonymousfallback", Kind::Flag),
];
