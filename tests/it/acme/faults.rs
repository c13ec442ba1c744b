//! The bad days: of the CA, of the network, of the disk, of the process.

use std::process::Output;

use super::world::{NAME, World, leaf};
use crate::support::counter::Mishap;
use crate::support::loopback::Tmpfs;
use crate::support::mirror::Mirror;
use crate::support::pebble::Rules;
use crate::support::soon;

const CAME: &str = "a certificate came";

/// A command for a running mirror.
fn tell(mirror: &Mirror, words: &[&str]) -> Output {
    let config = mirror.setup.config().display().to_string();
    let words: Vec<_> = words.iter().copied().chain([config.as_str()]).collect();
    mirror.setup.clone().arguments(&words).output()
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_nonces_are_no_failure() {
    let world = World::with(Rules { nonces_rejected: 20, ..Rules::default() }).await;
    let mirror = world.setup().start();
    mirror.logged(CAME);
    assert!(world.is_trusted(&mirror).await);
    let rejected = world.authority.calls().iter().filter(|call| call.status == 400).count();
    assert_eq!((world.authority.orders(), world.authority.failures()), (1, 0), "{rejected} rejected");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_rejects_nearly_all_nonces_is_left_alone_after_a_while() {
    let world = World::with(Rules { nonces_rejected: 90, ..Rules::default() }).await;
    let mirror = world.setup().start();
    world
        .authority
        .until("a dozen rejected nonces", |ca| {
            ca.calls().iter().filter(|call| call.status == 400).count() >= 10
        })
        .await;
    assert!(world.authority.orders() <= 1);
    assert_eq!(world.authority.failures(), 0);
    assert!(!leaf(&mirror).await.is_empty(), "it listens all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_wants_accounts_from_elsewhere_is_named() {
    let world = World::with(Rules { external_accounts: true, ..Rules::default() }).await;
    let mirror = world.setup().start();
    mirror.logged("external account binding");
    assert_eq!(world.authority.orders(), 0);
    assert!(!leaf(&mirror).await.is_empty(), "it listens all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_is_away_at_the_start_stops_nothing_and_is_asked_again() {
    let world = World::new().await;
    world.authority.be_gone(true);
    let mirror = world.setup().start();
    mirror.logged("class=transient");
    assert!(!leaf(&mirror).await.is_empty(), "it listens all the same");
    world.authority.be_gone(false);
    mirror.logged(CAME);
    assert_eq!(world.authority.orders(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_outlives_the_process_that_made_it() {
    let world = World::new().await;
    // The process is killed while the CA is silent on the authorization.
    world.authority.will("/authZ/", Mishap::Silence, 100);
    let mirror = world.setup().start();
    world
        .authority
        .until("the silence", |ca| ca.calls().iter().any(|call| call.path.starts_with("/authZ/")))
        .await;
    let setup = mirror.kill();
    world.authority.be_well();
    let mirror = setup.start();
    mirror.logged("an order that was under way is taken up");
    mirror.logged(CAME);
    assert_eq!((world.authority.orders(), world.authority.failures()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_starts_before_a_deaf_ca_make_no_second_order() {
    let world = World::new().await;
    world.authority.will("/authZ/", Mishap::Reset, 100_000);
    let mut setup = world.setup();
    for start in 1..=if crate::support::is_long() { 100 } else { 8 } {
        let mirror = setup.start();
        world
            .authority
            .until("a look at the authorization", |ca| {
                ca.calls().iter().filter(|call| call.path.starts_with("/authZ/")).count() >= start
            })
            .await;
        setup = mirror.kill();
    }
    assert_eq!((world.authority.orders(), world.authority.failures()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_validations_stay_below_the_limit_whatever_is_restarted_and_commanded() {
    let world = World::new().await;
    // Nobody answers where the CA looks.
    let mut setup = world.setup().with("REGISTRY_HTTP_ADDR", "127.0.0.1:0").with("TIDEGATE_EDGE_HTTP", "off");
    for _ in 0..5 {
        let mirror = setup.start();
        for _ in 0..2 {
            let refused = tell(&mirror, &["cert", "renew", NAME]);
            assert!(!refused.status.success());
        }
        setup = mirror.kill();
    }
    let (orders, failures) = (world.authority.orders(), world.authority.failures());
    assert!((1..=3).contains(&failures) && orders <= 3, "{orders} orders, {failures} failures");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_wants_to_be_left_alone_is_over_restarts() {
    let world = World::new().await;
    let head = "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/problem+json\r\n";
    let body = "{\"type\": \"urn:ietf:params:acme:error:rateLimited\", \"detail\": \"too many certificates already issued, retry after 2099-01-01 00:00:00 UTC: see https://x\"}";
    world.authority.will("/order-plz", Mishap::Answer(head.into(), body.into()), 100);
    let mirror = world.setup().start();
    mirror.logged("class=limited");
    let (setup, _) = mirror.stop();
    let mirror = setup.start();
    let refused = mirror
        .setup
        .clone()
        .arguments(&["cert", "renew", NAME, mirror.setup.config().to_str().unwrap()])
        .output();
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && words.contains("not before"), "{words}");
    assert_eq!(world.authority.calls().iter().filter(|call| call.path == "/order-plz").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_only_a_header_names_is_kept() {
    let world = World::new().await;
    let head = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 90000\r\n";
    world.authority.will("/order-plz", Mishap::Answer(head.into(), b"{}".to_vec()), 100);
    let mirror = world.setup().start();
    mirror.logged("class=transient");
    let refused = tell(&mirror, &["cert", "renew", NAME]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not before"), "{refused:?}");
    let tries = world.authority.calls().into_iter().filter(|call| call.path == "/order-plz").count();
    assert_eq!((tries, world.authority.orders()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_answer_is_cut() {
    let world = World::new().await;
    let head = "HTTP/1.1 201 Created\r\nLocation: https://localhost/x\r\n";
    world.authority.will("/sign-me-up", Mishap::Answer(head.into(), vec![b' '; 8 << 20]), 100);
    let mirror = world.setup().start();
    let before = mirror.anonymous_memory();
    mirror.logged("more than 1048576 bytes");
    assert!(mirror.anonymous_memory() < before + (6 << 20), "{before} {}", mirror.anonymous_memory());
    world.authority.be_well();
    mirror.logged(CAME);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_found_out_before_the_ca_is_asked() {
    let world = World::new().await;
    let setup = world.setup();
    let folder = setup.root().join("tidegate/acme");
    let _small = Tmpfs::mount(&folder, "size=128k,mode=700");
    std::fs::write(folder.join("filler"), vec![1; 120 * 1024]).unwrap();
    let mirror = setup.start();
    let line = mirror.logged("class=local");
    assert!(line.contains("No space left"), "{line}");
    assert_eq!(world.authority.orders(), 0);
    std::fs::remove_file(folder.join("filler")).unwrap();
    let renewed = tell(&mirror, &["cert", "renew", NAME]);
    assert!(renewed.status.success(), "{}", String::from_utf8_lossy(&renewed.stderr));
    assert!(world.is_trusted(&mirror).await);
    assert_eq!(world.authority.orders(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_between_order_and_certificate_costs_no_second_order() {
    let world = World::new().await;
    let setup = world.setup();
    let folder = setup.root().join("tidegate/acme");
    let _small = Tmpfs::mount(&folder, "size=256k,mode=700");
    world.authority.will("/certZ/", Mishap::Silence, 1);
    let mirror = setup.start();
    world
        .authority
        .until("the order is fulfilled", |ca| ca.calls().iter().any(|call| call.path.starts_with("/certZ/")))
        .await;
    fill(&folder);
    let setup = mirror.kill();
    let mirror = setup.start();
    mirror.logged("No space left");
    std::fs::remove_file(folder.join("filler")).unwrap();
    let renewed = tell(&mirror, &["cert", "renew", NAME]);
    assert!(renewed.status.success(), "{}", String::from_utf8_lossy(&renewed.stderr));
    assert!(world.is_trusted(&mirror).await);
    assert_eq!((world.authority.orders(), world.authority.certificates()), (1, 1));
}

/// Takes all that is left of a small file system.
fn fill(folder: &std::path::Path) {
    use std::io::Write;
    let mut filler = std::fs::File::create(folder.join("filler")).unwrap();
    while filler.write_all(&[1; 4096]).is_ok() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn another_ca_gives_certificates_while_the_first_one_is_away() {
    let world = World::new().await;
    let other = World::new().await;
    let both = tempfile::NamedTempFile::new().unwrap();
    let texts = [&world, &other].map(|world| std::fs::read_to_string(world.pebble.cafile()).unwrap());
    std::fs::write(both.path(), texts.concat()).unwrap();
    world.authority.be_gone(true);
    // The other one looks at its own port for challenges over HTTP.
    let setup = world
        .setup()
        .with("TIDEGATE_ACME_CAFILE", both.path().to_str().unwrap())
        .with("TIDEGATE_ACME_FALLBACK", &other.authority.directory())
        .with("REGISTRY_HTTP_ADDR", &other.pebble.tls());
    let mirror = setup.start();
    mirror.logged("class=transient");
    assert!(!tell(&mirror, &["cert", "renew", NAME]).status.success());
    mirror.logged(CAME);
    assert!(other.is_trusted(&mirror).await);
    assert_eq!((world.authority.orders(), other.authority.orders()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_for_challenges_that_somebody_has_is_no_reason_not_to_start_and_is_had_later() {
    let world = World::new().await;
    let squatter = std::net::TcpListener::bind(world.pebble.http()).unwrap();
    let setup = world.setup().with("TIDEGATE_ACME_CHALLENGES", "http-01");
    let mirror = setup.start();
    mirror.logged("another process has it");
    mirror.logged("no challenge can be answered");
    assert_eq!(world.authority.orders(), 0);
    drop(squatter);
    mirror.logged("challenges over HTTP are answered on");
    let renewed = tell(&mirror, &["cert", "renew", NAME]);
    assert!(renewed.status.success(), "{}", String::from_utf8_lossy(&renewed.stderr));
    assert_eq!((world.authority.orders(), world.authority.failures()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_falls_silent_holds_up_nothing_for_ever() {
    let world = World::new().await;
    world.authority.will("/order-plz", Mishap::Silence, 1);
    let mirror = world.setup().start();
    mirror.logged("the CA gave no answer within 30s");
    assert!(!leaf(&mirror).await.is_empty(), "it served all the time");
    let renewed = tell(&mirror, &["cert", "renew", NAME]);
    assert!(renewed.status.success(), "{}", String::from_utf8_lossy(&renewed.stderr));
    assert_eq!((world.authority.orders(), world.authority.failures()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_no_use_is_not_served_and_not_ordered_again_soon() {
    let world = World::new().await;
    let other = std::fs::read(&world.pebble.pair().certificate).unwrap();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/pem-certificate-chain\r\n";
    world.authority.will("/certZ/", Mishap::Answer(head.into(), other), 100);
    let mirror = world.setup().start();
    let stand_in = leaf(&mirror).await;
    mirror.logged("class=unusable");
    assert_eq!(leaf(&mirror).await, stand_in);
    let (setup, _) = mirror.stop();
    let mirror = setup.start();
    let refused = tell(&mirror, &["cert", "renew", NAME]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not before"), "{refused:?}");
    assert_eq!(world.authority.orders(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_on_one_folder_make_one_order() {
    let world = World::new().await;
    // The first one is in the middle of it.
    world.authority.will("/authZ/", Mishap::Silence, 1);
    let first = world.setup().start();
    let looked = |ca: &crate::support::counter::Counter| {
        ca.calls().iter().any(|call| call.path.starts_with("/authZ/"))
    };
    world.authority.until("the first one is in the middle", looked).await;
    let second = world.setup().with("REGISTRY_HTTP_ADDR", "127.0.0.1:0").with("TIDEGATE_EDGE_HTTP", "off");
    let shared = second.root().join("tidegate");
    std::fs::create_dir_all(&shared).unwrap();
    std::os::unix::fs::symlink(first.setup.root().join("tidegate/acme"), shared.join("acme")).unwrap();
    let second = second.start();
    second.logged("another process is getting a certificate");
    first.logged(CAME);
    soon("the second one serves it, too", async {
        while !world.is_trusted(&second).await {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(leaf(&first).await, leaf(&second).await);
    assert_eq!((world.authority.orders(), world.authority.failures()), (1, 0));
}
