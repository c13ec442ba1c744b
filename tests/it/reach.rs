//! How the upstream is reached: with a CA of one's own, through a proxy, as an account that it asks for itself, and
//! where it may send us.

mod addresses;

use crate::clients::peers::{Shelf, Upstream};
use crate::support::hub::{ACCOUNT, Fault, Host, Hub, Seen};
use crate::support::image::{self, Image, OCI};
use crate::support::mirror::{Mirror, Setup};
use crate::support::proxy::Proxy;
use crate::support::pull::{MODERN, ask, get};
use crate::support::tls::{self, Pair};
use reqwest::Method;

async fn secure_hub() -> (Pair, Hub, Image) {
    let pair = tls::pair();
    let hub = Hub::start_secure(&pair).await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 100_000)]);
    (pair, hub, image)
}

async fn pulls(mirror: &Mirror, image: &Image) {
    assert_eq!(get(&mirror.url("/v2/library/app/manifests/1")).await.digest(), image.digest);
    let layer = get(&mirror.url(&format!("/v2/library/app/blobs/{}", image.layers[0]))).await;
    assert_eq!((layer.status, layer.digest()), (200, image.layers[0].clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_with_a_ca_of_its_own() {
    let (pair, hub, image) = secure_hub().await;
    let stranger = Setup::of(&hub.url()).start();
    let refused = get(&stranger.url("/v2/library/app/manifests/1")).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "UNAVAILABLE"));
    assert_eq!(hub.seen().len(), 0, "nothing is said to an upstream that can't prove who it is");
    let setup = Setup::of(&hub.url()).with("TIDEGATE_PROXY_CAFILE", pair.authority.to_str().unwrap());
    pulls(&setup.start(), &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_behind_a_proxy() {
    let (pair, hub, image) = secure_hub().await;
    let proxy = Proxy::start().await;
    let setup = Setup::of(&hub.url()).with("TIDEGATE_PROXY_CAFILE", pair.authority.to_str().unwrap());
    let setup = setup.with("HTTPS_PROXY", &proxy.url);
    pulls(&setup.clone().start(), &image).await;
    let tunnels = proxy.tunnels();
    for address in hub.addresses() {
        assert!(tunnels.contains(&address.to_string()), "{address} is not in {tunnels:?}");
    }
    let before = tunnels.len();
    let direct = Setup::of(&hub.url()).with("TIDEGATE_PROXY_CAFILE", pair.authority.to_str().unwrap());
    pulls(&direct.with("HTTPS_PROXY", &proxy.url).with("NO_PROXY", "127.0.0.1").start(), &image).await;
    assert_eq!(proxy.tunnels().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_asks_for_the_password_itself() {
    let plain = Upstream::start().await;
    let shelf = Shelf::fill(&plain.url).await;
    let logins = tempfile::NamedTempFile::new().unwrap();
    // bcrypt of the account's password, as htpasswd writes it.
    std::fs::write(logins.path(), "bot:$2y$05$4Psjj.ZYXjZTAsFr.OPrJeQ0RF8zZnVlOP1V7Hceu7EHs6dbdHFrq\n")
        .unwrap();
    let locked = Upstream::with(&[
        ("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", plain.root().to_str().unwrap()),
        ("REGISTRY_AUTH_HTPASSWD_REALM", "here"),
        ("REGISTRY_AUTH_HTPASSWD_PATH", logins.path().to_str().unwrap()),
    ])
    .await;
    let (name, digest) = &shelf.images[0];
    let path = format!("/v2/{name}/manifests/1");
    let anonymous = Setup::of(&locked.url).start();
    assert_eq!(ask(Method::GET, &anonymous.url(&path), &[MODERN]).await.status, 404);
    let setup = Setup::of(&locked.url).with("REGISTRY_PROXY_USERNAME", ACCOUNT.0);
    let mirror = setup.with("REGISTRY_PROXY_PASSWORD", ACCOUNT.1).start();
    assert_eq!(&ask(Method::GET, &mirror.url(&path), &[MODERN]).await.digest(), digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_into_a_foreign_network_is_not_followed() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 100_000)]);
    let blob = format!("/v2/library/app/blobs/{}", image.layers[0]);
    // The upstream is on loopback: a private network and the metadata service of a cloud are foreign to it.
    for target in ["http://10.255.255.1/x", "http://169.254.169.254/latest/meta-data", "file:///etc/passwd"] {
        let location = Box::leak(format!("location: {target}\r\n").into_boxed_str());
        let order = hub.fault(Host::Registry, "/blobs/", Fault::Answer(307, location, ""));
        let mirror = Setup::of(&hub.url()).start();
        let answer = get(&mirror.url(&blob)).await;
        assert_eq!((answer.status, answer.code().as_str()), (429, "TOOMANYREQUESTS"), "{target}");
        mirror.logged("which is not allowed");
        assert!(order.applied() >= 1);
        hub.behave();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_in_a_circle_end() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 100_000)]);
    let path = format!("/v2/library/app/blobs/{}", image.layers[0]);
    let [registry, _, cdn] = hub.addresses();
    let location = |to: &dyn std::fmt::Display| -> &'static str {
        Box::leak(format!("location: http://{to}{path}\r\n").into_boxed_str())
    };
    hub.fault(Host::Registry, "/blobs/", Fault::Answer(307, location(&cdn), ""));
    hub.fault(Host::Cdn, "/blobs/", Fault::Answer(307, location(&registry), ""));
    let mirror = Setup::of(&hub.url()).start();
    assert_eq!(get(&mirror.url(&path)).await.status, 429);
    let steps = hub.count(|seen: &Seen| seen.path == path && seen.host != Host::Token);
    assert!(
        (6..=7).contains(&steps),
        "{steps} steps: one question, its repetition with a token, five redirects"
    );
}
