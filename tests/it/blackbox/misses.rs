//! Cold content, and many who want it.

use super::{by_digest, layer, one_image, tag};
use crate::support::hub::{Fault, Host, Seen};
use crate::support::image;
use crate::support::pull::{ask, get, head, open};
use reqwest::Method;

#[tokio::test(flavor = "multi_thread")]
async fn check_07_sixteen_cold_clients_of_one_blob() {
    let (hub, image, setup) = one_image().await;
    let mirror = setup.start();
    let url = layer(&mirror, &image);
    let pulls: Vec<_> = (0..16)
        .map(|_| {
            tokio::spawn({
                let url = url.clone();
                async move { get(&url).await }
            })
        })
        .collect();
    for pull in pulls {
        let pulled = pull.await.unwrap();
        assert_eq!((pulled.whole, pulled.digest()), (true, image.layers[0].clone()));
    }
    assert_eq!(hub.count(Seen::is_blob_transfer), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_08_first_client_disconnects_early() {
    let (hub, image, setup) = one_image().await;
    let mirror = setup.start();
    let gate = hub.fault(Host::Cdn, "GET", Fault::Gate(100_000));
    let mut first = open(&layer(&mirror, &image)).await;
    assert!(first.chunk().await.unwrap().is_some());
    drop(first);
    hub.release();
    let second = get(&layer(&mirror, &image)).await;
    assert_eq!((second.whole, second.digest()), (true, image.layers[0].clone()));
    assert_eq!((gate.applied(), hub.count(Seen::is_blob_transfer)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_09_head_of_a_cold_blob() {
    let (hub, image, setup) = one_image().await;
    let mirror = setup.start();
    let answer = head(&layer(&mirror, &image)).await;
    let length = image::layer(1, 1_000_000).len().to_string();
    assert_eq!(
        (answer.status, answer.header("content-length"), answer.body.len()),
        (200, length.as_str(), 0)
    );
    assert_eq!((hub.count(Seen::is_blob_transfer), hub.bytes_sent(Host::Cdn)), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_10_range_on_a_cold_blob() {
    let (hub, image, setup) = one_image().await;
    let mirror = setup.start();
    let bytes = image::layer(1, 1_000_000);
    for (range, first, end) in
        [("bytes=500000-500999", 500_000, 501_000), ("bytes=-10", bytes.len() - 10, bytes.len())]
    {
        let part = ask(Method::GET, &layer(&mirror, &image), &[("range", range)]).await;
        assert_eq!((part.status, &part.body), (206, &bytes.slice(first..end)), "{range}");
        assert_eq!(part.header("content-range"), format!("bytes {first}-{}/{}", end - 1, bytes.len()));
    }
    let beyond = ask(Method::GET, &layer(&mirror, &image), &[("range", "bytes=99999999-")]).await;
    assert_eq!(
        (beyond.status, beyond.header("content-range")),
        (416, format!("bytes */{}", bytes.len()).as_str())
    );
    let several = ask(Method::GET, &layer(&mirror, &image), &[("range", "bytes=0-1,5-6")]).await;
    assert_eq!((several.status, several.digest()), (200, image.layers[0].clone()));
    assert_eq!(hub.count(Seen::is_blob_transfer), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_11_same_headers_on_hit_and_miss() {
    let (_hub, image, setup) = one_image().await;
    let mirror = setup.start();
    for url in [tag(&mirror), by_digest(&mirror, &image), layer(&mirror, &image)] {
        let answers = [get(&url).await, get(&url).await, head(&url).await];
        let [miss, hit, heads] = answers.map(|answer| {
            let names = [
                "content-type",
                "content-length",
                "docker-content-digest",
                "etag",
                "accept-ranges",
                "cache-control",
            ];
            names.map(|name| answer.header(name).to_owned())
        });
        assert_eq!((&miss, &miss), (&hit, &heads), "{url}");
        assert!(miss[3].starts_with("\"sha256:") && miss[3].ends_with('"'), "{}", miss[3]);
    }
    let blob = get(&layer(&mirror, &image)).await;
    assert_eq!((blob.header("accept-ranges"), blob.header("cache-control")), ("bytes", "max-age=31536000"));
    let known = format!("\"{}\"", image.layers[0]);
    let again = ask(Method::GET, &layer(&mirror, &image), &[("if-none-match", &known)]).await;
    assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, known.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_14_garbage_in_the_volume() {
    let (hub, image, setup) = one_image().await;
    let mirror = setup.start();
    for url in [tag(&mirror), layer(&mirror, &image)] {
        get(&url).await;
    }
    let (setup, _) = mirror.stop();
    let root = setup.root();
    std::fs::write(root.join("scheduler-state.json"), "{\"not").unwrap();
    let hex = &image.layers[0][7..];
    let data = root.join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
    std::fs::write(&data, "").unwrap();
    std::fs::write(data.with_file_name("data.tmp"), "left over").unwrap();
    let links = root.join("docker/registry/v2/repositories/library/app");
    std::fs::write(links.join(format!("_layers/sha256/{hex}/link")), "").unwrap();
    std::fs::write(links.join("_manifests/tags/1/current/link"), "").unwrap();
    std::fs::write(root.join("tidegate/index/v1/data.mdb"), "no database").unwrap();
    hub.forget();
    let mirror = setup.start();
    let healed = get(&layer(&mirror, &image)).await;
    assert_eq!((healed.status, healed.whole, healed.digest()), (200, true, image.layers[0].clone()));
    assert_eq!(hub.count(Seen::is_blob_transfer), 1);
    assert_eq!(get(&tag(&mirror)).await.digest(), image.digest);
}
