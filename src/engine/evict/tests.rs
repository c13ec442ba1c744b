use super::*;
use crate::config::{Cache, Share};
use crate::engine::{Parts, Pin, freshness, repository};
use crate::index::{Batch, BlobKind, BlobRow, Index, TagRow};
use crate::registry::RepositoryName;
use crate::store::{Owner, Store};
use crate::upstream::{Setup, Upstream};
use bytes::Bytes;

/// An engine over a folder of its own, whose upstream is nowhere.
fn engine(cache: Cache) -> Arc<Engine> {
    let url = "http://127.0.0.1:9".parse().unwrap();
    let upstream = Upstream::new(&Setup {
        url,
        account: None,
        anonymous_fallback: true,
        cafile: None,
        realms: vec![],
        redirects: vec![],
        stall: Duration::from_secs(30),
        proxy_hosts: vec![],
    });
    let naming = repository::Naming::new(repository::Setup {
        name: "docker.io",
        name_configured: true,
        host: "127.0.0.1:9",
        account: None,
        allow: vec![],
        deny: vec![],
    });
    Engine::new(Parts {
        fill: crate::engine::FillRules { segments: 1, lazy: false },
        transfers_max: 1,
        scrub: crate::engine::scrub::Rules { period: Duration::ZERO, bytes_per_second: 1 << 30 },
        upstream: upstream.unwrap(),
        store: Store::temporary(&Owner::new("docker.io", None)).unwrap(),
        index: Index::in_memory("a test".to_owned()),
        naming,
        rules: freshness::Rules { fresh: Duration::ZERO, stale_for: None, serve_gone: true },
        negative: Duration::ZERO,
        cache,
        tags_max: 100,
        metrics: Arc::default(),
    })
}

/// Nothing may stay, and nothing has to.
fn tiny() -> Cache {
    Cache { max_size: Share::Bytes(1), min_free: Share::Bytes(0), hold: Duration::ZERO, ..Cache::default() }
}

fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

/// Stores something as a fetch would, used a while ago.
fn hold(engine: &Engine, content: &str, kind: BlobKind, adopted: bool) -> Digest {
    let bytes = Bytes::from(content.to_owned());
    let digest = Digest::sha256(&bytes);
    let partial = engine.store.begin(&digest, None).unwrap().partial;
    partial.write(0, &[bytes]).unwrap();
    let identity = engine.store.publish(&partial, &digest).unwrap();
    let row = BlobRow {
        size: identity.size,
        identity: Some(identity),
        kind,
        media_type: None,
        created_ms: 1,
        verified_ms: Some(1),
        adopted,
    };
    engine.index.apply(Batch::new().put_blob(digest, row).put_holder(&digest, &name("library/app")));
    engine.store.link_layer(&name("library/app"), &digest).unwrap();
    engine.index.heat().touch(&digest, heat::now() - 100);
    digest
}

struct Image {
    index: Digest,
    manifest: Digest,
    layer: Digest,
}

/// An index of one image with one layer.
fn image(engine: &Engine, seed: &str) -> Image {
    let layer = hold(engine, &format!("layer {seed}"), BlobKind::Other, false);
    let document = format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"{layer}","size":1}},"layers":[{{"digest":"{layer}","size":1}}]}}"#
    );
    let manifest = hold(engine, &document, BlobKind::Manifest, false);
    let document = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{manifest}","size":1}}]}}"#);
    let index = hold(engine, &document, BlobKind::Manifest, false);
    engine.index.apply(Batch::new().put_parent(&layer, &manifest).put_parent(&manifest, &index));
    engine.store.link_revision(&name("library/app"), &index).unwrap();
    engine.store.link_tag(&name("library/app"), &"1".parse().unwrap(), &index).unwrap();
    Image { index, manifest, layer }
}

impl Image {
    fn all(&self) -> [Digest; 3] {
        [self.index, self.manifest, self.layer]
    }

    fn is_held(&self, engine: &Engine) -> [bool; 3] {
        self.all().map(|digest| {
            let (row, file) = (engine.index.blob(&digest), engine.store.open_blob(&digest).unwrap());
            assert_eq!(row.is_some(), file.is_some(), "{digest}");
            row.is_some()
        })
    }
}

fn victim(digest: Digest) -> plan::Candidate {
    plan::Candidate { used: heat::now() - 100, digest, bytes: 1 }
}

#[tokio::test]
async fn the_first_layer_to_go_takes_manifest_and_index_along() {
    let engine = engine(tiny());
    let image = image(&engine, "a");
    let unit = engine.unit(&victim(image.layer), &HashSet::new()).unwrap();
    let mut all = image.all();
    all.sort();
    let mut going: Vec<_> = unit.digests().collect();
    going.sort();
    assert_eq!(going, all);
    let alone = engine.unit(&victim(image.index), &HashSet::new()).unwrap();
    assert_eq!(alone.digests().collect::<Vec<_>>(), [image.index]);
    let rest = engine.unit(&victim(image.layer), &HashSet::from([image.index])).unwrap();
    assert_eq!(rest.size().blobs, 2);
}

