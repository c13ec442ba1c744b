//! auth.docker.io.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::State;
use super::wire::{Reply, Request};

/// What a token allows: a repository, and whether as the account.
#[derive(Debug, Clone)]
pub struct Grant {
    pub repository: String,
    pub account: bool,
}

#[derive(Debug, Default)]
pub struct Tokens {
    made: AtomicUsize,
    granted: Mutex<HashMap<String, Grant>>,
}

impl Tokens {
    pub fn grant(&self, token: &str) -> Option<Grant> {
        self.granted.lock().unwrap().get(token).cloned()
    }

    /// Makes all tokens worthless.
    pub fn revoke(&self) {
        self.granted.lock().unwrap().clear();
    }
}

/// Anybody gets a token for anything; what it is worth shows at the registry. A wrong password gets none.
pub fn answer(state: &State, request: &Request) -> Reply {
    if request.path != state.token_path() {
        return Reply::new(404, vec![], "404 page not found");
    }
    let account = match request.header("authorization") {
        None => false,
        Some(given) => {
            let (username, password) = state.account.lock().unwrap().clone();
            let right = format!("Basic {}", STANDARD.encode(format!("{username}:{password}")));
            if given != right || state.refuses_login.load(Ordering::SeqCst) {
                return Reply::new(401, vec![], r#"{"details":"incorrect username or password"}"#);
            }
            true
        }
    };
    let scope = request.parameter("scope").unwrap_or_default();
    let repository = scope.trim_start_matches("repository:").trim_end_matches(":pull").to_owned();
    let number = state.tokens.made.fetch_add(1, Ordering::SeqCst);
    let token = format!("scripted-token-{number}");
    state.tokens.granted.lock().unwrap().insert(token.clone(), Grant { repository, account });
    let document = json!({ "token": token, "access_token": token, "expires_in": 300, "issued_at": "2026-11-24T00:00:00Z" });
    Reply::new(200, vec![("content-type", "application/json".into())], document.to_string())
}
