//! An operator's words: one certificate now, or a dry run.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;

use super::attempt::{Led, NO_CHALLENGE, SESSION_WAIT};
use super::{Renewals, now};
use crate::config::DnsName;
use crate::edge::acme::issuer::{Issuer, Task};
use crate::edge::acme::journal::Journal;
use crate::edge::acme::session::RustlsAcme;
use crate::edge::acme::storage::Shelf;
use crate::edge::certificates::{Pair, stamp};

/// Let's Encrypt's directory, and the one for trials.
const PRODUCTION: &str = "https://acme-v02.api.letsencrypt.org/directory";
const STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";

/// What an operator wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Wish {
    /// One try now, if the CA's limits allow it.
    Renew {
        /// For which name.
        name: String,
    },
    /// A dry run with a CA for trials: nothing of it is stored or served.
    Test {
        /// For which name.
        name: String,
        /// The directory of the CA; that of Let's Encrypt's staging if it is none other.
        directory: Option<String>,
    },
}

impl Renewals {
    /// Does it; the document says what came of it.
    pub async fn fulfil(&self, wish: Wish) -> Result<Value, String> {
        match wish {
            Wish::Renew { name } => self.renew(&name).await,
            Wish::Test { name, directory } => self.test(&name, directory.as_deref()).await,
        }
    }

    async fn renew(&self, name: &str) -> Result<Value, String> {
        let name = self.own(name)?;
        let (_, issuer) = self.next(&name).await;
        let (ledger, ordered) = self.ledger(&name, issuer).await.map_err(|trouble| trouble.reason)?;
        if !ordered && ledger.allowed() > now() {
            let when = stamp(i64::try_from(ledger.allowed()).unwrap_or(i64::MAX));
            return Err(format!("not before {when}: the limits of the CA would be in danger"));
        }
        let led = self.attempt(&name, issuer, true).await;
        self.woken.notify_one();
        match led {
            Ok(Led::To(pair)) => Ok(json!({
                "name": name.as_str(),
                "fingerprint": pair.fingerprint(),
                "until": stamp(pair.not_after()),
            })),
            Ok(Led::Elsewhere(why)) => Err(why.to_owned()),
            Err(trouble) => Err(trouble.reason),
        }
    }

    async fn test(&self, name: &str, directory: Option<&str>) -> Result<Value, String> {
        let name = self.own(name)?;
        let staging = (self.acme.directory.as_str() == PRODUCTION).then_some(STAGING);
        let directory = directory
            .or(staging)
            .ok_or("no directory for trials is known of this CA: name one with --directory")?;
        let directory = Url::parse(directory).map_err(|error| format!("{directory}: {error}"))?;
        if directory.scheme() != "https" {
            return Err(format!("{directory} is not reached by https"));
        }
        let email = self.acme.email.as_deref();
        let issuer = RustlsAcme::new(directory.clone(), email, self.authorities.clone())?;
        let _turn = self.turn.lock().await;
        let mut results = serde_json::Map::new();
        for challenge in self.usable() {
            let journal = Journal::dry(Shelf::of(&directory), name.clone());
            let task = Task { name: &name, challenge, desk: &self.desk, journal: &journal };
            let given = tokio::time::timeout(SESSION_WAIT, issuer.issue(task)).await;
            self.desk.certificates.challenge(name.as_str(), None);
            self.desk.answers.clear();
            let word = match given {
                Ok(Ok(pem)) => match Pair::from_pem(pem.as_bytes(), pem.as_bytes(), name.to_string()) {
                    Ok(_) => "works".to_owned(),
                    Err(flaw) => format!("the CA's certificate can't be used: {flaw}"),
                },
                Ok(Err(trouble)) => trouble.reason,
                Err(_) => format!("the CA was not done after {SESSION_WAIT:?}"),
            };
            results.insert(challenge.label().to_owned(), word.into());
        }
        if results.values().any(|word| word == "works") {
            results.insert("name".to_owned(), name.as_str().into());
            return Ok(Value::Object(results));
        }
        let all: Vec<String> =
            results.iter().map(|(challenge, word)| format!("{challenge}: {word}")).collect();
        Err(if all.is_empty() { NO_CHALLENGE.to_owned() } else { all.join("\n") })
    }

    fn own(&self, name: &str) -> Result<DnsName, String> {
        let parsed = name.parse::<DnsName>().map_err(|error| format!("{name}: {error}"))?;
        if self.hosts().contains(&parsed) {
            return Ok(parsed);
        }
        Err(format!("{parsed} is none of the names in http.tls.letsencrypt.hosts"))
    }
}
