use super::*;
use proptest::prelude::*;

const HUB: &str = "https://registry-1.docker.io";

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

#[track_caller]
fn check_realm(upstream: &str, text: &str, allowed: bool) {
    let listed = ["https://tokens.example.net".to_owned(), "sso.example.org:8443".to_owned()];
    assert_eq!(realm(&url(upstream), text, &listed).is_some(), allowed, "{upstream} → {text}");
}

#[test]
fn a_realm_of_the_same_owner_is_believed() {
    check_realm(HUB, "https://auth.docker.io/token", true);
    check_realm(HUB, "https://registry-1.docker.io/token", true);
    check_realm("http://127.0.0.1:5000", "http://127.0.0.1:6000/token", true);
    check_realm("http://localhost:5000", "http://localhost:6000/token", true);
    check_realm(HUB, "https://tokens.example.net/t", true);
    check_realm(HUB, "https://sso.example.org:8443/t", true);
}

#[test]
fn any_other_realm_gets_nothing() {
    for text in [
        "https://auth.docker.io.evil.net/token",
        "https://evil.net/token",
        "https://docker.io@evil.net/",
        "https://user:x@auth.docker.io/token",
        "http://auth.docker.io/token",
        "https://10.0.0.1/token",
        "https://sso.example.org/t",
        "ftp://auth.docker.io/",
        "/token",
        "",
    ] {
        check_realm(HUB, text, false);
    }
    check_realm("http://127.0.0.1:5000", "http://127.0.0.2:5000/token", false);
    check_realm("https://a.github.io", "https://b.github.io/token", false);
    check_realm("https://a.co.uk", "https://b.co.uk/token", false);
    check_realm("https://registry.corp", "https://other.corp/token", false);
    check_realm(HUB, &format!("https://auth.docker.io/{}", "x".repeat(100_000)), false);
}

#[test]
fn addresses_are_told_apart() {
    let check = |text: &str, expected| assert_eq!(network(text.parse().unwrap()), expected, "{text}");
    for text in ["8.8.8.8", "2606:4700::1", "172.32.0.1"] {
        check(text, Network::Public);
    }
    for text in ["10.1.2.3", "192.168.0.1", "172.16.0.1", "100.64.0.1", "fd00::1", "::ffff:10.0.0.1"] {
        check(text, Network::Private);
    }
    for text in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
        check(text, Network::Loopback);
    }
    for text in
        ["169.254.169.254", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "::ffff:169.254.169.254"]
    {
        check(text, Network::Never);
    }
}

#[test]
fn a_redirect_stays_secure() {
    let target = |upstream: &str, location: &str| redirect_target(&url(upstream), &url(upstream), location);
    assert_eq!(
        target(HUB, "https://cdn.example.net/x?verify=1").unwrap().host_str(),
        Some("cdn.example.net")
    );
    assert_eq!(target(HUB, "/elsewhere").unwrap().as_str(), "https://registry-1.docker.io/elsewhere");
    assert!(target("http://127.0.0.1:5000", "http://127.0.0.1:6000/x").is_ok());
    for location in [
        "http://cdn.example.net/",
        "file:///etc/passwd",
        "https://u:p@cdn.example.net/",
        "https://",
        "ftp://x/",
    ] {
        assert!(target(HUB, location).is_err(), "{location}");
    }
    assert!(target(HUB, &format!("https://cdn.example.net/{}", "x".repeat(100_000))).is_err());
}

#[test]
fn literals_lead_only_into_the_upstreams_own_networks() {
    let admits = |networks, text: &str, listed: &[&str]| {
        let listed: Vec<_> = listed.iter().map(|entry| (*entry).to_owned()).collect();
        admits_literal(networks, &listed, &url(text))
    };
    let public = Networks::default();
    let at_home = Networks { private: true, loopback: true };
    assert!(admits(public, "https://8.8.8.8/", &[]) && admits(public, "https://name.example/", &[]));
    assert!(!admits(public, "https://10.0.0.1/", &[]) && !admits(public, "https://[::1]/", &[]));
    assert!(admits(public, "https://10.0.0.1/", &["10.0.0.1"]) && admits(at_home, "http://10.0.0.1/", &[]));
    assert!(!admits(at_home, "http://169.254.169.254/", &["169.254.169.254"]));
}

proptest! {
    #[test]
    fn no_text_makes_a_foreign_host_a_realm(text in "(https?://)?[a-z0-9.@:/\\\\#?%-]{0,60}") {
        if let Some(realm) = realm(&url(HUB), &text, &[]) {
            let host = realm.host_str().unwrap_or_default();
            prop_assert!(host == "docker.io" || host.ends_with(".docker.io"), "{}", host);
        }
    }
}
