//! What happens on the way from the upstream: parts, resumption, and who may have which transfer.

use std::sync::Arc;

use crate::support::hub::{Fault, Host, Hub, Order, Seen, pattern};
use crate::support::mirror::{Mirror, Setup};
use crate::support::pull::{self, Answer, ask, get, open};
use crate::support::{is_long, soon, until};
use reqwest::Method;
use tidegate::registry::Digest;

const MIB: u64 = 1024 * 1024;

/// A blob of a Hub behind a mirror.
struct Blob {
    hub: Hub,
    mirror: Arc<Mirror>,
    digest: String,
    size: u64,
}

impl Blob {
    async fn of(size: u64) -> Self {
        Self::with(size, |setup| setup).await
    }

    async fn with(size: u64, adapt: impl FnOnce(Setup) -> Setup) -> Self {
        let hub = Hub::start().await;
        let digest = hub.giant("library/app", size);
        let setup = Setup::of(&hub.url()).with("REGISTRY_HTTP_DEBUG_ADDR", "127.0.0.1:0");
        let setup = adapt(setup.with("REGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED", "true"));
        Self { hub, mirror: Arc::new(setup.start()), digest, size }
    }

    fn url(&self) -> String {
        self.mirror.url(&format!("/v2/library/app/blobs/{}", self.digest))
    }

    /// Asks for a part, up to its end or to all the rest.
    async fn part(&self, first: u64, end: Option<u64>) -> reqwest::Response {
        part(&self.url(), first, end).await
    }

    /// Body bytes that the mirror received, by its own count.
    async fn received(&self) -> u64 {
        let metrics = self.mirror.metrics().await;
        let line =
            metrics.lines().find(|line| line.starts_with("registry_proxy_pulled_bytes_total{type=\"blob\"}"));
        line.map_or(0, |line| line.split(' ').next_back().unwrap().parse().unwrap())
    }

    /// Waits until so many bytes are in the unfinished file.
    async fn written(&self, bytes: u64) {
        let folder = self.mirror.setup.root().join("tidegate/partial");
        let path = folder.join(self.digest.trim_start_matches("sha256:"));
        let length = || std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        until("bytes in the unfinished file", async || length() >= bytes).await;
    }

    /// A client has its first byte, and half of the blob is written; the other half does not come.
    async fn half(&self) -> (Arc<Order>, reqwest::Response) {
        let half = self.hub.fault(Host::Cdn, "GET", Fault::Gate(self.size / 2));
        half.times(1);
        let mut client = open(&self.url()).await;
        soon("the first byte", client.chunk()).await.unwrap().unwrap();
        self.written(self.size / 2).await;
        (half, client)
    }

    fn is_whole(&self, answer: &Answer) {
        assert!(answer.whole && answer.status == 200, "{} {}", answer.status, answer.whole);
        assert_eq!(answer.digest(), self.digest);
    }
}

async fn part(url: &str, first: u64, end: Option<u64>) -> reqwest::Response {
    let last = end.map_or(String::new(), |end| (end - 1).to_string());
    let request = pull::client().get(url).header("range", format!("bytes={first}-{last}"));
    soon(url, request.send()).await.unwrap()
}

/// The whole of an answer to a request for a part is that part.
async fn is_part(answer: reqwest::Response, first: u64, end: u64) {
    let answer = pull::finish(answer).await;
    assert_eq!((answer.status, answer.whole), (206, true));
    assert!(answer.body == pattern(first, end), "wrong bytes from {first} to {end}");
}

