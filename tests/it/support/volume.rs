//! What is on the disk of a mirror that does not run, read as docs/format.md has it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tidegate::registry::Digest;

use super::mirror::files;

/// A repository and a digest.
pub type Place = (String, String);

/// The tree under one root.
#[derive(Debug, Default)]
pub struct Volume {
    /// Digests whose files hash to them.
    pub blobs: BTreeSet<String>,
    pub layers: BTreeSet<Place>,
    pub revisions: BTreeSet<Place>,
    /// Repository and tag, and where it points.
    pub tags: BTreeMap<Place, String>,
    /// Everything that should not be there.
    pub damage: Vec<String>,
}

impl Volume {
    pub fn read(root: &Path) -> Self {
        let tree = root.join("docker/registry/v2");
        let mut volume = Self::default();
        for path in files(&tree) {
            let content = std::fs::read(&path).unwrap();
            let name = path.strip_prefix(&tree).unwrap().to_str().unwrap().to_owned();
            volume.note(&name, &content).unwrap_or_else(|| volume.damage.push(name));
        }
        volume
    }

    /// Nothing is torn, and no link leads to nowhere.
    pub fn assert_sound(&self) {
        assert!(self.damage.is_empty(), "damaged or foreign: {:?}", self.damage);
        let linked = self.layers.iter().chain(&self.revisions).map(|(_, digest)| digest);
        for digest in linked.chain(self.tags.values()) {
            assert!(self.blobs.contains(digest), "a link leads to {digest}, which is not there");
        }
    }

    /// Whether a repository has what a digest names, as a blob or as a manifest.
    pub fn has(&self, place: &Place) -> bool {
        self.blobs.contains(&place.1) && (self.layers.contains(place) || self.revisions.contains(place))
    }

    fn note(&mut self, name: &str, content: &[u8]) -> Option<()> {
        let parts: Vec<_> = name.split('/').collect();
        if let ["blobs", "sha256", shard, hex, "data"] = parts[..] {
            let digest = format!("sha256:{hex}");
            let right = hex.starts_with(shard) && Digest::sha256(content).to_string() == digest;
            self.blobs.extend(right.then_some(digest));
            return right.then_some(());
        }
        let (repository, place) = name.strip_prefix("repositories/")?.split_once("/_")?;
        let repository = repository.to_owned();
        let digest: Digest = std::str::from_utf8(content).ok()?.parse().ok()?;
        let digest = digest.to_string();
        let named = |hex: &str| digest == format!("sha256:{hex}");
        match place.split('/').collect::<Vec<_>>()[..] {
            ["layers", "sha256", hex, "link"] if named(hex) => {
                self.layers.insert((repository, digest));
            }
            ["manifests", "revisions", "sha256", hex, "link"] if named(hex) => {
                self.revisions.insert((repository, digest));
            }
            ["manifests", "tags", _, "index", "sha256", hex, "link"] if named(hex) => {}
            ["manifests", "tags", tag, "current", "link"] => {
                self.tags.insert((repository, tag.to_owned()), digest);
            }
            _ => return None,
        }
        Some(())
    }
}
