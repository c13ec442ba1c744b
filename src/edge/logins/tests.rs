use super::*;

/// `right` of alice with the least cost that bcrypt has, and of bob in a form that is none.
fn file(folder: &tempfile::TempDir) -> PathBuf {
    let path = folder.path().join("htpasswd");
    let hash = bcrypt::hash("right", 4).unwrap();
    std::fs::write(&path, format!("# users\nalice:{hash}\n\nbob:{{SHA}}xyz\n")).unwrap();
    path
}

fn logins(folder: &tempfile::TempDir) -> Arc<Logins> {
    Logins::load("the \"mirror\"", file(folder), Arc::default()).unwrap()
}

fn asks(user: &str, password: &str) -> HeaderMap {
    let value = format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")));
    HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(&value).unwrap())])
}

async fn check(logins: &Arc<Logins>, user: &str, password: &str, expected: Verdict) {
    assert_eq!(logins.check(&asks(user, password), None).await, expected, "{user}:{password}");
}

#[tokio::test]
async fn a_right_password_comes_in_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let logins = logins(&folder);
    check(&logins, "alice", "right", Verdict::Welcome).await;
    check(&logins, "alice", "right", Verdict::Welcome).await;
    check(&logins, "alice", "wrong", Verdict::Unknown).await;
    check(&logins, "alice", "", Verdict::Unknown).await;
    check(&logins, "alice", &"x".repeat(40_000), Verdict::Unknown).await;
    check(&logins, "bob", "right", Verdict::Unknown).await;
    check(&logins, "carol", "right", Verdict::Unknown).await;
    check(&logins, "", "", Verdict::Unknown).await;
    assert_eq!(logins.challenge, "Basic realm=\"the \\\"mirror\\\"\"");
}

#[tokio::test]
async fn what_is_no_login_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let logins = logins(&folder);
    for value in ["Basic", "Basic !", "Bearer abc", "Basic YWxpY2U=", "Basic /zp4"] {
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(value))]);
        assert_eq!(logins.check(&headers, None).await, Verdict::Unknown, "{value}");
    }
    assert_eq!(logins.check(&HeaderMap::new(), None).await, Verdict::Unknown);
}

#[tokio::test]
async fn guesses_end_and_who_is_known_still_comes_in() {
    let folder = tempfile::tempdir().unwrap();
    let logins = logins(&folder);
    check(&logins, "alice", "right", Verdict::Welcome).await;
    let mut guesses = 0;
    while logins.check(&asks("alice", &guesses.to_string()), None).await == Verdict::Unknown {
        guesses += 1;
        assert!(guesses < 100);
    }
    assert!(guesses >= 20);
    check(&logins, "alice", "right", Verdict::Welcome).await;
}

#[tokio::test]
async fn a_changed_file_forgets_what_was_right_and_a_broken_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let logins = logins(&folder);
    check(&logins, "alice", "right", Verdict::Welcome).await;
    let path = folder.path().join("htpasswd");
    let look = || lock(&logins.known).looked -= LOOK_INTERVAL;
    std::fs::write(&path, "no line of such a file").unwrap();
    look();
    check(&logins, "alice", "right", Verdict::Welcome).await;
    std::fs::remove_file(&path).unwrap();
    look();
    check(&logins, "alice", "right", Verdict::Welcome).await;
    std::fs::write(&path, format!("alice:{}\n", bcrypt::hash("new", 4).unwrap())).unwrap();
    look();
    check(&logins, "alice", "right", Verdict::Unknown).await;
    check(&logins, "alice", "new", Verdict::Welcome).await;
}

#[test]
fn a_file_that_gives_no_logins_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("htpasswd");
    let error =
        |path: &std::path::Path| Logins::load("r", path.to_owned(), Arc::default()).unwrap_err().to_string();
    assert!(error(&path).contains("htpasswd"));
    assert!(error(folder.path()).contains("no regular file"));
    std::fs::write(&path, "alice").unwrap();
    assert!(error(&path).contains("line 1"));
}

#[test]
fn no_hash_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    assert!(!format!("{:?}", logins(&folder)).contains("$2"));
}
