//! Why an upstream gave nothing that may be served.

use std::time::Duration;

use crate::registry::Digest;

/// A failed fetch. Names hosts, never queries, tokens or bodies: signed URLs and what servers write are not for logs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// 404.
    #[error("{host} does not have it")]
    NotFound {
        /// Who said so.
        host: String,
    },
    /// 401 or 403 for this repository.
    #[error("{host} does not let this mirror have it")]
    Denied {
        /// Who said so.
        host: String,
    },
    /// The account of the mirror is refused.
    #[error("{host} refuses the account of this mirror")]
    LoginRefused {
        /// Who said so.
        host: String,
    },
    /// 429.
    #[error("{host} is rate limiting this mirror")]
    RateLimited {
        /// Who said so.
        host: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// No connection, or one that broke before the answer.
    #[error("{host} can't be reached: {reason}")]
    Unreachable {
        /// Whom we tried.
        host: String,
        /// What the system or the TLS stack said.
        reason: String,
    },
    /// No answer, or no byte of a body, within the limit.
    #[error("{host} gave no {what} within {limit:?}")]
    Timeout {
        /// Who is slow.
        host: String,
        /// What was waited for.
        what: &'static str,
        /// For how long.
        limit: Duration,
    },
    /// A status that means nothing good.
    #[error("{host} answered with status {status}")]
    Status {
        /// Who said so.
        host: String,
        /// The status.
        status: u16,
    },
    /// A body that ended before its length.
    #[error("{host} broke off in the middle of a body")]
    Cut {
        /// Whose body.
        host: String,
    },
    /// More than we take.
    #[error("{host} sent more than is taken")]
    TooLarge {
        /// Who sent it.
        host: String,
    },
    /// Bytes that do not hash to their name.
    #[error("{host} sent wrong bytes: asked for {asked}, got {got}")]
    WrongDigest {
        /// Who sent them.
        host: String,
        /// What was asked for, or what the header announced.
        asked: Box<Digest>,
        /// What the bytes hash to.
        got: Box<Digest>,
    },
    /// An answer that makes no sense.
    #[error("{host} sent {what}")]
    Malformed {
        /// Who sent it.
        host: String,
        /// What was wrong.
        what: &'static str,
    },
    /// A redirect that is not followed.
    #[error("{host} redirects to {target}, which is not allowed: {rule}")]
    ForbiddenRedirect {
        /// Who sent us there.
        host: String,
        /// Where to, without path and query.
        target: String,
        /// The rule against it.
        rule: &'static str,
    },
    /// A token realm that gets nothing from us.
    #[error(
        "{host} names {realm} as its token server, which is not allowed: list it in tidegate.proxy.realms if it is yours"
    )]
    ForbiddenRealm {
        /// Who named it.
        host: String,
        /// The realm, without path and query.
        realm: String,
    },
}

/// What a failure means for a client, whatever its cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It does not exist for this repository.
    Absent,
    /// The mirror's account is refused.
    LoginRefused,
    /// The upstream wants to be left alone for a while.
    Limited,
    /// It did not answer in time.
    Slow,
    /// It can't be reached, or fails.
    Down,
    /// It answers, but nothing that may be served.
    Garbage,
}

impl FetchError {
    /// What the failure means for a client.
    pub fn class(&self) -> Class {
        match self {
            Self::NotFound { .. } | Self::Denied { .. } => Class::Absent,
            Self::LoginRefused { .. } => Class::LoginRefused,
            Self::RateLimited { .. } => Class::Limited,
            Self::Timeout { .. } => Class::Slow,
            Self::Unreachable { .. } | Self::Status { .. } | Self::Cut { .. } => Class::Down,
            Self::TooLarge { .. }
            | Self::WrongDigest { .. }
            | Self::Malformed { .. }
            | Self::ForbiddenRedirect { .. }
            | Self::ForbiddenRealm { .. } => Class::Garbage,
        }
    }

    /// Whether it may come from a token server that the upstream does not use any more.
    pub(super) fn may_be_an_old_realm(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Timeout { .. }
                | Self::Status { .. }
                | Self::Malformed { .. }
                | Self::ForbiddenRealm { .. }
        )
    }

    /// Whether the same question may get another answer in a moment.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Status { status, .. } => *status >= 500,
            _ => false,
        }
    }
}
