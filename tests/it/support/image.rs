//! Images, made here.

use std::io::Write;

use bytes::Bytes;
use serde_json::{Value, json};
use tidegate::registry::Digest;

use super::hub::Hub;

/// An image of one platform as it stands in a repository.
#[derive(Debug, Clone)]
pub struct Image {
    pub digest: String,
    pub manifest: Bytes,
    pub media_type: &'static str,
    pub config: String,
    pub layers: Vec<String>,
}

/// The names that a family of types has.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    pub manifest: &'static str,
    pub index: &'static str,
    pub config: &'static str,
    pub layer: &'static str,
}

pub const DOCKER: Family = Family {
    manifest: "application/vnd.docker.distribution.manifest.v2+json",
    index: "application/vnd.docker.distribution.manifest.list.v2+json",
    config: "application/vnd.docker.container.image.v1+json",
    layer: "application/vnd.docker.image.rootfs.diff.tar",
};

pub const OCI: Family = Family {
    manifest: "application/vnd.oci.image.manifest.v1+json",
    index: "application/vnd.oci.image.index.v1+json",
    config: "application/vnd.oci.image.config.v1+json",
    layer: "application/vnd.oci.image.layer.v1.tar",
};

/// Bytes that nobody else has: a generator with a seed.
pub fn noise(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    });
    words.flat_map(u64::to_le_bytes).take(length).collect()
}

/// A tar with one file of noise.
pub fn layer(seed: u64, length: usize) -> Bytes {
    tar(&[(&format!("noise-{seed}"), 0o644, &noise(seed, length))])
}

/// A tar (POSIX ustar) of regular files.
pub fn tar(files: &[(&str, u32, &[u8])]) -> Bytes {
    let mut out = Vec::new();
    for (name, mode, content) in files {
        let mut head = [0_u8; 512];
        head[..name.len()].copy_from_slice(name.as_bytes());
        let mut field = |at: usize, text: String| head[at..at + text.len()].copy_from_slice(text.as_bytes());
        field(100, format!("{mode:07o}"));
        field(108, "0000000".into());
        field(116, "0000000".into());
        field(124, format!("{:011o}", content.len()));
        field(136, "00000000000".into());
        field(148, " ".repeat(8));
        field(156, "0".into());
        field(257, "ustar\u{0}00".into());
        let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.write_all(&head).unwrap();
        out.write_all(content).unwrap();
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    Bytes::from(out)
}

/// The configuration and the manifest of an image over layers.
pub fn documents(family: Family, layers: &[Bytes], config: &Value) -> (Bytes, Bytes) {
    let digests: Vec<_> = layers.iter().map(|layer| Digest::sha256(layer).to_string()).collect();
    let mut config = config.clone();
    config["rootfs"] = json!({ "type": "layers", "diff_ids": digests });
    let config = Bytes::from(config.to_string());
    let entries: Vec<_> = layers
        .iter()
        .zip(&digests)
        .map(|(layer, digest)| json!({ "mediaType": family.layer, "digest": digest, "size": layer.len() }))
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": family.manifest,
        "config": { "mediaType": family.config, "digest": Digest::sha256(&config).to_string(), "size": config.len() },
        "layers": entries,
    });
    (config, Bytes::from(manifest.to_string()))
}

/// Puts an image of linux/amd64 into a repository of the Hub.
pub fn publish(hub: &Hub, repository: &str, tag: Option<&str>, family: Family, layers: &[Bytes]) -> Image {
    publish_for(hub, repository, tag, family, layers, "amd64")
}

/// Puts an image of another architecture into a repository.
pub fn publish_for(
    hub: &Hub,
    repository: &str,
    tag: Option<&str>,
    family: Family,
    layers: &[Bytes],
    architecture: &str,
) -> Image {
    let settings = json!({ "architecture": architecture, "os": "linux", "config": {} });
    let (config, manifest) = documents(family, layers, &settings);
    let digest = hub.manifest(repository, tag, family.manifest, manifest.clone());
    Image {
        digest,
        manifest,
        media_type: family.manifest,
        config: hub.blob(repository, config),
        layers: layers.iter().map(|layer| hub.blob(repository, layer.clone())).collect(),
    }
}

/// Puts an index over images into a repository; gives its digest.
pub fn publish_index(
    hub: &Hub,
    repository: &str,
    tag: &str,
    family: Family,
    images: &[(&str, &Image)],
) -> String {
    let entries: Vec<_> = images
        .iter()
        .map(|(architecture, image)| {
            json!({
                "mediaType": image.media_type,
                "digest": image.digest,
                "size": image.manifest.len(),
                "platform": { "os": "linux", "architecture": architecture },
            })
        })
        .collect();
    let index = json!({ "schemaVersion": 2, "mediaType": family.index, "manifests": entries });
    hub.manifest(repository, Some(tag), family.index, index.to_string())
}
