//! One life: a Hub, a mirror, and what happens to them.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use serde_json::json;
use tidegate::engine::freshness::CONFIRMATION_WAIT;
use tokio::task::block_in_place;

use super::Tally;
use super::operation::{Operation, Pick, Place, REPOSITORIES, Random, TAGS, Trouble, Verb};
use super::rules::{Judgement, Key, Kind, Rules, expect};
use crate::support::hub::{Fault, Host, Hub, Order, PULL_LIMIT};
use crate::support::image::{self, OCI};
use crate::support::mirror::{Mirror, Setup};
use crate::support::pull::{self, Answer};
use crate::support::soon;

/// Different layers; some images share one, also between repositories.
const LAYERS: usize = 12;

/// Lengths of layers, in bytes: below and above what is held back, and what a cut leaves of them.
const LENGTHS: [usize; 4] = [500, 18_000, 70_000, 200_000];

/// What a cut leaves of a blob and of a manifest, in bytes.
const CUT_AFTER: [u64; 2] = [30_000, 100];

/// Clients of a crowd.
const CROWD: usize = 4;

struct World {
    hub: Hub,
    /// Absent only while it starts anew.
    mirror: Option<Mirror>,
    client: reqwest::Client,
    random: Random,
    rules: Rules,
    orders: Vec<(Trouble, Arc<Order>)>,
    tally: Tally,
    story: Story,
    images: usize,
}

/// What happened so far; told if the life ends badly.
struct Story {
    seed: u64,
    lines: Vec<String>,
}

impl Drop for Story {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("TIDEGATE_TESTS_SEED={}\n  {}", self.seed, self.lines.join("\n  "));
        }
    }
}

/// Lives one life of so many operations.
pub async fn live(seed: u64, operations: usize) -> Tally {
    let mut world = World::new(seed).await;
    for _ in 0..operations {
        let operation = Operation::draw(&mut world.random);
        world.story.lines.push(format!("{operation:?}"));
        if let Err(wrong) = world.carry_out(&operation).await {
            panic!("seed {seed}: {operation:?}: {wrong}");
        }
    }
    world.calm();
    block_in_place(|| world.mirror.take().unwrap().stop());
    world.tally
}

impl World {
    async fn new(seed: u64) -> Self {
        let hub = Hub::start().await;
        let setup = Setup::of(&hub.url()).with("TIDEGATE_TAGS_NEGATIVE", "0s");
        let mirror = block_in_place(|| setup.start());
        let mut world = Self {
            hub,
            mirror: Some(mirror),
            client: pull::client(),
            random: Random(seed),
            rules: Rules::default(),
            orders: vec![],
            tally: Tally::new(),
            story: Story { seed, lines: vec![] },
            images: 0,
        };
        for repository in REPOSITORIES {
            world.publish(Place { repository, tag: TAGS[0] });
        }
        world
    }

    async fn carry_out(&mut self, operation: &Operation) -> Judgement {
        match operation {
            Operation::Pull(place) => return self.pull(*place).await,
            Operation::Tag(verb, place) => return self.tag(*verb, *place).await.map(drop),
            Operation::Manifest(verb, pick) => {
                let key = self.key(Kind::Manifest, *pick);
                return self.thing(&key, *verb).await;
            }
            Operation::Blob(verb, pick) => {
                let key = self.key(Kind::Blob, *pick);
                return self.thing(&key, *verb).await;
            }
            Operation::Part(pick, thousandths) => return self.part(*pick, thousandths.clone()).await,
            Operation::Leave(pick) => return self.leave(*pick).await,
            Operation::Crowd(pick) => return self.crowd(*pick).await,
            Operation::Restart => return self.restart(),
            Operation::Kill => self.kill(),
            Operation::Publish(place) => self.publish(*place),
            Operation::Retag(place, number) => self.retag(*place, *number),
            Operation::Untag(place) => {
                self.hub.remove_tag(place.repository, place.tag);
                self.rules.untag(*place);
            }
            Operation::Trouble(trouble) => self.trouble(*trouble),
            Operation::Calm => self.calm(),
        }
        Ok(())
    }

    fn note(&mut self, what: &str) {
        *self.tally.entry(what.to_owned()).or_default() += 1;
    }
}

/// Clients.
impl World {
    async fn pull(&mut self, place: Place) -> Judgement {
        let Some(digest) = self.tag(Verb::Get, place).await? else { return Ok(()) };
        let manifest = Key { kind: Kind::Manifest, repository: place.repository, digest };
        self.thing(&manifest, Verb::Get).await?;
        let bytes = self.rules.bytes(&manifest).cloned().unwrap_or_default();
        let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let layers = document["layers"].as_array().unwrap().iter();
        for named in layers.chain([&document["config"]]) {
            let digest = named["digest"].as_str().unwrap().to_owned();
            self.thing(&Key { kind: Kind::Blob, repository: place.repository, digest }, Verb::Get).await?;
        }
        Ok(())
    }

