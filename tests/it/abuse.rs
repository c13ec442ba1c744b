//! Clients that mean harm: whatever they do, memory and descriptors stay flat, and hits go through meanwhile.

mod floods;
mod http2;
mod requests;
mod slow;

use std::time::Instant;

use crate::support::hub::Hub;
use crate::support::image::{self, Image, OCI};
use crate::support::mirror::{Mirror, Setup};
use crate::support::pull::get;
use crate::support::{PATIENCE, is_long, tls};

/// Growth that is none: buffers of the allocator, of the runtime, of what is answered just now.
const SLACK_BYTES: u64 = 48 * 1024 * 1024;

/// Descriptors that come and go by themselves.
const SLACK_DESCRIPTORS: usize = 16;

/// A mirror that holds an image and speaks TLS on one port and plain HTTP on another.
struct Scene {
    _hub: Hub,
    image: Image,
    mirror: Mirror,
    pair: tls::Pair,
    /// Of the plain port.
    plain: String,
    memory: u64,
    descriptors: usize,
}

impl Scene {
    async fn start() -> Self {
        let hub = Hub::start().await;
        let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 64_000_000)]);
        let pair = tls::pair();
        let setup = Setup::of(&hub.url()).secured(&pair).with("TIDEGATE_EDGE_PLAIN", "127.0.0.1:0");
        let mirror = setup.start();
        let line = mirror.logged("listening besides on ");
        let plain = line.split("besides on ").nth(1).unwrap().split(',').next().unwrap().to_owned();
        let mut scene = Self { _hub: hub, image, mirror, pair, plain, memory: 0, descriptors: 0 };
        let layer = format!("http://{}{}", scene.plain, scene.layer());
        assert_eq!(get(&layer).await.digest(), scene.image.layers[0]);
        scene.hit().await;
        (scene.memory, scene.descriptors) = (scene.mirror.anonymous_memory(), scene.mirror.descriptors());
        scene
    }

    fn layer(&self) -> String {
        format!("/v2/library/app/blobs/{}", self.image.layers[0])
    }

    /// Somebody who means well.
    async fn hit(&self) {
        let url = format!("http://{}/v2/library/app/manifests/{}", self.plain, self.image.digest);
        assert_eq!(get(&url).await.digest(), self.image.digest);
    }

    /// All is as it was before, or comes to be.
    async fn is_as_before(&self) {
        self.has_let_go().await;
        let memory = self.mirror.anonymous_memory();
        assert!(memory < self.memory + SLACK_BYTES, "{} MiB, and {} before", memory >> 20, self.memory >> 20);
        self.hit().await;
    }

    /// The connections are closed, or come to be.
    async fn has_let_go(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.mirror.descriptors() > self.descriptors + SLACK_DESCRIPTORS {
            assert!(Instant::now() < deadline, "{} descriptors", self.mirror.descriptors());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

/// How many, on this scale.
fn many(usual: usize, long: usize) -> usize {
    if is_long() { long } else { usual }
}
