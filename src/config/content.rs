//! Where content comes from, how it is kept, and how long it is believed.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::Account;
use crate::registry::Pattern;

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
