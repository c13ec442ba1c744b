//! One seed from its beginning to its end.

use std::sync::Arc;

use reqwest::Method;

use super::mind::{Exchange, Mind, Verdict};
use super::operation::{Operation, Range};
use super::world::{World, place};
use crate::support::hub::{Hub, Order};
use crate::support::mirror::{Mirror, Setup};
use crate::support::pull::{self, Answer};
use crate::support::random::Random;
use crate::support::soon;
use crate::support::volume::Volume;

/// Operations of a seed: enough for a pull, some trouble, a restart and what is left of it.
const OPERATIONS: usize = 25;

/// What happened, to know that something did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub answers: usize,
    pub whole: usize,
    pub cut: usize,
    pub refused: usize,
    pub stale: usize,
    pub faults: usize,
    pub restarts: usize,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.answers += other.answers;
        self.whole += other.whole;
        self.cut += other.cut;
        self.refused += other.refused;
        self.stale += other.stale;
        self.faults += other.faults;
        self.restarts += other.restarts;
    }

    fn note(&mut self, answer: &Answer, verdict: Verdict) {
        self.answers += 1;
        match verdict {
            Verdict::Whole => self.whole += 1,
            Verdict::Cut => self.cut += 1,
            Verdict::Refused => self.refused += 1,
        }
        self.stale += usize::from(answer.header("cache-status").contains("detail=stale"));
    }
}

/// Printed when the seed fails.
struct Journal(u64, Vec<String>);

impl Drop for Journal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {} failed after:\n  {}", self.0, self.1.join("\n  "));
            eprintln!("again: TIDEGATE_TESTS_SEED={} cargo test --test it model::", self.0);
        }
    }
}

struct Stage {
    journal: Journal,
    random: Random,
    hub: Hub,
    world: World,
    mind: Mind,
    mirror: Option<Mirror>,
    client: reqwest::Client,
    /// Orders of troubles that were ordered since the upstream behaved last, and how often older ones came to pass.
    orders: Vec<Arc<Order>>,
    earlier: usize,
    tally: Tally,
}

pub async fn run(seed: u64) -> Tally {
    let mut random = Random::new(seed);
    let (fresh, negative, calm) = (random.chance(15), random.chance(60), random.chance(20));
    let hub = Hub::start().await;
    let world = World::new(&hub, &mut random);
    let setup = Setup::of(&hub.url())
        .with("TIDEGATE_TAGS_FRESH", if fresh { "60s" } else { "0s" })
        .with("TIDEGATE_TAGS_NEGATIVE", if negative { "5s" } else { "0s" });
    let mut stage = Stage {
        journal: Journal(seed, vec![format!("fresh {fresh}, negative {negative}, calm {calm}")]),
        random,
        hub,
        world,
        mind: Mind::new(fresh, negative),
        mirror: Some(tokio::task::block_in_place(|| setup.start())),
        client: pull::client(),
        orders: vec![],
        earlier: 0,
        tally: Tally::default(),
    };
    for _ in 0..OPERATIONS {
        let troubled = !stage.orders.is_empty();
        let operation = Operation::any(&stage.world, troubled, calm, &mut stage.random);
        stage.journal.1.push(format!("{operation:?}"));
        stage.perform(operation).await;
    }
    stage.audit().await;
    stage.tally.faults = stage.applied();
    stage.tally
}

impl Stage {
    async fn perform(&mut self, operation: Operation) {
        match operation {
            Operation::Pull { repository, tag } => self.pull(repository, tag).await,
            Operation::Tag { repository, tag, head } => drop(self.tag(repository, tag, head).await),
            Operation::Manifest { repository, digest, head } => {
                self.manifest(repository, &digest, head).await;
            }
            Operation::Blob { repository, digest, head } => self.blob(repository, &digest, head).await,
            Operation::Range { repository, digest, range } => {
                self.crowd(repository, &digest, &[Some(range)], false).await;
            }
            Operation::Abort { repository, digest } => self.crowd(repository, &digest, &[], true).await,
            Operation::Crowd { repository, digest, ranges } => {
                let ranges: Vec<_> = ranges.into_iter().map(Some).chain([None, None]).collect();
                self.crowd(repository, &digest, &ranges, true).await;
            }
            Operation::Restart => self.restart(false),
            Operation::Kill => self.restart(true),
            Operation::Publish { repository, tag } => {
                self.world.add(&self.hub, repository, tag, &mut self.random);
            }
            Operation::Move { repository, tag, digest } => {
                self.hub.tag(repository, tag, &digest);
                self.world.point(repository, tag, digest);
            }
            Operation::Untag { repository, tag } => {
                self.hub.remove_tag(repository, tag);
                self.world.tags.entry(place(repository, tag)).or_default().1 = false;
            }
            Operation::Hide { repository, hidden } => {
                self.hub.hide(repository, hidden);
                self.world.hidden.retain(|known| *known != repository);
                self.world.hidden.extend(hidden.then_some(repository));
            }
            Operation::Trouble(trouble) => self.orders.extend(trouble.order(&self.hub)),
            Operation::Heal => {
                self.hub.behave();
                self.earlier = self.applied();
                self.orders.clear();
            }
        }
    }

    /// How often faults came to pass.
    fn applied(&self) -> usize {
        self.earlier + self.orders.iter().map(|order| order.applied()).sum::<usize>()
    }

