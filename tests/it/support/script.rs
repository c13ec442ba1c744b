//! One short life of a mirror: an image is pulled, its tag moves to another one, that is pulled. And what must hold on the
//! disk and over the wire after that life ended in whatever way.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tidegate::registry::Digest;

use super::hub::{Fault, Host, Hub, Seen};
use super::image::{self, Image, OCI};
use super::mirror::{Mirror, Setup, files};
use super::pull::{self, Answer};
use super::until;

const REPOSITORY: &str = "library/app";

/// The folder of the tag's link.
const TAG: &str = "_manifests/tags/1/current";

/// A Hub with two images that share a layer which is long enough to be kept unfinished.
pub struct Script {
    hub: Hub,
    first: Image,
    second: Image,
}

/// The layers of both images: made once, they are not small.
#[derive(Debug, Clone)]
pub struct Layers {
    /// Long enough for a reservation.
    small: [Bytes; 2],
    /// Long enough for a map.
    large: Bytes,
}

/// Lives at a time: they wait for each other's disk and processes more than for the processor.
const LANES: usize = 4;

/// Tries something at each place of a life, with a Hub for each lane; gives how often it came to that.
pub async fn in_lanes<P, F>(
    layers: &Layers,
    places: &[P],
    tries: impl Fn(Arc<Script>, P) -> F + Clone + Send + 'static,
) -> usize
where
    P: Clone + std::fmt::Debug + Send + 'static,
    F: Future<Output = bool>,
{
    let lanes = (0..LANES).map(|lane| {
        let (tries, layers) = (tries.clone(), layers.clone());
        let places: Vec<_> = places.iter().skip(lane).step_by(LANES).cloned().collect();
        let runtime = tokio::runtime::Handle::current();
        // On threads of their own: a lane waits for processes, which wait for answers of the Hub.
        tokio::task::spawn_blocking(move || {
            runtime.block_on(async {
                let script = Arc::new(Script::of(&layers).await);
                let mut hits = 0;
                for place in places {
                    // A failure stands behind its place.
                    eprintln!("at {place:?}");
                    let began = Instant::now();
                    let hit = tries(Arc::clone(&script), place.clone()).await;
                    eprintln!(
                        "{} after {:?}: {place:?}",
                        if hit { "met" } else { "missed" },
                        began.elapsed()
                    );
                    hits += usize::from(hit);
                }
                hits
            })
        })
    });
    let mut hits = 0;
    for lane in lanes.collect::<Vec<_>>() {
        hits += lane.await.unwrap();
    }
    hits
}

impl Layers {
    pub fn make() -> Self {
        Self {
            small: [image::layer(1, 20_000), image::layer(2, 40_000)],
            large: image::layer(3, 5 * 1024 * 1024),
        }
    }
}

impl Script {
    pub async fn of(layers: &Layers) -> Self {
        let hub = Hub::start().await;
        let [one, other] = layers.small.clone();
        let first = image::publish(&hub, REPOSITORY, None, OCI, &[one, layers.large.clone()]);
        let second = image::publish(&hub, REPOSITORY, None, OCI, &[other, layers.large.clone()]);
        Self { hub, first, second }
    }

    pub fn setup(&self) -> Setup {
        // The check of the store writes a file of its own every 10 s, which is no part of the story.
        Setup::of(&self.hub.url()).with("REGISTRY_HEALTH_STORAGEDRIVER_ENABLED", "false")
    }

    /// Where what the tag moves to is to be, below the root.
    pub fn folder_of_second_manifest(&self) -> String {
        let hex = self.second.digest.trim_start_matches("sha256:");
        format!("docker/registry/v2/blobs/sha256/{}/{hex}", &hex[..2])
    }

    /// The whole life. Gives every answer, after a look at its bytes; the mirror may die meanwhile.
    pub async fn play(&self, mirror: &Mirror) -> Vec<Answer> {
        let mut answers = self.pull(mirror, &self.first).await;
        answers.extend(self.pull(mirror, &self.second).await);
        answers
    }

    /// Points the tag at an image and pulls that by the tag.
    async fn pull(&self, mirror: &Mirror, image: &Image) -> Vec<Answer> {
        self.hub.manifest(REPOSITORY, Some("1"), image.media_type, image.manifest.clone());
        let mut answers = vec![ask(mirror, "manifests/1", &[&self.first.digest, &self.second.digest]).await];
        for blob in blobs(image) {
            answers.push(ask(mirror, &format!("blobs/{blob}"), &[blob]).await);
        }
        answers.into_iter().flatten().collect()
    }

    /// Waits until all of the second pull is in the tree, or `over` says that it never will be. Whether it is.
    pub async fn settled(&self, root: &Path, over: impl FnMut() -> bool) -> bool {
        let (mut over, mut settled) = (over, false);
        until("the second pull is in the tree", async || {
            settled = self.is_settled(root);
            settled || over()
        })
        .await;
        settled
    }

    fn is_settled(&self, root: &Path) -> bool {
        let tree = root.join("docker/registry/v2");
        let repository = tree.join("repositories").join(REPOSITORY);
        let linked =
            |kind: &str, digest: &str| repository.join(kind).join(hex_path(digest)).join("link").is_file();
        let tag = std::fs::read_to_string(repository.join("_manifests/tags/1/current/link"));
        tag.is_ok_and(|tag| tag == self.second.digest)
            && [&self.first, &self.second].iter().all(|image| {
                linked("_manifests/revisions", &image.digest)
                    && blobs(image).all(|blob| linked("_layers", blob))
            })
    }

