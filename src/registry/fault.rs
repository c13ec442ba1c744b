//! What a client is told when it does not get what it asked for: the error codes of the OCI distribution spec, with
//! the status, the message and the JSON that `registry` gives for them.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Value, json};

/// An error code of the spec ("Error Codes") or of `registry` besides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// 404: the upstream does not know the blob, or not for this repository.
    BlobUnknown,
    /// 404: an upload that never was.
    BlobUploadInvalid,
    /// 404: an upload without a name.
    BlobUploadUnknown,
    /// 403: whoever asks may not come in.
    Denied,
    /// 400: not `algorithm:hex`.
    DigestInvalid,
    /// 404: the upstream does not know the manifest, or not for this repository.
    ManifestUnknown,
    /// 400: too long for a name.
    NameInvalid,
    /// 404: a repository or an upstream that is not served here.
    NameUnknown,
    /// 400: `n` of a list is no number in range.
    PaginationNumberInvalid,
    /// 429: the layer can't be had now. dockerd turns to the next registry at once on this, and only after 75 s on a 5xx.
    TooManyRequests,
    /// 401: whoever asks does not say who he is, or says it wrong.
    Unauthorized,
    /// 503: the manifest can't be had now.
    Unavailable,
    /// 500: a fault of the mirror itself.
    Unknown,
    /// 405: this registry is read-only.
    Unsupported,
}

/// Whose doing it is; decides the level at which it is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The request could never be served.
    Client,
    /// The upstream gave nothing that may be served.
    Upstream,
    /// The mirror failed.
    Mirror,
}

impl Code {
    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::DigestInvalid | Self::NameInvalid | Self::PaginationNumberInvalid => 400,
            Self::Unauthorized => 401,
            Self::Denied => 403,
            Self::BlobUnknown
            | Self::BlobUploadInvalid
            | Self::BlobUploadUnknown
            | Self::ManifestUnknown
            | Self::NameUnknown => 404,
            Self::Unsupported => 405,
            Self::TooManyRequests => 429,
            Self::Unknown => 500,
            Self::Unavailable => 503,
        }
    }

    /// The code as it stands in the JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::Denied => "DENIED",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unknown => "UNKNOWN",
            Self::Unsupported => "UNSUPPORTED",
        }
    }

    /// The message that `registry` gives with it.
    fn message(self) -> &'static str {
        match self {
            Self::BlobUnknown => "blob unknown to registry",
            Self::BlobUploadInvalid => "blob upload invalid",
            Self::BlobUploadUnknown => "blob upload unknown to registry",
            Self::Denied => "requested access to the resource is denied",
            Self::DigestInvalid => "provided digest did not match uploaded content",
            Self::ManifestUnknown => "manifest unknown",
            Self::NameInvalid => "invalid repository name",
            Self::NameUnknown => "repository name not known to registry",
            Self::PaginationNumberInvalid => "invalid number of results requested",
            Self::TooManyRequests => "too many requests",
            Self::Unauthorized => "authentication required",
            Self::Unavailable => "service unavailable",
            Self::Unknown => "unknown error",
            Self::Unsupported => "The operation is unsupported.",
        }
    }

    /// Whose doing it is.
    pub fn blame(self) -> Blame {
        match self {
            Self::Unknown => Blame::Mirror,
            Self::Unavailable | Self::TooManyRequests => Blame::Upstream,
            _ => Blame::Client,
        }
    }
}

/// One refusal: what the client reads, and what only the log does.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// The code, which fixes the status.
    pub code: Code,
    /// When it is worth asking again.
    pub retry_after: Option<Duration>,
    message: Option<Cow<'static, str>>,
    detail: Value,
    cause: Option<String>,
}

impl Fault {
    /// A fault with the code's usual message and no detail.
    pub fn new(code: Code) -> Self {
        Self { code, retry_after: None, message: None, detail: Value::Null, cause: None }
    }

    /// Tells the client more, in the `detail` member.
    pub fn with_detail(mut self, detail: Value) -> Self {
        self.detail = detail;
        self
    }

    /// Replaces the message; for the codes whose true reason a person has to see.
    pub fn with_message(mut self, message: impl Into<Cow<'static, str>>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// Adds `Retry-After`.
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// What happened, for the log alone.
    pub fn because(mut self, cause: impl std::fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// What happened, if it was recorded.
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// The message as the client reads it.
    pub fn message(&self) -> &str {
        self.message.as_deref().unwrap_or_else(|| self.code.message())
    }

    /// The body: `{"errors":[{"code":…,"message":…,"detail":…}]}` and a newline, `detail` left out when null.
    pub fn body(&self) -> String {
        let mut error = json!({ "code": self.code.as_str(), "message": self.message() });
        if let (false, Some(members)) = (self.detail.is_null(), error.as_object_mut()) {
            members.insert("detail".to_owned(), self.detail.clone());
        }
        format!("{}\n", json!({ "errors": [error] }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_the_one_of_registry() {
        assert_eq!(
            Fault::new(Code::Unsupported).body(),
            "{\"errors\":[{\"code\":\"UNSUPPORTED\",\"message\":\"The operation is unsupported.\"}]}\n"
        );
        let with_detail = Fault::new(Code::ManifestUnknown).with_detail(json!({ "Tag": "x" })).body();
        let parsed: Value = serde_json::from_str(&with_detail).unwrap();
        assert_eq!(parsed["errors"][0]["detail"]["Tag"], "x");
    }

    #[test]
    fn the_cause_stays_inside() {
        let fault = Fault::new(Code::Unknown).because("disk /dev/x is gone");
        assert!(!fault.body().contains("disk"));
        assert_eq!(fault.cause(), Some("disk /dev/x is gone"));
    }
}