    /// Whether one did since.
    fn faulty_since(&mut self, before: usize) -> bool {
        let faulty = self.applied() > before;
        if faulty {
            self.mind.cloud();
        }
        faulty
    }

    async fn pull(&mut self, repository: &'static str, tag: &str) {
        let answer = self.tag(repository, tag, false).await;
        if answer.status != 200 {
            return;
        }
        let digest = answer.header("docker-content-digest");
        let images = &self.world.images[repository];
        let image = images.iter().find(|image| image.digest == digest).unwrap().clone();
        for blob in &image.blobs {
            self.blob(repository, blob, false).await;
        }
    }

    async fn tag(&mut self, repository: &str, tag: &str, head: bool) -> Answer {
        let before = self.applied();
        let answer = self.ask(repository, &format!("manifests/{tag}"), head, None).await;
        let faulty = self.faulty_since(before);
        let exchange = Exchange { world: &self.world, repository, head, answer: &answer, faulty };
        let verdict = self.mind.tag(tag, &exchange);
        self.tally.note(&answer, verdict);
        answer
    }

    async fn manifest(&mut self, repository: &str, digest: &str, head: bool) {
        let before = self.applied();
        let answer = self.ask(repository, &format!("manifests/{digest}"), head, None).await;
        let faulty = self.faulty_since(before);
        let exchange = Exchange { world: &self.world, repository, head, answer: &answer, faulty };
        let verdict = self.mind.manifest(digest, &exchange);
        self.tally.note(&answer, verdict);
    }

    async fn blob(&mut self, repository: &str, digest: &str, head: bool) {
        let before = self.applied();
        let answer = self.ask(repository, &format!("blobs/{digest}"), head, None).await;
        let faulty = self.faulty_since(before);
        let exchange = Exchange { world: &self.world, repository, head, answer: &answer, faulty };
        let verdict = self.mind.blob(digest, &exchange);
        self.tally.note(&answer, verdict);
    }

    /// Clients of one blob at once, each whole or in part, and perhaps one that leaves.
    async fn crowd(&mut self, repository: &str, digest: &str, parts: &[Option<Range>], leaver: bool) {
        let before = self.applied();
        let path = format!("blobs/{digest}");
        let asks = parts.iter().map(|range| self.ask(repository, &path, false, *range));
        let leaves = async {
            if leaver {
                self.leave(repository, digest).await;
            }
        };
        let (answers, ()) = tokio::join!(futures_util::future::join_all(asks), leaves);
        let faulty = self.faulty_since(before);
        // What the one that left has begun goes on.
        if leaver && !self.orders.is_empty() {
            self.mind.taint(digest);
        }
        for (answer, range) in answers.iter().zip(parts) {
            let exchange = Exchange { world: &self.world, repository, head: false, answer, faulty };
            let verdict = match range {
                Some(range) => self.mind.range(digest, *range, &exchange),
                None => self.mind.blob(digest, &exchange),
            };
            self.tally.note(answer, verdict);
        }
    }

    /// Reads the first bytes of a blob and leaves.
    async fn leave(&self, repository: &str, digest: &str) {
        let mut response =
            soon("a head", self.request(Method::GET, repository, &format!("blobs/{digest}")).send())
                .await
                .unwrap();
        if response.status() == 200
            && let Ok(Some(first)) = soon("a piece", response.chunk()).await
        {
            assert!(self.world.content[digest].starts_with(&first), "a piece of {digest} has other bytes");
        }
    }

    fn request(&self, method: Method, repository: &str, path: &str) -> reqwest::RequestBuilder {
        let mirror = self.mirror.as_ref().unwrap();
        self.client.request(method, mirror.url(&format!("/v2/{repository}/{path}")))
    }

    async fn ask(&self, repository: &str, path: &str, head: bool, range: Option<Range>) -> Answer {
        let method = if head { Method::HEAD } else { Method::GET };
        let mut request = self.request(method, repository, path);
        if let Some(range) = range {
            request = request.header("range", range.header());
        }
        pull::finish(soon(path, request.send()).await.unwrap()).await
    }

    fn restart(&mut self, kill: bool) {
        self.tally.restarts += 1;
        let mirror = self.mirror.take().unwrap();
        let setup = tokio::task::block_in_place(|| {
            if kill {
                return mirror.kill();
            }
            let (setup, status) = mirror.stop();
            assert!(status.success(), "{status}");
            setup
        });
        let volume = Volume::read(&setup.root());
        volume.assert_sound();
        match kill {
            true => self.mind.killed(&self.world, &volume),
            false => self.mind.stopped(&volume),
        }
        self.mirror = Some(tokio::task::block_in_place(|| setup.start()));
    }

    /// The upstream is gone for good, the mirror starts anew: everything that is owed is given out.
    async fn audit(&mut self) {
        let kill = self.random.chance(50);
        self.journal.1.push(format!("the end; killed {kill}"));
        self.hub.stop();
        self.mind.cloud();
        self.restart(kill);
        self.mind.cloud();
        let (tags, held) = self.mind.owed();
        for (repository, tag) in tags {
            assert_eq!(self.tag(&repository, &tag, false).await.status, 200, "{repository}:{tag}");
        }
        for (repository, digest) in held {
            let images = &self.world.images[repository.as_str()];
            match images.iter().any(|image| image.digest == digest) {
                true => self.manifest(&repository, &digest, false).await,
                false => self.blob(&repository, &digest, false).await,
            }
        }
    }
}
