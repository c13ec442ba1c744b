//! The shortest story: an image is pulled, and pulled again.

use crate::support::hub::Hub;
use crate::support::image::{self, OCI};
use crate::support::mirror::Setup;
use crate::support::pull::get;

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_and_pulled_again() {
    let hub = Hub::start().await;
    let image = image::publish(&hub, "library/app", Some("1"), OCI, &[image::layer(1, 100_000)]);
    let mirror = Setup::of(&hub.url()).with("TIDEGATE_PROXY_NAME", "docker.io").start();
    for outcome in ["tidegate; fwd=uri-miss", "tidegate; hit; detail=revalidated"] {
        let manifest = get(&mirror.url("/v2/library/app/manifests/1")).await;
        assert_eq!((manifest.status, manifest.header("cache-status")), (200, outcome));
        assert_eq!(manifest.digest(), image.digest);
    }
    for outcome in ["tidegate; fwd=uri-miss", "tidegate; hit"] {
        let layer = get(&mirror.url(&format!("/v2/library/app/blobs/{}", image.layers[0]))).await;
        assert_eq!(
            (layer.status, layer.header("cache-status"), layer.digest()),
            (200, outcome, image.layers[0].clone())
        );
    }
    assert_eq!(hub.count(|seen| seen.is_counted()), 1);
    assert_eq!(hub.count(|seen| seen.is_blob_transfer()), 1);
}
