use super::*;
use crate::config::Secret;
use proptest::prelude::*;

fn account() -> Account {
    Account { username: "bot".into(), password: Secret::new("hunter2") }
}

/// How the account is sent.
fn sent() -> Option<HeaderValue> {
    basic_header(&account())
}

fn tokens(account: Option<Account>, fallback: bool) -> Tokens {
    let upstream = "https://registry-1.docker.io".parse().unwrap();
    Tokens::new(&upstream, "registry-1.docker.io", account, fallback, vec![])
}

fn bearer(realm: &str) -> Challenge {
    Challenge::Bearer { realm: realm.into(), service: Some("registry.docker.io".into()), error: None }
}

fn scope(name: &str) -> Scope {
    Some(name.parse().unwrap())
}

const HUB: &str = "https://auth.docker.io/token";

#[track_caller]
fn request(tokens: &Tokens, scope: &Scope) -> TokenRequest {
    match tokens.next(scope).unwrap() {
        Next::Fetch(request) => request,
        Next::Go(ticket) => panic!("no fetch: {ticket:?}"),
    }
}

#[track_caller]
fn ticket(tokens: &Tokens, scope: &Scope) -> Option<Ticket> {
    match tokens.next(scope).unwrap() {
        Next::Go(ticket) => ticket,
        Next::Fetch(request) => panic!("a fetch: {request:?}"),
    }
}

#[test]
fn nothing_is_sent_before_it_is_asked_for() {
    assert_eq!(ticket(&tokens(Some(account()), true), &scope("a/b")), None);
}

#[test]
fn a_token_is_asked_for_with_service_scope_and_account() {
    let tokens = tokens(Some(account()), true);
    tokens.refused(&scope("a/b"), bearer(HUB), None).unwrap();
    let request = request(&tokens, &scope("a/b"));
    let expected =
        "https://auth.docker.io/token?service=registry.docker.io&account=bot&scope=repository%3Aa%2Fb%3Apull";
    assert_eq!(request.scoped().as_str(), expected);
    assert_eq!(request.login, Login::Account);
}

#[test]
fn a_token_serves_its_scope_until_it_is_refused() {
    let tokens = tokens(None, true);
    tokens.refused(&None, bearer(HUB), None).unwrap();
    let kept = tokens.keep(&scope("a/b"), Login::Anonymous, br#"{"token":"abc","expires_in":300}"#).unwrap();
    assert_eq!(ticket(&tokens, &scope("a/b")), Some(kept.clone()));
    request(&tokens, &scope("a/c"));
    tokens.refused(&scope("a/b"), bearer(HUB), Some(&kept)).unwrap();
    request(&tokens, &scope("a/b"));
}

#[test]
fn a_refused_account_goes_on_as_nobody_or_not_at_all() {
    let with = tokens(Some(account()), true);
    with.refused(&None, bearer(HUB), None).unwrap();
    assert!(with.login_refused(sent().as_ref()));
    assert_eq!(request(&with, &None).login, Login::Anonymous);
    assert_eq!(with.account_state(), AccountState::Refused);
    let without = tokens(Some(account()), false);
    assert!(!without.login_refused(sent().as_ref()));
    assert!(matches!(without.next(&None), Err(FetchError::LoginRefused { .. })));
}

#[test]
fn the_state_of_the_account_follows_the_last_word() {
    let tokens = tokens(Some(account()), true);
    assert_eq!(tokens.account_state(), AccountState::Unknown);
    tokens.keep(&None, Login::Account, br#"{"token":"abc"}"#).unwrap();
    assert_eq!(tokens.account_state(), AccountState::Accepted);
    tokens.login_refused(sent().as_ref());
    assert_eq!(tokens.account_state(), AccountState::Refused);
    tokens.login_accepted();
    assert_eq!(tokens.account_state(), AccountState::Accepted);
}

#[test]
fn a_late_refusal_of_the_old_password_says_nothing_of_the_new_one() {
    let tokens = tokens(Some(account()), true);
    let new = Account { password: Secret::new("hunter3"), ..account() };
    tokens.change_account(new.clone());
    tokens.login_refused(sent().as_ref());
    assert_eq!(tokens.account_state(), AccountState::Unknown);
    tokens.login_refused(basic_header(&new).as_ref());
    assert_eq!(tokens.account_state(), AccountState::Refused);
}

#[test]
fn a_challenge_is_forgotten_on_request() {
    let tokens = tokens(None, true);
    assert!(!tokens.forget_challenge());
    tokens.refused(&None, bearer(HUB), None).unwrap();
    assert!(tokens.forget_challenge());
    assert_eq!(ticket(&tokens, &None), None);
}

#[test]
fn a_foreign_realm_gets_nothing() {
    for realm in ["https://evil.example/token", "http://auth.docker.io/token", "nonsense"] {
        let tokens = tokens(Some(account()), true);
        let refused = tokens.refused(&None, bearer(realm), None);
        assert!(matches!(refused, Err(FetchError::ForbiddenRealm { .. })), "{realm}");
        // What was known before still counts; here, nothing.
        assert_eq!(ticket(&tokens, &None), None);
    }
}

#[test]
fn a_basic_upstream_gets_the_account_itself() {
    let with = tokens(Some(account()), true);
    with.refused(&None, Challenge::Basic, None).unwrap();
    assert_eq!(ticket(&with, &None).unwrap().header, "Basic Ym90Omh1bnRlcjI=");
    let without = tokens(None, true);
    without.refused(&None, Challenge::Basic, None).unwrap();
    assert_eq!(ticket(&without, &None), None);
}

#[test]
fn documents_that_are_none() {
    for document in ["", "{}", r#"{"token":""}"#, r#"{"token":"a\nb"}"#, "[1]", r#"{"token":7}"#] {
        let kept = tokens(None, true).keep(&None, Login::Anonymous, document.as_bytes());
        assert!(matches!(kept, Err(FetchError::Malformed { .. })), "{document}");
    }
}

proptest! {
    #[test]
    fn any_document_is_a_token_or_an_error(
        document in "\\PC{0,60}|\\{\"(token|access_token|expires_in)\":(\"[a-z]{0,9}\"|-?[0-9]{1,30}|null|[{]{1,3}[}]{0,3})\\}",
    ) {
        let tokens = tokens(None, true);
        if tokens.keep(&None, Login::Anonymous, document.as_bytes()).is_ok() {
            prop_assert!(document.contains("token"));
        }
    }

    #[test]
    fn no_lifetime_is_longer_than_the_limit(seconds in any::<f64>()) {
        prop_assert!(usable(serde_json::json!(seconds)) <= LIFETIME_MAX);
    }
}

#[test]
fn a_token_is_dropped_before_it_ends() {
    let check = |expires_in: &str, seconds: u64| {
        let value = serde_json::from_str(expires_in).unwrap();
        assert_eq!(usable(value), Duration::from_secs(seconds), "{expires_in}");
    };
    check("300", 270);
    check("60", 54);
    check("0", 54);
    check("-5", 54);
    check("null", 54);
    check("\"soon\"", 54);
    check("1e300", 3570);
    check("100000", 3570);
}

#[test]
fn what_is_kept_shows_no_secret() {
    let tokens = tokens(Some(account()), true);
    tokens.refused(&None, bearer(HUB), None).unwrap();
    let asked = request(&tokens, &None);
    tokens.keep(&None, Login::Account, br#"{"access_token":"very-secret"}"#).unwrap();
    let shown = format!("{tokens:?} {asked:?}");
    assert!(!shown.contains("very-secret") && !shown.contains("hunter2"), "{shown}");
}
