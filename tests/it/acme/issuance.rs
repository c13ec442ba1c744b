//! The good days.

use std::time::{Duration, Instant};

use super::world::{NAME, World, leaf};
use crate::support::counter::Mishap;
use crate::support::mirror::files;
use crate::support::pebble::Rules;

const CAME: &str = "a certificate came";

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_comes_by_tls_alpn_within_ten_seconds_and_is_used_again_after_a_restart() {
    let world = World::new().await;
    let began = Instant::now();
    let mirror = world.setup().start();
    mirror.logged("a self-signed stand-in is served");
    mirror.logged(CAME);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(world.is_trusted(&mirror).await);
    assert_eq!((world.authority.orders(), world.authority.failures()), (1, 0));
    let metrics = mirror.metrics().await;
    assert!(metrics.contains("tidegate_acme_attempts_total{result=\"issued\"} 1"), "{metrics}");
    assert!(
        metrics.contains(&format!("tidegate_acme_next_attempt_timestamp_seconds{{name=\"{NAME}\"}} ")),
        "{metrics}"
    );
    let config = mirror.setup.config().display().to_string();
    let shown = mirror.setup.clone().arguments(&["cert", "show", &config, "--json"]).output();
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let own = &shown["certificates"][0];
    assert_eq!((&own["source"], &own["trouble"]), (&"acme".into(), &"".into()), "{shown}");
    assert!(own["next_renewal"].as_str().unwrap().starts_with("20"), "{shown}");
    assert_eq!(shown["certificates"].as_array().unwrap().len(), 1, "the stand-in is gone: {shown}");
    let before = leaf(&mirror).await;
    let (setup, status) = mirror.stop();
    assert!(status.success());
    let calls = world.authority.calls().len();
    let mirror = setup.start();
    assert_eq!(leaf(&mirror).await, before);
    assert!(world.is_trusted(&mirror).await);
    assert_eq!(world.authority.orders(), 1);
    // The question about renewals is all that a start asks.
    assert!(world.authority.calls().len() <= calls + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_comes_by_http_where_only_the_challenge_port_is_reachable() {
    let world = World::new().await;
    // The CA's TLS validations end nowhere: the mirror's own port is another one.
    let mirror = world.setup().with("REGISTRY_HTTP_ADDR", "127.0.0.1:0").start();
    mirror.logged("by tls-alpn-01");
    mirror.logged(CAME);
    assert!(world.is_trusted(&mirror).await);
    assert_eq!((world.authority.orders(), world.authority.failures()), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_owner_reads_the_keys() {
    use std::os::unix::fs::MetadataExt;
    let world = World::new().await;
    let mirror = world.setup().start();
    mirror.logged(CAME);
    let folder = mirror.setup.root().join("tidegate/acme");
    assert_eq!(std::fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
    let kept = files(&folder);
    assert!(kept.iter().any(|path| path.ends_with(format!("{NAME}.pem"))), "{kept:?}");
    assert!(kept.iter().any(|path| path.ends_with("account.der")), "{kept:?}");
    for path in kept {
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600, "{}", path.display());
    }
    let all = mirror.log().join("\n");
    assert!(!all.contains("PRIVATE KEY"), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn short_certificates_are_renewed_twice_while_clients_come_and_none_fails() {
    let world = World::with(Rules { validity: 30, ..Rules::default() }).await;
    let mirror = world.setup().start();
    mirror.logged(CAME);
    let mut seen = vec![leaf(&mirror).await];
    let (mut handshakes, began) = (0, Instant::now());
    while seen.len() < 3 {
        assert!(world.is_trusted(&mirror).await, "after {handshakes} handshakes");
        handshakes += 1;
        let now = leaf(&mirror).await;
        if seen.last() != Some(&now) {
            seen.push(now);
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{} certificates", seen.len());
    }
    assert!(handshakes > 20, "{handshakes}");
    // Each certificate cost one order, and lived for a good part of its life.
    assert_eq!(world.authority.orders(), 3);
    assert!(began.elapsed() > Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_wants_a_renewal_now_gets_it_but_not_more_than_one_in_a_tenth_of_a_lifetime() {
    let world = World::with(Rules { validity: 120, ..Rules::default() }).await;
    let base = world.authority.directory();
    let base = base.trim_end_matches("/dir");
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let directory = serde_json::json!({
        "newNonce": format!("{base}/nonce-plz"), "newAccount": format!("{base}/sign-me-up"),
        "newOrder": format!("{base}/order-plz"), "renewalInfo": format!("{base}/ari"),
    });
    let past = serde_json::json!({
        "suggestedWindow": { "start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z" },
    });
    let answer =
        |document: &serde_json::Value| Mishap::Answer(head.into(), document.to_string().into_bytes());
    world.authority.will("/dir", answer(&directory), 10_000);
    world.authority.will("/ari/", answer(&past), 10_000);
    let mirror = world.setup().start();
    mirror.logged(CAME);
    let first = Instant::now();
    world.authority.until("a second order", |ca| ca.orders() == 2).await;
    // By its own rule it would have waited for a minute.
    assert!((9..40).contains(&first.elapsed().as_secs()), "{:?}", first.elapsed());
    let asked: Vec<_> =
        world.authority.calls().into_iter().filter(|call| call.path.starts_with("/ari/")).collect();
    let name = asked[0].path.trim_start_matches("/ari/");
    assert_eq!(name.split('.').filter(|part| part.len() > 8).count(), 2, "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_name_has_its_own_certificate_and_a_refused_one_holds_nobody_up() {
    let world = World::with(Rules { blocked: vec!["blocked.test".into()], ..Rules::default() }).await;
    let hosts = format!("[blocked.test, {NAME}]");
    let mirror = world.setup().with("REGISTRY_HTTP_TLS_LETSENCRYPT_HOSTS", &hosts).start();
    mirror.logged("class=refused");
    mirror.logged(CAME);
    assert!(world.is_trusted(&mirror).await);
    // Refused for good: it is not asked for again and again.
    assert_eq!(world.authority.calls().iter().filter(|call| call.path == "/order-plz").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_registry_had_is_taken_over_and_left_as_it_was() {
    let world = World::new().await;
    let first = world.setup().start();
    first.logged(CAME);
    let pem = std::fs::read(first.setup.root().join(format!("tidegate/acme/{NAME}.pem"))).unwrap();
    first.stop();
    // As Go's autocert has it: one file of that name, key first.
    let autocert = tempfile::TempDir::new().unwrap();
    std::fs::write(autocert.path().join(NAME), &pem).unwrap();
    let path = autocert.path().to_str().unwrap();
    let mirror = world.setup().with("REGISTRY_HTTP_TLS_LETSENCRYPT_CACHEFILE", path).start();
    mirror.logged("is taken over");
    assert!(world.is_trusted(&mirror).await);
    assert_eq!(world.authority.orders(), 1);
    assert_eq!(std::fs::read(autocert.path().join(NAME)).unwrap(), pem);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tries_every_challenge_and_leaves_nothing() {
    let (world, trials) = (World::new().await, World::new().await);
    let both = tempfile::NamedTempFile::new().unwrap();
    let texts = [&world, &trials].map(|world| std::fs::read_to_string(world.pebble.cafile()).unwrap());
    std::fs::write(both.path(), texts.concat()).unwrap();
    // The CA for trials looks at the mirror's port for HTTP, and at none of its ports for TLS.
    let mirror = world
        .setup()
        .with("TIDEGATE_ACME_CAFILE", both.path().to_str().unwrap())
        .with("TIDEGATE_EDGE_HTTP", &trials.pebble.http())
        .start();
    mirror.logged(CAME);
    let before = (leaf(&mirror).await, files(&mirror.setup.root().join("tidegate/acme")));
    let config = mirror.setup.config().display().to_string();
    let test = |words: &[&str]| {
        let words: Vec<_> =
            ["cert", "test"].iter().chain(words).copied().chain([config.as_str(), "--json"]).collect();
        mirror.setup.clone().arguments(&words).output()
    };
    let tested = test(&[NAME, "--directory", &trials.authority.directory()]);
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stderr));
    let document: serde_json::Value = serde_json::from_slice(&tested.stdout).unwrap();
    assert_eq!(document["http-01"], "works", "{document}");
    assert!(document["tls-alpn-01"].as_str().unwrap().contains("could not validate"), "{document}");
    assert_eq!((leaf(&mirror).await, files(&mirror.setup.root().join("tidegate/acme"))), before);
    assert_eq!((world.authority.orders(), trials.authority.orders()), (1, 2));
    let refused = test(&[NAME]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--directory"), "{refused:?}");
    let refused = test(&["other.test", "--directory", &trials.authority.directory()]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("none of the names"), "{refused:?}");
}
