//! The admin socket: commands of an operator, one JSON document each, answered by one.
//!
//! `POST /v1/operate` with a [`Command`]; `GET /v1/certificates`, and `POST` after all their files were read again; `POST
//! /v1/acme` with a [`Wish`] for a certificate of a CA. Who may connect is a matter of the mode of the socket.

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::json;

use super::acme::{Renewals, Wish};
use super::body::Body;
use super::reload::Secured;
use super::{failure, lists};
use crate::engine::{Command, Engine};

/// Longest command: a pin holds a repository name.
const COMMAND_BYTES_MAX: usize = 4096;

/// Answers on the admin socket.
#[derive(Debug)]
pub struct Admin {
    /// Who does it.
    pub engine: Arc<Engine>,
    /// The certificates, if TLS is spoken.
    pub secured: Option<Secured>,
    /// Who gets certificates from a CA, if anybody does.
    pub renewals: Option<Arc<Renewals>>,
}

impl Admin {
    /// Answers a request of a peer, who is named in the log where something changes.
    pub async fn answer(&self, request: Request<Incoming>, peer: &str) -> Response<Body> {
        if request.uri().path() == "/v1/certificates" {
            return self.certificates(request.method() == Method::POST, peer).await;
        }
        let for_acme = request.uri().path() == "/v1/acme";
        if request.method() != Method::POST || (!for_acme && request.uri().path() != "/v1/operate") {
            return failure::text(StatusCode::NOT_FOUND, "404 page not found\n");
        }
        let Ok(body) = Limited::new(request.into_body(), COMMAND_BYTES_MAX).collect().await else {
            return refusal(StatusCode::PAYLOAD_TOO_LARGE, "the command is too long, or broke off");
        };
        if for_acme {
            return self.acme(&body.to_bytes(), peer).await;
        }
        let command: Command = match serde_json::from_slice(&body.to_bytes()) {
            Ok(command) => command,
            Err(error) => return refusal(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        if command.changes() {
            tracing::info!(peer, ?command, "an operator asked for a change");
        }
        // On its own: whoever asked may leave, and it is done all the same.
        let engine = Arc::clone(&self.engine);
        match tokio::spawn(async move { engine.operate(command).await }).await {
            Ok(Ok(document)) => lists::document(&document),
            Ok(Err(reason)) => refusal(StatusCode::UNPROCESSABLE_ENTITY, &reason),
            Err(_) => refusal(StatusCode::INTERNAL_SERVER_ERROR, "the command failed; the log has more"),
        }
    }

    async fn acme(&self, body: &[u8], peer: &str) -> Response<Body> {
        let wish: Wish = match serde_json::from_slice(body) {
            Ok(wish) => wish,
            Err(error) => return refusal(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        let Some(renewals) = self.renewals.clone() else {
            let reason = "this mirror gets no certificates from a CA: http.tls.letsencrypt.hosts names none";
            return refusal(StatusCode::UNPROCESSABLE_ENTITY, reason);
        };
        tracing::info!(peer, ?wish, "an operator wants a certificate");
        // On its own, as above: an order that was made is not left alone.
        match tokio::spawn(async move { renewals.fulfil(wish).await }).await {
            Ok(Ok(document)) => lists::document(&document),
            Ok(Err(reason)) => refusal(StatusCode::UNPROCESSABLE_ENTITY, &reason),
            Err(_) => refusal(StatusCode::INTERNAL_SERVER_ERROR, "the command failed; the log has more"),
        }
    }

    async fn certificates(&self, reload: bool, peer: &str) -> Response<Body> {
        let Some(secured) = &self.secured else {
            return refusal(
                StatusCode::UNPROCESSABLE_ENTITY,
                "this mirror speaks plain HTTP and has no certificates",
            );
        };
        if reload {
            tracing::info!(peer, "an operator wants the certificate files to be read again");
            secured.reload().await;
        }
        lists::document(&json!({ "certificates": secured.certificates.listing() }))
    }
}

fn refusal(status: StatusCode, reason: &str) -> Response<Body> {
    let mut response = lists::document(&json!({ "error": reason }));
    *response.status_mut() = status;
    response
}
