//! Logins of clients by a file of `htpasswd`, as `registry` has them: bcrypt alone, read again when it changes.
//!
//! A hash takes the time of thousands of requests. So it runs beside the workers, few at once; what it said is remembered
//! for a while, and an address that guesses is made to wait. A name that is not there takes as long as one that is.

mod file;
mod guesses;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, HeaderValue, header};
use tokio::sync::Semaphore;

use crate::observe::metrics::{Denied, Metrics};
use crate::sys::clock;
use crate::sys::entropy;
use crate::sys::sync::lock;
pub use file::FileError;
use file::{Passwords, Source};
use guesses::Guesses;
use std::collections::HashMap;

/// Passwords that wait to be hashed; a tenth of a second each. More are told to come again.
const WAITING_MAX: usize = 64;

/// How long a right password is not hashed again. A changed file forgets it at once.
const REMEMBERED_FOR: Duration = Duration::from_secs(300);

/// Right passwords that are remembered.
const REMEMBERED_MAX: usize = 1024;

/// How often the file is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What a login comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is right.
    Welcome,
    /// It is wrong, or there is none.
    Unknown,
    /// There were too many guesses, from there or in all.
    TooMany,
}

/// The logins that one file allows.
#[derive(Debug)]
pub struct Logins {
    /// The value of `WWW-Authenticate`.
    pub challenge: HeaderValue,
    source: Mutex<Source>,
    known: Mutex<Known>,
    guesses: Guesses,
    hashing: Semaphore,
    waiting: Semaphore,
    salt: u64,
    metrics: Arc<Metrics>,
}

/// What the file said, and which passwords were right since.
#[derive(Debug)]
struct Known {
    passwords: Arc<Passwords>,
    right: HashMap<[u8; 32], Instant>,
    looked: Instant,
}

impl Logins {
    /// Reads the file.
    pub fn load(realm: &str, path: PathBuf, metrics: Arc<Metrics>) -> Result<Arc<Self>, FileError> {
        let (source, passwords) = Source::read(path)?;
        let challenge = HeaderValue::from_str(&format!("Basic realm={realm:?}"));
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let known =
            Known { passwords: Arc::new(passwords), right: HashMap::new(), looked: clock::monotonic() };
        Ok(Arc::new(Self {
            challenge: challenge.unwrap_or(HeaderValue::from_static("Basic")),
            source: Mutex::new(source),
            known: Mutex::new(known),
            guesses: Guesses::default(),
            hashing: Semaphore::new(processors),
            waiting: Semaphore::new(WAITING_MAX),
            salt: entropy::number(),
            metrics,
        }))
    }

    /// Judges the login of a request.
    pub async fn check(self: &Arc<Self>, headers: &HeaderMap, client: Option<IpAddr>) -> Verdict {
        let verdict = self.verdict(headers, client).await;
        match verdict {
            Verdict::Welcome => {}
            Verdict::Unknown => self.metrics.denied(Denied::Login),
            Verdict::TooMany => self.metrics.denied(Denied::Guesses),
        }
        verdict
    }

    async fn verdict(self: &Arc<Self>, headers: &HeaderMap, client: Option<IpAddr>) -> Verdict {
        let Some((user, password)) = basic(headers) else { return Verdict::Unknown };
        self.look_again().await;
        let key = self.key(&user, &password);
        if self.is_remembered(&key) {
            return Verdict::Welcome;
        }
        if !self.guesses.may_guess(client) {
            return Verdict::TooMany;
        }
        let Ok(_waiting) = self.waiting.try_acquire() else { return Verdict::TooMany };
        let Ok(_hashing) = self.hashing.acquire().await else { return Verdict::TooMany };
        // It may have been found right while this one waited.
        if self.is_remembered(&key) {
            return Verdict::Welcome;
        }
        let passwords = Arc::clone(&lock(&self.known).passwords);
        let judged = Arc::clone(&passwords);
        let right = tokio::task::spawn_blocking(move || judged.is_right(&user, &password)).await;
        if right.unwrap_or(false) {
            self.remember(key, &passwords);
            return Verdict::Welcome;
        }
        self.guesses.was_wrong(client);
        Verdict::Unknown
    }

    /// Not the password: what is remembered is of no use elsewhere.
    fn key(&self, user: &str, password: &[u8]) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&self.salt.to_le_bytes());
        context.update(user.as_bytes());
        // No name of a user holds one, so that no two pairs are one text.
        context.update(b":");
        context.update(password);
        let mut key = [0; 32];
        key.copy_from_slice(context.finish().as_ref());
        key
    }

    fn is_remembered(&self, key: &[u8; 32]) -> bool {
        let known = lock(&self.known);
        let since = known.right.get(key).map(|at| clock::monotonic().saturating_duration_since(*at));
        since.is_some_and(|since| since < REMEMBERED_FOR)
    }

    fn remember(&self, key: [u8; 32], judge: &Arc<Passwords>) {
        let mut known = lock(&self.known);
        // What an older file said is no longer right.
        if !Arc::ptr_eq(&known.passwords, judge) {
            return;
        }
        if known.right.len() >= REMEMBERED_MAX {
            known.right.clear();
        }
        known.right.insert(key, clock::monotonic());
    }

    /// Reads the file again if it changed. A file that can't be read leaves the logins as they were.
    async fn look_again(self: &Arc<Self>) {
        {
            let mut known = lock(&self.known);
            let now = clock::monotonic();
            if now.saturating_duration_since(known.looked) < LOOK_INTERVAL {
                return;
            }
            known.looked = now;
        }
        let logins = Arc::clone(self);
        let changed = tokio::task::spawn_blocking(move || lock(&logins.source).changed()).await;
        if let Ok(Some(passwords)) = changed {
            let mut known = lock(&self.known);
            known.passwords = Arc::new(passwords);
            known.right.clear();
        }
    }
}

/// The user and the password of a request.
fn basic(headers: &HeaderMap) -> Option<(String, Vec<u8>)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let (user, password) = decoded.split_at_checked(colon)?;
    let user = String::from_utf8(user.to_vec()).ok()?;
    Some((user, password.get(1..)?.to_vec()))
}

#[cfg(test)]
mod tests;
