//! The outside of `registry` in proxy mode where users got hurt: one check for each kind of trouble, by its number in
//! the list of such checks. 12 and 13 are about expiry, which this version does not have; 15 stands with the volumes.

mod configuration;
mod edge;
mod lists;
mod misses;
mod upstream;

use crate::support::hub::Hub;
use crate::support::image::{self, Image, OCI};
use crate::support::mirror::{Mirror, Setup};

/// A Hub with one image, and a mirror of it that is not started yet.
async fn one_image() -> (Hub, Image, Setup) {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 1_000_000)]);
    let setup = Setup::of(&hub.url());
    (hub, image, setup)
}

fn tag(mirror: &Mirror) -> String {
    mirror.url("/v2/library/app/manifests/1")
}

fn by_digest(mirror: &Mirror, image: &Image) -> String {
    mirror.url(&format!("/v2/library/app/manifests/{}", image.digest))
}

fn layer(mirror: &Mirror, image: &Image) -> String {
    mirror.url(&format!("/v2/library/app/blobs/{}", image.layers[0]))
}
