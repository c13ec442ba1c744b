//! By what is counted: the labels and all values that they have.

use prometheus_client::encoding::EncodeLabelSet;

/// What kind of content an answer was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A blob.
    Blob,
    /// A manifest.
    Manifest,
}

impl Kind {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Blob => "blob",
            Self::Manifest => "manifest",
        }
    }
}

/// Why somebody was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Denied {
    /// The address is not in the list.
    Allow,
    /// The client has too many connections.
    PerClient,
    /// A balancer did not say whose connection it is.
    ProxyProtocol,
    /// The login is wrong, or missing.
    Login,
    /// There were too many wrong logins.
    Guesses,
}

impl Denied {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::PerClient => "perclient",
            Self::ProxyProtocol => "proxyprotocol",
            Self::Login => "login",
            Self::Guesses => "guesses",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReasonLabel {
    pub(super) reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct TypeLabel {
    pub(super) r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OutcomeLabels {
    pub(super) r#type: &'static str,
    pub(super) outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct HttpLabels {
    pub(super) code: u16,
    pub(super) handler: &'static str,
    pub(super) method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct HandlerLabels {
    pub(super) handler: &'static str,
    pub(super) method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct BuildLabels {
    pub(super) version: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct PartLabel {
    pub(super) part: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ResultLabel {
    pub(super) result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct NameLabel {
    pub(super) name: String,
}
