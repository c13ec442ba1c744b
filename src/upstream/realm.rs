//! Questions to a token server: a token for a scope, and whether the account is refused altogether.

use http::{HeaderMap, Method, StatusCode, header};

use super::error::FetchError;
use super::token::{self, Login, Scope, Ticket, TokenRequest, Tokens};
use super::transport::{read, retry_after, send, shown};

/// Fetches a token, and keeps it.
pub async fn fetch_token(
    client: &reqwest::Client,
    tokens: &Tokens,
    request: &TokenRequest,
    scope: &Scope,
) -> Result<Ticket, FetchError> {
    let answer = send(client, Method::GET, &request.scoped(), login_of(request)).await?;
    let host = shown(answer.url());
    match answer.status() {
        status if status.is_success() => {
            let document = read(answer, token::DOCUMENT_BYTES_MAX).await?;
            tokens.keep(scope, request.login, &document)
        }
        StatusCode::UNAUTHORIZED if is_account_refused(client, tokens, request, scope).await => {
            tokens.login_refused(request.account.as_ref().and_then(token::basic_header).as_ref());
            Err(FetchError::LoginRefused { host })
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(FetchError::Denied { host }),
        StatusCode::TOO_MANY_REQUESTS => {
            Err(FetchError::RateLimited { host, retry_after: retry_after(answer.headers()) })
        }
        status => Err(FetchError::Status { host, status: status.as_u16() }),
    }
}

/// A 401 of a token server may be about one repository, or about the account: a token for nothing tells.
async fn is_account_refused(
    client: &reqwest::Client,
    tokens: &Tokens,
    request: &TokenRequest,
    scope: &Scope,
) -> bool {
    if request.login != Login::Account {
        return false;
    }
    if scope.is_none() {
        return true;
    }
    let answer = send(client, Method::GET, &request.url, login_of(request)).await;
    let status = answer.map(|answer| answer.status());
    if status.as_ref().is_ok_and(StatusCode::is_success) {
        tokens.login_accepted();
    }
    status.is_ok_and(|status| status == StatusCode::UNAUTHORIZED)
}

fn login_of(request: &TokenRequest) -> HeaderMap {
    let basic = request.account.as_ref().and_then(token::basic_header);
    basic.map(|basic| (header::AUTHORIZATION, basic)).into_iter().collect()
}