    async fn tag(&mut self, verb: Verb, place: Place) -> Result<Option<String>, String> {
        let path = format!("/v2/{}/manifests/{}", place.repository, place.tag);
        let began = Instant::now();
        let answer = pull::finish(self.send(verb, &path, None).await?).await;
        if began.elapsed() >= CONFIRMATION_WAIT {
            self.rules.slow();
        }
        self.tell(&answer);
        self.rules.tag(place, verb, &answer)
    }

    async fn thing(&mut self, key: &Key, verb: Verb) -> Judgement {
        let answer = pull::finish(self.send(verb, &path(key), None).await?).await;
        self.tell(&answer);
        self.rules.thing(key, verb, &answer)
    }

    async fn part(&mut self, pick: Pick, thousandths: std::ops::Range<usize>) -> Judgement {
        let key = self.key(Kind::Blob, pick);
        let size = self.rules.bytes(&key).map_or(1000, Bytes::len);
        let first = thousandths.start * size / 1000;
        let end = (thousandths.end * size / 1000).max(first + 1);
        let range = format!("bytes={first}-{}", end - 1);
        let answer = pull::finish(self.send(Verb::Get, &path(&key), Some(&range)).await?).await;
        self.tell(&answer);
        self.rules.part(&key, first..end, &answer)
    }

    async fn leave(&mut self, pick: Pick) -> Judgement {
        let key = self.key(Kind::Blob, pick);
        let mut response = self.send(Verb::Get, &path(&key), None).await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = soon("the first bytes", response.chunk()).await.ok().flatten().unwrap_or_default();
        drop(response);
        let answer = Answer { status, headers, body, whole: false };
        self.rules.left(&key, &answer)
    }

    async fn crowd(&mut self, pick: Pick) -> Judgement {
        let key = self.key(Kind::Blob, pick);
        let transfers =
            |hub: &Hub| hub.count(|seen| seen.is_blob_transfer() && seen.path.contains(&key.digest));
        let cold = transfers(&self.hub) == 0 && !self.rules.has_trouble();
        let path = path(&key);
        let clients =
            (0..CROWD).map(|_| async { Ok(pull::finish(self.send(Verb::Get, &path, None).await?).await) });
        let answers: Vec<Result<Answer, String>> = futures_util::future::join_all(clients).await;
        for answer in answers {
            let answer = answer?;
            self.tell(&answer);
            self.rules.thing(&key, Verb::Get, &answer)?;
        }
        let after = transfers(&self.hub);
        expect(!cold || after <= 1, || format!("{after} transfers of one cold blob"))
    }

    async fn send(&self, verb: Verb, path: &str, range: Option<&str>) -> Result<reqwest::Response, String> {
        let method = if verb == Verb::Head { reqwest::Method::HEAD } else { reqwest::Method::GET };
        let request = self.client.request(method, self.mirror().url(path));
        let request = request.header(pull::MODERN.0, pull::MODERN.1);
        let request = range.into_iter().fold(request, |request, range| request.header("range", range));
        soon(path, request.send()).await.map_err(|error| format!("{path}: no answer: {error:?}"))
    }

    /// Into the story and the tally.
    fn tell(&mut self, answer: &Answer) {
        let outcome = answer.header("cache-status");
        self.story.lines.push(format!(
            "    {} {outcome}, {} bytes, whole: {}",
            answer.status,
            answer.body.len(),
            answer.whole
        ));
        if outcome.contains("detail=stale-") {
            self.note("stale");
        }
        if !answer.whole {
            self.note("cut");
        }
        self.note(&answer.status.to_string());
    }

    fn key(&self, kind: Kind, pick: Pick) -> Key {
        let all = self.rules.of(kind, pick.repository);
        let key = all[pick.number % all.len()].clone();
        let other = REPOSITORIES.into_iter().find(|name| *name != pick.repository).unwrap();
        Key { repository: if pick.foreign { other } else { key.repository }, ..key }
    }

    fn mirror(&self) -> &Mirror {
        self.mirror.as_ref().unwrap()
    }
}

/// The process.
impl World {
    fn restart(&mut self) -> Judgement {
        let (setup, status) = block_in_place(|| self.mirror.take().unwrap().stop());
        expect(status.success(), || format!("SIGTERM ended with {status}"))?;
        self.note("stopped");
        self.begin(setup);
        Ok(())
    }

