//! The rest of what can go wrong, one test each; docs/testing.md has the whole table.

mod disk;
mod process;
mod upstream;

use crate::support::hub::Hub;
use crate::support::image::{self, Image, OCI};
use crate::support::mirror::{Mirror, Setup};
use crate::support::pull::get;

/// A mirror, and an image of which nothing is held.
struct Cold {
    hub: Hub,
    image: Image,
    mirror: Mirror,
}

impl Cold {
    async fn new() -> Self {
        let hub = Hub::start().await;
        let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 300_000)]);
        let mirror = Setup::of(&hub.url()).start();
        Self { hub, image, mirror }
    }

    fn url(&self, rest: &str) -> String {
        self.mirror.url(&format!("/v2/library/app/{rest}"))
    }

    fn layer(&self) -> String {
        self.url(&format!("blobs/{}", self.image.layers[0]))
    }

    /// Everything is right, now.
    async fn is_pulled(&self) {
        assert_eq!(get(&self.url("manifests/1")).await.digest(), self.image.digest);
        for blob in self.image.layers.iter().chain([&self.image.config]) {
            let answer = get(&self.url(&format!("blobs/{blob}"))).await;
            assert_eq!((answer.status, answer.whole, &answer.digest()), (200, true, blob));
        }
    }

    /// Nothing of the layer is in the tree.
    fn has_no_layer(&self) {
        let hex = &self.image.layers[0][7..];
        assert!(!self.mirror.files().iter().any(|path| path.to_str().unwrap().contains(hex)));
    }
}
