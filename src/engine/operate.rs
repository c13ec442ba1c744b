//! What an operator can ask of the engine, running or not.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Engine, evict};

/// A command of an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// Keep something whatever the budget says.
    Pin {
        /// `library/alpine:3`, `sha256:…` or `library/*`.
        what: String,
    },
    /// Let the budget decide again.
    Unpin {
        /// As it was pinned.
        what: String,
    },
    /// What is pinned.
    Pins,
    /// Make room now, as far as the budget wants it.
    Evict {
        /// Only say what would go.
        dry_run: bool,
    },
    /// Hash everything that is held.
    Scrub,
    /// Take what the tree has into the index.
    IndexRebuild,
    /// Compare index and tree.
    IndexVerify,
}

impl Command {
    /// Whether it changes anything: then the log tells who asked.
    pub fn changes(&self) -> bool {
        !matches!(self, Self::Pins | Self::Evict { dry_run: true } | Self::IndexVerify)
    }
}

impl Engine {
    /// Carries a command out to its end; gives a document for people and scripts, or why it could not be.
    pub async fn operate(self: &Arc<Self>, command: Command) -> Result<Value, String> {
        let refused = |error: evict::pins::PinError| error.to_string();
        Ok(match command {
            Command::Pin { what } => json!({ "pinned": self.pin(&what).map_err(refused)?.to_string() }),
            Command::Unpin { what } => {
                json!({ "unpinned": what, "was-pinned": self.unpin(&what).map_err(refused)? })
            }
            Command::Pins => {
                json!({ "pins": self.pins().iter().map(ToString::to_string).collect::<Vec<_>>() })
            }
            Command::Evict { dry_run } => json!(self.evict(dry_run).await),
            Command::Scrub => json!(self.scrub_now(None).await.ok_or("a scrub is under way")?),
            Command::IndexRebuild => json!(self.rebuild_index().await),
            Command::IndexVerify => json!(self.verify_index().await),
        })
    }
}