#[tokio::test]
async fn what_would_go_is_what_goes() {
    let engine = engine(tiny());
    let images = ["a", "b"].map(|seed| image(&engine, seed));
    // The first look counts, and lets nothing go.
    let counted = engine.evict(true).await;
    let planned = engine.evict(true).await;
    assert!(counted.blobs <= planned.blobs && images.iter().all(|image| image.is_held(&engine) == [true; 3]));
    assert_eq!(planned.blobs, 6);
    assert_eq!(engine.evict(false).await, planned);
    assert!(images.iter().all(|image| image.is_held(&engine) == [false; 3]));
    assert_eq!(engine.store.read_tag(&name("library/app"), &"1".parse().unwrap()), None);
    assert!(engine.store.linked_revisions(&name("library/app")).is_empty());
    assert!(!engine.store.has_layer(&name("library/app"), &images[0].layer));
    let left = crate::index::scan::Cursor::all(|from| engine.index.parents(from, 10));
    assert!(left.is_empty() && engine.index.holders(&images[0].index, 9).is_empty(), "{left:?}");
    assert_eq!(engine.budget.usage().small, 0);
}

#[tokio::test]
async fn what_is_asked_for_while_it_goes_comes_back_whole() {
    let engine = engine(tiny());
    let new = Digest::sha256(b"new");
    for who in ["index", "manifest", "layer", "an early manifest", "another manifest"] {
        let image = image(&engine, who);
        let parents =
            |child: &Digest| crate::index::scan::Cursor::all(|from| engine.index.parents_of(child, from, 9));
        let before = (parents(&image.layer), parents(&image.manifest));
        let mut unit = engine.unit(&victim(image.layer), &HashSet::new()).unwrap();
        if who == "an early manifest" {
            engine.index.apply(Batch::new().put_parent(&image.layer, &new));
        }
        engine.forget(&mut unit);
        assert!(engine.index.blob(&image.layer).is_none() && parents(&image.layer).is_empty());
        match who {
            "index" => engine.index.touch(&image.index),
            "manifest" => engine.index.touch(&image.manifest),
            "layer" => engine.index.touch(&image.layer),
            "an early manifest" => engine.index.touch(&new),
            _ => engine.index.apply(Batch::new().put_parent(&image.layer, &new)),
        }
        assert_eq!(engine.remove_unit(&unit, clock::unix_ms() + 1000), EvictReport::default(), "{who}");
        assert_eq!(image.is_held(&engine), [true; 3], "{who}");
        assert!(
            parents(&image.layer).contains(&before.0[0]) && parents(&image.manifest) == before.1,
            "{who}"
        );
    }
}

#[tokio::test]
async fn what_the_volume_held_stays_while_nobody_confirms_it() {
    let engine = engine(tiny());
    let found = hold(&engine, "found", BlobKind::Other, true);
    let fetched = hold(&engine, "fetched", BlobKind::Other, false);
    engine.evict(false).await;
    engine.evict(false).await;
    assert!(engine.index.blob(&found).is_some() && engine.index.blob(&fetched).is_none());
}

#[tokio::test]
async fn pins_hold_images_by_tag_digest_and_pattern() {
    let engine = engine(tiny());
    let images = ["a", "b", "c", "d"].map(|seed| image(&engine, seed));
    let tags = [("library/app", "1"), ("corp/tool", "2"), ("corp/other", "x")];
    for ((repository, tag), image) in tags.iter().zip(&images) {
        let repository = engine.naming.known(name(repository));
        let row = TagRow { digest: image.index, media_type: None, size: None, validated_ms: 1, before: None };
        let batch = Batch::new().put_tag(repository.key, &tag.parse().unwrap(), row);
        engine.index.apply(batch.put_repository("docker.io", &repository.name));
    }
    assert_eq!(engine.pin("app:1").unwrap().to_string(), "library/app:1");
    engine.pin("corp/*").unwrap();
    engine.pin(&images[3].index.to_string()).unwrap();
    assert!(engine.pin("no pin:").is_err());
    assert_eq!(engine.pins().len(), 3);
    engine.evict(false).await;
    engine.evict(false).await;
    assert!(images.iter().all(|image| image.is_held(&engine) == [true; 3]));
    assert!(engine.unpin("corp/*").unwrap() && !engine.unpin("corp/*").unwrap());
    assert_eq!(engine.pins().len(), 2);
    assert!(matches!(engine.pins().first(), Some(Pin::Tag(..))));
    engine.evict(false).await;
    assert_eq!(images.map(|image| image.is_held(&engine)), [[true; 3], [false; 3], [false; 3], [true; 3]]);
}

#[tokio::test]
async fn a_blob_over_the_budget_is_told_so_at_once_and_one_that_fits_is_given_room() {
    let engine = engine(Cache { max_size: Share::Bytes(4 << 20), ..tiny() });
    engine.keep_budget();
    assert_eq!(engine.reserve(5 << 20).await.err(), Some(crate::engine::OverBudget));
    let content = "x".repeat(2 << 20);
    let old = hold(&engine, &content, BlobKind::Other, false);
    engine.budget.found(2 << 20);
    let room = engine.reserve(3 << 20).await.unwrap();
    assert!(engine.index.blob(&old).is_none());
    assert!(engine.reserve(2 << 20).await.is_err());
    drop(room);
    assert!(engine.reserve(2 << 20).await.is_ok());
}

#[tokio::test]
async fn a_disk_that_says_it_is_full_is_given_room_whatever_the_budget() {
    let engine = engine(Cache { max_size: Share::Bytes(1 << 40), ..tiny() });
    let old = hold(&engine, &"x".repeat(2 << 20), BlobKind::Other, false);
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    assert!(!engine.relieve(&std::io::ErrorKind::TimedOut.into(), 1 << 20).await);
    assert!(!engine.relieve(&crate::engine::OverBudget.into(), 1 << 20).await);
    assert!(engine.index.blob(&old).is_some());
    assert!(engine.relieve(&full, 1 << 20).await);
    assert!(engine.index.blob(&old).is_none());
    assert!(!engine.relieve(&full, 1 << 20).await);
}
