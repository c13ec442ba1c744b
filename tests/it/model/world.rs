//! The upstream of a seed: a few repositories whose images share layers, and all that any of them ever held.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::json;

use crate::support::hub::Hub;
use crate::support::image::{self, OCI};
use crate::support::random::Random;
use crate::support::volume::Place;

pub const REPOSITORIES: [&str; 3] = ["library/app", "library/base", "corp/tool"];
pub const TAGS: [&str; 2] = ["1", "latest"];

/// Lengths on both sides of what the mirror treats alike: small ones, those with room reserved, those read in pieces.
const LENGTHS: [usize; 7] = [1, 700, 15_000, 17_000, 60_000, 140_000, 700_000];

/// Made once for all seeds.
static LAYERS: LazyLock<Vec<Bytes>> = LazyLock::new(|| {
    LENGTHS.iter().enumerate().map(|(seed, length)| image::layer(seed as u64, *length)).collect()
});

/// An image as the upstream has it.
#[derive(Debug, Clone)]
pub struct Image {
    pub digest: String,
    pub blobs: Vec<String>,
}

#[derive(Default)]
pub struct World {
    /// The bytes of everything.
    pub content: HashMap<String, Bytes>,
    /// By repository.
    pub images: HashMap<&'static str, Vec<Image>>,
    /// Every target a tag ever had, oldest first, and whether it is there now.
    pub tags: BTreeMap<Place, (Vec<String>, bool)>,
    pub hidden: Vec<&'static str>,
}

pub fn place(repository: &str, name: &str) -> Place {
    (repository.to_owned(), name.to_owned())
}

impl World {
    pub fn new(hub: &Hub, random: &mut Random) -> Self {
        let mut world = Self::default();
        for repository in REPOSITORIES {
            for tag in TAGS {
                world.add(hub, repository, tag, random);
            }
        }
        world
    }

    /// A new image of one to three layers, to which a tag points from now on.
    pub fn add(&mut self, hub: &Hub, repository: &'static str, tag: &str, random: &mut Random) {
        let first = random.below(LAYERS.len());
        let count = 1 + random.below(3);
        let shared = LAYERS.iter().cycle().skip(first).step_by(2).take(count).cloned();
        // One of its own, so that there is always something cold.
        let own = image::layer(random.next(), random.choose(&[300, 17_000, 40_000]));
        let layers: Vec<_> = shared.chain([own]).collect();
        let config = json!({ "os": "linux", "architecture": "amd64", "number": random.next() });
        let (config, manifest) = image::documents(OCI, &layers, &config);
        let digest = hub.manifest(repository, Some(tag), OCI.manifest, manifest.clone());
        self.content.insert(digest.clone(), manifest);
        let blobs = layers.into_iter().chain([config]).map(|bytes| {
            let blob = hub.blob(repository, bytes.clone());
            self.content.insert(blob.clone(), bytes);
            blob
        });
        let image = Image { digest: digest.clone(), blobs: blobs.collect() };
        self.images.entry(repository).or_default().push(image);
        self.point(repository, tag, digest);
    }

    /// A tag points somewhere else.
    pub fn point(&mut self, repository: &str, tag: &str, digest: String) {
        let (targets, present) = self.tags.entry(place(repository, tag)).or_default();
        targets.push(digest);
        *present = true;
    }

    pub fn is_hidden(&self, repository: &str) -> bool {
        self.hidden.contains(&repository)
    }

    /// Whether the upstream ever said that a repository has this.
    pub fn belongs(&self, repository: &str, digest: &str) -> bool {
        let images = self.images[repository].iter();
        images.flat_map(|image| image.blobs.iter().chain([&image.digest])).any(|known| known == digest)
    }

    /// A blob of a repository, more often than not of its newest image, of which little is held.
    pub fn any_blob(&self, repository: &str, random: &mut Random) -> String {
        let images = &self.images[repository];
        let image = if random.chance(40) { images[images.len() - 1].clone() } else { random.choose(images) };
        random.choose(&image.blobs)
    }
}
