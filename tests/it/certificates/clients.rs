//! Client certificates: who has none, or a wrong one, does not come in, by whatever way he tries.

use super::{NOWHERE, PROMPT, Story};
use crate::support::authority::{Authority, Client};
use crate::support::mirror::{Mirror, Setup};
use crate::support::process::Signal;
use crate::support::writer::{self, Writer};

/// A mirror that asks its clients for a certificate of one CA.
fn asking(story: &Story, clients: &Authority, demand: Option<&str>) -> Setup {
    let path = story.folder.with_extension("clients.pem");
    writer::replace(&path, &clients.pem());
    let setup = story.setup().with("REGISTRY_HTTP_TLS_CLIENTCAS", &path.display().to_string());
    match demand {
        Some(demand) => setup.with("REGISTRY_HTTP_TLS_CLIENTAUTH", demand),
        None => setup,
    }
}

async fn comes_in(client: &Client, mirror: &Mirror) -> bool {
    client.ask(&mirror.address, "localhost").await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_demand_lets_in_whom_it_should() {
    let story = Story::new();
    writer::write(Writer::Move, &story.folder, &story.authority.good(&["localhost"]), 0);
    let (clients, others) = (Authority::new("clients"), Authority::new("others"));
    let none = story.authority.client(None);
    let known = story.authority.client(Some(&clients.good(&["job"])));
    let stranger = story.authority.client(Some(&others.good(&["job"])));
    let late = story.authority.client(Some(&clients.sign(&["job"], -200_000, -100_000)));
    for (demand, expected) in [
        (None, [false, true, false, false]),
        (Some("require-and-verify-client-cert"), [false, true, false, false]),
        (Some("verify-client-cert-if-given"), [true, true, false, false]),
        (Some("require-any-client-cert"), [false, true, true, true]),
        (Some("request-client-cert"), [true, true, true, true]),
    ] {
        let mirror = asking(&story, &clients, demand).start();
        let mut found = Vec::new();
        for client in [&none, &known, &stranger, &late] {
            found.push(comes_in(client, &mirror).await);
        }
        assert_eq!(found, expected, "{demand:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_swap_of_the_ca_nobody_comes_in_by_an_old_session() {
    let story = Story::new();
    writer::write(Writer::Move, &story.folder, &story.authority.good(&["localhost"]), 0);
    let (before, after) = (Authority::new("clients"), Authority::new("clients"));
    let mirror = asking(&story, &before, None).start();
    let old = story.authority.client(Some(&before.good(&["job"]))).resuming();
    let new = story.authority.client(Some(&after.good(&["job"])));
    assert!(!old.ask(&mirror.address, "localhost").await.unwrap().resumed);
    // The session is good as long as the CA is.
    assert!(old.ask(&mirror.address, "localhost").await.unwrap().resumed);
    assert!(!comes_in(&new, &mirror).await);
    // A bad file changes nothing.
    let path = story.folder.with_extension("clients.pem");
    writer::replace(&path, "no certificate");
    mirror.logged("the CAs of the clients stay as they were");
    assert!(comes_in(&old, &mirror).await && !comes_in(&new, &mirror).await);
    let began = std::time::Instant::now();
    writer::replace(&path, &after.pem());
    mirror.logged("the CAs of the clients changed");
    assert!(began.elapsed() < PROMPT);
    assert!(!comes_in(&old, &mirror).await && comes_in(&new, &mirror).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_the_last_certificate_of_its_name() {
    let story = Story::new();
    let short = story.authority.sign(&["a.test"], -1000, 4);
    writer::write(Writer::Again, &story.folder, &short, 0);
    let mirror = story.setup().start();
    let client = story.client.resuming();
    client.ask(&mirror.address, "a.test").await.unwrap();
    assert!(client.ask(&mirror.address, "a.test").await.unwrap().resumed);
    writer::write(Writer::Again, &story.folder, &story.authority.good(&["b.test"]), 0);
    // Its files are gone, and it goes when it has ended.
    mirror.logged("it is served until it ends");
    while !mirror.log().iter().any(|line| line.contains("have no certificate any more")) {
        mirror.signal(Signal::HUP);
        tokio::task::yield_now().await;
    }
    let refused = client.ask(&mirror.address, "a.test").await.unwrap_err().to_string();
    assert!(refused.contains("not valid for name"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_ca_of_the_clients_stops_the_start() {
    let story = Story::new();
    writer::write(Writer::Move, &story.folder, &story.authority.good(&["localhost"]), 0);
    for (path, words) in [("/nonexistent/ca.pem", "No such file"), ("/dev/null", "no regular file")] {
        let Err(ended) = story.setup().with("REGISTRY_HTTP_TLS_CLIENTCAS", path).try_start() else {
            panic!("it started")
        };
        assert!(
            ended.log.iter().any(|line| line.contains("clientcas") && line.contains(words)),
            "{:?}",
            ended.log
        );
    }
    let plain = Setup::of(NOWHERE).with("REGISTRY_HTTP_TLS_CLIENTCAS", "/ca.pem").output();
    assert!(String::from_utf8_lossy(&plain.stderr).contains("everybody would be let in"));
}