    /// What is in the tree at the moment of the kill is published.
    fn kill(&mut self) {
        let mirror = self.mirror.take().unwrap();
        let tree = mirror.setup.root().join("docker/registry/v2");
        self.rules.lose(|key| is_published(&tree, key), |place| is_tag_published(&tree, place));
        let setup = block_in_place(|| mirror.kill());
        self.note("killed");
        self.begin(setup);
    }

    fn begin(&mut self, setup: Setup) {
        self.mirror = Some(block_in_place(|| setup.start()));
        self.rules.restarted();
    }
}

/// The upstream.
impl World {
    fn publish(&mut self, place: Place) {
        let layers: Vec<_> = (0..=self.random.below(2))
            .map(|_| self.random.below(LAYERS))
            .map(|number| image::layer(number as u64, LENGTHS[number % LENGTHS.len()]))
            .collect();
        self.images += 1;
        let settings = json!({ "architecture": "amd64", "os": "linux", "author": self.images.to_string() });
        let (config, manifest) = image::documents(OCI, &layers, &settings);
        for blob in layers.into_iter().chain([config]) {
            let digest = self.hub.blob(place.repository, blob.clone());
            self.rules.add(Kind::Blob, place.repository, &digest, blob);
        }
        let digest = self.hub.manifest(place.repository, Some(place.tag), OCI.manifest, manifest.clone());
        self.rules.add(Kind::Manifest, place.repository, &digest, manifest);
        self.rules.point(place, &digest);
    }

    fn retag(&mut self, place: Place, number: usize) {
        let key = self.key(Kind::Manifest, Pick { repository: place.repository, number, foreign: false });
        let bytes = self.rules.bytes(&key).cloned().unwrap_or_default();
        let digest = self.hub.manifest(place.repository, Some(place.tag), OCI.manifest, bytes);
        self.rules.point(place, &digest);
    }

    /// Never by closing the ports: another process might take them meanwhile.
    fn trouble(&mut self, trouble: Trouble) {
        self.calm();
        let manifests = REPOSITORIES.map(|name| format!("GET /v2/{name}/manifests/"));
        let [blob, document] = CUT_AFTER;
        let faults = match trouble {
            Trouble::Down => {
                [Host::Registry, Host::Token, Host::Cdn].map(|host| (host, "", Fault::Close)).to_vec()
            }
            Trouble::Limited => vec![(Host::Registry, "/v2/", PULL_LIMIT)],
            Trouble::Failing => vec![(Host::Registry, "/v2/", Fault::Answer(500, "", "oops"))],
            Trouble::Cut => bodies(&manifests, Fault::Cut(blob), &Fault::Cut(document)),
            Trouble::Wrong => bodies(&manifests, Fault::Wrong, &Fault::Wrong),
        };
        let orders =
            faults.into_iter().map(|(host, what, fault)| (trouble, self.hub.fault(host, what, fault)));
        self.orders = orders.collect();
        self.rules.trouble(Some(trouble));
    }

    fn calm(&mut self) {
        self.hub.behave();
        self.rules.trouble(None);
        for (trouble, order) in std::mem::take(&mut self.orders) {
            if order.applied() > 0 {
                self.note(&format!("{trouble:?}"));
            }
        }
    }
}

fn bodies<'a>(manifests: &'a [String], blob: Fault, document: &Fault) -> Vec<(Host, &'a str, Fault)> {
    let documents = manifests.iter().map(|what| (Host::Registry, what.as_str(), document.clone()));
    documents.chain([(Host::Cdn, "GET", blob)]).collect()
}

fn path(key: &Key) -> String {
    let place = if key.kind == Kind::Manifest { "manifests" } else { "blobs" };
    format!("/v2/{}/{place}/{}", key.repository, key.digest)
}

fn is_published(tree: &Path, key: &Key) -> bool {
    let hex = &key.digest["sha256:".len()..];
    let folder = if key.kind == Kind::Manifest { "_manifests/revisions" } else { "_layers" };
    let link =
        tree.join("repositories").join(key.repository).join(folder).join("sha256").join(hex).join("link");
    let data = tree.join("blobs/sha256").join(&hex[..2]).join(hex).join("data");
    data.exists() && link.exists()
}

fn is_tag_published(tree: &Path, place: Place) -> bool {
    let tags = tree.join("repositories").join(place.repository).join("_manifests/tags");
    let link = std::fs::read_to_string(tags.join(place.tag).join("current/link"));
    link.is_ok_and(|digest| {
        is_published(tree, &Key { kind: Kind::Manifest, repository: place.repository, digest })
    })
}