    /// Another life costs the upstream no byte of a blob and no manifest.
    pub async fn all_is_held(&self, mirror: &Mirror) {
        self.hub.forget();
        for answer in self.play(mirror).await {
            must_be_whole(mirror, &answer, "another life");
        }
        assert_eq!((self.hub.count(Seen::is_blob_transfer), self.hub.count(Seen::is_counted)), (0, 0));
    }

    /// What must hold for what a life left behind: on the disk, without the upstream, and with it.
    pub async fn check(&self, setup: Setup) {
        let root = setup.root();
        self.check_disk(&root);
        let held = Held::of(&root);
        // No stop: its ports would be anybody's meanwhile.
        let down = [Host::Registry, Host::Token, Host::Cdn]
            .map(|host| self.hub.fault(host, "", Fault::Answer(503, "", "")));
        let mirror = setup.start();
        self.check_without_upstream(&mirror, &held).await;
        let (setup, status) = mirror.stop();
        assert!(status.success(), "{status}");
        self.hub.behave();
        let asked: usize = down.iter().map(|order| order.applied()).sum();
        assert!(asked > 0 || !held.links.contains(TAG), "nobody found the upstream down");
        let mirror = setup.start();
        for answer in self.play(&mirror).await {
            must_be_whole(&mirror, &answer, "with the upstream");
        }
        assert!(self.settled(&root, || false).await);
        drop(mirror);
        self.check_disk(&root);
    }

    /// Every blob is right, every link is one digest, and what it names is there.
    fn check_disk(&self, root: &Path) {
        for path in files(&root.join("docker")) {
            let content = std::fs::read(&path).unwrap();
            if path.ends_with("data") {
                let hex = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
                assert_eq!(Digest::sha256(&content).hex(), hex, "wrong bytes in the tree");
            } else {
                let text = String::from_utf8_lossy(&content).into_owned();
                let digest: Digest = text.parse().unwrap_or_else(|_| panic!("{}: {text:?}", path.display()));
                let hex = digest.hex();
                let data = root.join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
                assert!(data.is_file(), "{} leads nowhere", path.display());
            }
        }
    }

    /// What is in the tree and linked is served; so is what a manifest that is linked names.
    async fn check_without_upstream(&self, mirror: &Mirror, held: &Held) {
        let both = [&self.first, &self.second];
        for image in both {
            if held.links.contains(&format!("_manifests/revisions/{}", hex_path(&image.digest))) {
                must(mirror, &format!("manifests/{}", image.digest), &image.digest).await;
                for blob in blobs(image).filter(|blob| held.blobs.contains(*blob)) {
                    must(mirror, &format!("blobs/{blob}"), blob).await;
                }
            }
        }
        for blob in both.iter().flat_map(|image| blobs(image)) {
            if held.links.contains(&format!("_layers/{}", hex_path(blob))) {
                must(mirror, &format!("blobs/{blob}"), blob).await;
            }
        }
        if held.links.contains(TAG) {
            let answer = ask(mirror, "manifests/1", &both.map(|image| image.digest.as_str())).await.unwrap();
            assert!(answer.status == 200 && answer.whole, "a tag that is linked: {}", answer.status);
        }
    }
}

/// What a life left in the tree.
struct Held {
    /// Digests.
    blobs: BTreeSet<String>,
    /// Folders of links below the repository.
    links: BTreeSet<String>,
}

impl Held {
    fn of(root: &Path) -> Self {
        let tree = root.join("docker/registry/v2");
        let repository = tree.join("repositories").join(REPOSITORY);
        let name = |path: &Path| path.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
        let blobs = files(&tree.join("blobs")).iter().map(|path| format!("sha256:{}", name(path))).collect();
        let links = files(&repository).into_iter().map(|path| {
            path.parent().unwrap().strip_prefix(&repository).unwrap().to_str().unwrap().to_owned()
        });
        Self { blobs, links: links.collect() }
    }
}

fn blobs(image: &Image) -> impl Iterator<Item = &String> {
    image.layers.iter().chain([&image.config])
}

fn hex_path(digest: &str) -> String {
    digest.replace(':', "/")
}

async fn must(mirror: &Mirror, path: &str, digest: &str) {
    let answer = ask(mirror, path, &[digest]).await.unwrap_or_else(|| panic!("{path}: no answer"));
    must_be_whole(mirror, &answer, path);
}

#[track_caller]
fn must_be_whole(mirror: &Mirror, answer: &Answer, what: &str) {
    let (status, bytes) = (answer.status, answer.body.len());
    assert!(status == 200 && answer.whole, "{what}: {status}, cut after {bytes} bytes: {:#?}", mirror.log());
}

/// Asks; nothing if the mirror is gone before it answers. A whole 200 has the right bytes, whatever happens.
async fn ask(mirror: &Mirror, path: &str, expected: &[impl AsRef<str>]) -> Option<Answer> {
    let url = mirror.url(&format!("/v2/{REPOSITORY}/{path}"));
    let answer = pull::attempt(&url).await?;
    if answer.status == 200 && answer.whole {
        let digest = answer.digest();
        assert!(expected.iter().any(|one| one.as_ref() == digest), "{path}: wrong bytes in a 200");
    }
    Some(answer)
}