/// A small generator, so that each run is the same.
fn random(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % below
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_of_parts_and_wholes_of_whom_some_leave_fetch_no_byte_twice() {
    let blob = Arc::new(Blob::of(if is_long() { 256 * MIB } else { 64 * MIB }).await);
    let mut state = 7;
    let clients: Vec<_> = (0..50)
        .map(|number| {
            let (first, length) = (random(&mut state, blob.size), 1 + random(&mut state, 8 * MIB));
            let (leaves_after, blob) = (random(&mut state, 8 * MIB), Arc::clone(&blob));
            tokio::spawn(async move {
                let end = blob.size.min(first + length);
                let mut answer = match number % 2 {
                    0 => open(&blob.url()).await,
                    _ => blob.part(first, Some(end)).await,
                };
                if number % 3 == 0 {
                    let mut read = 0;
                    while read < leaves_after
                        && let Some(piece) = soon("a piece", answer.chunk()).await.unwrap()
                    {
                        read += piece.len() as u64;
                    }
                } else if number % 2 == 0 {
                    blob.is_whole(&pull::finish(answer).await);
                } else {
                    is_part(answer, first, end).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let transfers = blob.hub.count(Seen::is_blob_transfer) as u64;
    let (received, most) = (blob.received().await, blob.size / 50 + blob.size + 4 * MIB * transfers);
    assert!(received >= blob.size && received <= most, "{received} of {} by {transfers}", blob.size);
    // And no two transfers were asked for the same bytes but those that were ended early.
    assert!(transfers < 50, "{transfers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_far_ahead_of_a_fill_does_not_wait_for_it() {
    let blob = Blob::of(128 * MIB).await;
    // The transfer from the front stops early and does not go on.
    let front = blob.hub.fault(Host::Cdn, "GET", Fault::Gate(MIB));
    front.times(1);
    let mut whole = open(&blob.url()).await;
    let first = soon("the first byte", whole.chunk()).await.unwrap().unwrap();
    is_part(blob.part(115 * MIB, Some(116 * MIB)).await, 115 * MIB, 116 * MIB).await;
    is_part(blob.part(127 * MIB, None).await, 127 * MIB, 128 * MIB).await;
    assert_eq!(front.applied(), 1);
    blob.hub.release();
    let rest = pull::finish(whole).await;
    assert!(rest.whole);
    assert_eq!(Digest::sha256(&[first, rest.body].concat()).to_string(), blob.digest);
    let received = blob.received().await;
    assert!(received <= blob.size + 4 * MIB, "{received}");
}

/// A second is told by what the upstream gives in one.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_at_90_percent_of_a_blob_from_a_slow_upstream_is_there_within_a_second() {
    let blob = Blob::of(if is_long() { 1024 * MIB } else { 64 * MIB }).await;
    let a_second = 20_000_000;
    let slow = blob.hub.fault(Host::Cdn, "GET", Fault::Slow(a_second));
    let mut whole = open(&blob.url()).await;
    soon("the first byte", whole.chunk()).await.unwrap().unwrap();
    let (before, first) = (blob.received().await, blob.size / 10 * 9);
    let mut answer = blob.part(first, Some(first + MIB)).await;
    let begin = soon("the first byte of the part", answer.chunk()).await.unwrap().unwrap();
    let meanwhile = blob.received().await - before;
    assert!(meanwhile <= a_second, "{meanwhile} bytes came before");
    assert!(begin == pattern(first, first + begin.len() as u64) && slow.applied() == 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_cold_blob_is_asked_for_as_a_part_and_the_rest_follows() {
    let blob = Blob::of(64 * MIB).await;
    is_part(blob.part(50 * MIB, Some(51 * MIB)).await, 50 * MIB, 51 * MIB).await;
    let first = blob.hub.seen().into_iter().find(Seen::is_blob_transfer).unwrap();
    assert_eq!(first.range.unwrap(), format!("bytes={}-{}", 50 * MIB, 51 * MIB - 1));
    blob.is_whole(&get(&blob.url()).await);
    assert_eq!(blob.received().await, blob.size);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_one_chunk_of_each_open_range_costs_the_blob_once() {
    let blob = Arc::new(Blob::of(64 * MIB).await);
    let chunks: Vec<_> = (0..8)
        .map(|number| {
            let blob = Arc::clone(&blob);
            tokio::spawn(async move {
                let (first, mut read) = (number * 8 * MIB, 0);
                let mut answer = blob.part(first, None).await;
                assert_eq!(answer.status().as_u16(), 206);
                while read < 8 * MIB {
                    let piece = soon("a piece", answer.chunk()).await.unwrap().unwrap();
                    let at = first + read;
                    assert!(piece == pattern(at, at + piece.len() as u64), "wrong bytes at {at}");
                    read += piece.len() as u64;
                }
            })
        })
        .collect();
    for chunk in chunks {
        chunk.await.unwrap();
    }
    blob.is_whole(&get(&blob.url()).await);
    let (received, transfers) = (blob.received().await, blob.hub.count(Seen::is_blob_transfer) as u64);
    assert!(transfers <= 12 && received <= blob.size + transfers * 4 * MIB, "{received} by {transfers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_breaks_off_every_5_mb_is_not_noticed_by_readers() {
    let size = if is_long() { 256 * MIB } else { 48 * MIB };
    let blob = Blob::of(size).await;
    let cut = blob.hub.fault(Host::Cdn, "GET", Fault::Cut(5_000_000));
    blob.is_whole(&get(&blob.url()).await);
    assert!(cut.applied() as u64 >= size / 5_000_000);
    let received = blob.received().await;
    assert!(received <= size + size / 50, "{received}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_in_the_middle_of_a_fill_costs_its_tail_alone() {
    let size = if is_long() { 256 * MIB } else { 64 * MIB };
    let mut blob = Blob::of(size).await;
    let (half, _client) = blob.half().await;
    let mirror = Arc::into_inner(blob.mirror).unwrap();
    blob.mirror = Arc::new(mirror.kill().start());
    blob.hub.forget();
    blob.is_whole(&get(&blob.url()).await);
    let received = blob.received().await;
    assert!(received <= size / 2 + 8 * MIB, "{received}");
    assert_eq!(half.applied(), 1);
    let range = blob.hub.seen().into_iter().find(Seen::is_blob_transfer).unwrap().range.unwrap();
    assert!(range.ends_with('-'), "{range}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_the_middle_of_a_fill_keeps_what_there_is() {
    let mut blob = Blob::with(32 * MIB, |setup| setup.with("REGISTRY_HTTP_DRAINTIMEOUT", "1s")).await;
    let (half, _client) = blob.half().await;
    let mirror = Arc::into_inner(blob.mirror).unwrap();
    blob.mirror = Arc::new(mirror.stop().0.start());
    blob.is_whole(&get(&blob.url()).await);
    let received = blob.received().await;
    assert!(received <= 17 * MIB && half.applied() == 1, "{received}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rotted_in_an_unfinished_file_is_fetched_again_and_nothing_else() {
    let mut blob = Blob::of(32 * MIB).await;
    let (half, _client) = blob.half().await;
    let mirror = Arc::into_inner(blob.mirror).unwrap();
    let setup = mirror.kill();
    let path = setup.root().join("tidegate/partial").join(blob.digest.trim_start_matches("sha256:"));
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"rot", 5 * MIB + 77).unwrap();
    blob.mirror = Arc::new(setup.start());
    blob.is_whole(&get(&blob.url()).await);
    let received = blob.received().await;
    assert!((17 * MIB..=18 * MIB).contains(&received) && half.applied() == 1, "{received}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lazy_mirror_fetches_what_is_asked_for_and_no_more() {
    let mut blob = Blob::with(64 * MIB, |setup| setup.with("TIDEGATE_FILL_LAZY", "true")).await;
    is_part(blob.part(60 * MIB, Some(62 * MIB)).await, 60 * MIB, 62 * MIB).await;
    is_part(blob.part(10 * MIB, Some(14 * MIB)).await, 10 * MIB, 14 * MIB).await;
    is_part(blob.part(12 * MIB, Some(13 * MIB)).await, 12 * MIB, 13 * MIB).await;
    assert_eq!(blob.received().await, 6 * MIB);
    // Nobody reads any more: what there is stays for the next one.
    blob.mirror.logged("nobody wants the blob any more");
    is_part(blob.part(10 * MIB, Some(13 * MIB)).await, 10 * MIB, 13 * MIB).await;
    let more = blob.received().await;
    assert!(more <= 7 * MIB, "{more}");
    blob.is_whole(&get(&blob.url()).await);
    let mirror = Arc::into_inner(blob.mirror).unwrap();
    blob.mirror = Arc::new(mirror.stop().0.start());
    blob.hub.stop();
    blob.is_whole(&get(&blob.url()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_without_parts_is_read_once_from_the_front() {
    let blob = Arc::new(Blob::of(32 * MIB).await);
    let no_parts = blob.hub.fault(Host::Cdn, "GET", Fault::NoRange);
    let far = tokio::spawn({
        let blob = Arc::clone(&blob);
        async move { is_part(blob.part(30 * MIB, Some(31 * MIB)).await, 30 * MIB, 31 * MIB).await }
    });
    blob.is_whole(&get(&blob.url()).await);
    far.await.unwrap();
    assert!(no_parts.applied() >= 1);
    let received = blob.received().await;
    assert!(received <= blob.size + 8 * MIB, "{received}");
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_share_the_work_and_fetch_nothing_twice() {
    let blob = Blob::with(128 * MIB, |setup| setup.with("TIDEGATE_FILL_SEGMENTS", "3")).await;
    blob.is_whole(&get(&blob.url()).await);
    let (received, transfers) = (blob.received().await, blob.hub.count(Seen::is_blob_transfer) as u64);
    assert!(transfers >= 3 && received <= blob.size + transfers * 4 * MIB, "{received} by {transfers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_address_that_has_ended_is_asked_for_anew() {
    let blob = Blob::of(16 * MIB).await;
    let cut = blob.hub.fault(Host::Cdn, "GET", Fault::Cut(6 * MIB));
    cut.times(1);
    let ended = blob.hub.fault(Host::Cdn, "GET", Fault::Answer(403, "", "<Error>Expired</Error>"));
    ended.times(1);
    blob.is_whole(&get(&blob.url()).await);
    assert_eq!((cut.applied(), ended.applied()), (1, 1));
    assert_eq!(blob.hub.count(|seen| seen.host == Host::Registry && seen.path.contains("/blobs/")), 3);
    assert_eq!(blob.received().await, blob.size);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_that_all_left_early_ends_and_is_gone_on_with_later() {
    let blob = Blob::of(64 * MIB).await;
    let slow = blob.hub.fault(Host::Cdn, "GET", Fault::Gate(16 * MIB));
    slow.times(1);
    let mut client = open(&blob.url()).await;
    soon("the first byte", client.chunk()).await.unwrap().unwrap();
    blob.written(16 * MIB).await;
    drop(client);
    blob.mirror.logged("nobody wants the blob any more");
    blob.is_whole(&get(&blob.url()).await);
    let received = blob.received().await;
    assert!(received <= blob.size + MIB && slow.applied() == 1, "{received}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_behind_the_end_of_a_cold_blob_does_not_exist() {
    let blob = Blob::of(MIB).await;
    let range = format!("bytes={}-", 50 * MIB);
    let answer = ask(Method::GET, &blob.url(), &[("range", &range)]).await;
    assert_eq!((answer.status, answer.header("content-range")), (416, format!("bytes */{MIB}").as_str()));
    let last = ask(Method::GET, &blob.url(), &[("range", "bytes=-10")]).await;
    assert_eq!((last.status, last.body), (206, pattern(MIB - 10, MIB)));
}
