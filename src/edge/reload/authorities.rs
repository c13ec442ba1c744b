//! The CAs of the clients: files that are read whenever they change. A bad one changes nothing.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use super::pairs::content;
use super::watch::Trail;
use super::{Looked, Subject};
use crate::edge::certificates::pem::Content;
use crate::edge::tls::Acceptor;
use crate::observe::metrics::{Metrics, Reloaded};

/// The CAs of the clients.
pub struct Authorities {
    paths: Vec<PathBuf>,
    acceptor: Acceptor,
    trusted: Vec<CertificateDer<'static>>,
    told: Option<String>,
    metrics: Arc<Metrics>,
}

impl Authorities {
    /// Reads them for the first time; all must be in order, or nobody could be let in.
    pub fn open(paths: Vec<PathBuf>, acceptor: Acceptor, metrics: Arc<Metrics>) -> Result<Self, String> {
        let mut authorities = Self { paths, acceptor, trusted: Vec::new(), told: None, metrics };
        authorities.refresh()?;
        Ok(authorities)
    }

    /// Whether others are trusted than before.
    fn refresh(&mut self) -> Result<bool, String> {
        let mut all = Vec::new();
        for path in &self.paths {
            let wrong = |why: String| format!("http.tls.clientcas: {}: {why}", path.display());
            let (bytes, _) = content(path).map_err(wrong)?;
            let found = Content::parse(&bytes).map_err(|flaw| wrong(flaw.to_string()))?.certificates;
            if found.is_empty() {
                return Err(wrong("there is no PEM certificate in it".to_owned()));
            }
            all.extend(found);
        }
        if all == self.trusted {
            return Ok(false);
        }
        self.acceptor.trust(&all)?;
        self.trusted = all;
        Ok(true)
    }
}

impl Subject for Authorities {
    fn trail(&self) -> Trail {
        let mut trail = Trail::default();
        for path in &self.paths {
            trail.to(path);
        }
        trail
    }

    fn look(&mut self, _forced: bool) -> Looked {
        match self.refresh() {
            Ok(changed) => {
                self.told = None;
                if changed {
                    self.metrics.reloaded(Reloaded::Changed);
                    tracing::info!(
                        count = self.trusted.len(),
                        "the CAs of the clients changed; their sessions ended"
                    );
                }
                Looked::Settled
            }
            Err(reason) => {
                if self.told.as_ref() == Some(&reason) {
                    return Looked::StillUnsettled;
                }
                self.metrics.reloaded(Reloaded::Failed);
                tracing::error!(reason, "the CAs of the clients stay as they were");
                self.told = Some(reason);
                Looked::Unsettled
            }
        }
    }
}
