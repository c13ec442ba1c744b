//! The registry that we mirror.
//!
//! Nothing that comes from here is trusted: bodies are bounded and hashed, lengths are checked, media types are kept
//! with the digest they came with. Nothing goes out that the other side has no claim to: the account of the mirror is
//! sent to the token server of its upstream alone, tokens to the upstream alone, and a redirect gets neither.
//!
//! One question is retried while there is hope and time, but for less time than a client waits. What it then failed of
//! is a [`FetchError`], whose [`Class`] decides what the client is told.

pub(crate) mod blob;
mod budget;
pub(crate) mod challenge;
mod client;
mod error;
pub(crate) mod list;
mod manifest;
pub(crate) mod policy;
mod realm;
mod resolver;
mod suspects;
pub(crate) mod token;
mod transport;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::config::Account;
pub use blob::{Part, Transfer};
pub use budget::{Allowance, Budget};

pub use error::{Class, FetchError};
pub use list::{Referrers, TagList};
pub use manifest::{FetchedManifest, ManifestHead};
pub use transport::SetupError;

/// What an upstream is made of.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Scheme, host and port.
    pub url: Url,
    /// The account of the mirror, if it has one.
    pub account: Option<Account>,
    /// Whether a refused account goes on anonymously.
    pub anonymous_fallback: bool,
    /// A PEM file of CAs to trust besides the system's.
    pub cafile: Option<PathBuf>,
    /// Hosts that may see the account as token servers.
    pub realms: Vec<String>,
    /// Hosts that redirects may lead to, whatever network they are in.
    pub redirects: Vec<String>,
    /// How long a body may give no byte.
    pub stall: Duration,
    /// Hosts of the HTTP proxies of the environment: they are reached wherever they are.
    pub proxy_hosts: Vec<String>,
}

/// One upstream. Cheap to clone.
#[derive(Clone)]
pub struct Upstream {
    client: Arc<client::Client>,
    stall: Duration,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("host", &self.host()).finish_non_exhaustive()
    }
}

/// What is known of the mirror's account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountState {
    /// There is none.
    Anonymous,
    /// It was not needed yet.
    Unknown,
    /// A token was given for it.
    Accepted,
    /// It was refused within the last minutes.
    Refused,
}

impl Upstream {
    /// Prepares an upstream. Talks to nobody: it may be down.
    pub fn new(setup: &Setup) -> Result<Self, SetupError> {
        Ok(Self { client: Arc::new(client::Client::new(setup)?), stall: setup.stall })
    }

    /// Its host, and its port if that is not the scheme's own.
    pub fn host(&self) -> &str {
        self.client.host()
    }

    /// What it said of its rate limit.
    pub fn budget(&self) -> &Budget {
        self.client.budget()
    }

    /// What is known of the mirror's account.
    pub fn account_state(&self) -> AccountState {
        self.client.tokens().account_state()
    }

    /// Goes on with another password of the same account.
    pub fn change_account(&self, account: Account) {
        self.client.tokens().change_account(account);
    }

    /// Asks whether the upstream answers and takes the account.
    pub async fn check_account(&self) -> Result<AccountState, FetchError> {
        self.client.ping().await?;
        Ok(self.account_state())
    }
}
