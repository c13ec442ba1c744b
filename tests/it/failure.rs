//! A disk that refuses a call, once or from then on, at any place of a fill, a publication, a link.

use crate::support::is_long;
use crate::support::script::{self, Layers, Script};
use crate::support::trace::{self, Point};

/// How many points a normal run tries; a long one tries all of them, with every error.
const FAILURES: usize = 30;

/// What a disk says, and whether it goes on saying so.
const ERRORS: [(&str, bool); 8] = [
    ("EIO", false),
    ("ENOSPC", true),
    ("EIO", true),
    ("ENOSPC", false),
    ("EDQUOT", true),
    ("EROFS", true),
    ("EACCES", false),
    ("EACCES", true),
];

/// The calls whose failure a client must not notice.
const CALLS: [&str; 10] = [
    "openat",
    "write",
    "pwrite64",
    "pwritev",
    "fallocate",
    "fsync",
    "fdatasync",
    "rename",
    "mkdir",
    "unlink",
];

/// A call of the story that failed, and how.
#[derive(Debug, Clone)]
struct Trouble {
    point: Point,
    error: &'static str,
    lasts: bool,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_the_disk_refuses_harms_no_client() {
    let layers = Layers::make();
    let all = troubles(&trace::points_of(&layers).await);
    let most = if is_long() { all.len() } else { FAILURES };
    let tried = trace::sample(&all, most, |trouble| &trouble.point);
    let hits =
        script::in_lanes(&layers, &tried, |script, trouble| async move { met(&script, &trouble).await })
            .await;
    eprintln!("{hits} of {} calls were refused, of {}", tried.len(), all.len());
    assert!(hits * 4 >= tried.len() * 3, "{hits} of {}", tried.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_whose_new_manifest_was_refused_by_the_disk_leads_to_the_old_one_after_a_restart() {
    let script = Script::of(&Layers::make()).await;
    let path = Some(script.folder_of_second_manifest());
    let point = Point { call: "mkdir".into(), path, nth: 1 };
    assert!(met(&script, &Trouble { point, error: "EIO", lasts: true }).await);
}

/// Each point of the story with some of the errors, all of them in a long run.
fn troubles(points: &[Point]) -> Vec<Trouble> {
    let points = points.iter().filter(|point| CALLS.contains(&point.call.as_str()) && is_of_the_story(point));
    let each = if is_long() { ERRORS.len() } else { 1 };
    points
        .enumerate()
        .flat_map(|(at, point)| {
            (0..each).map(move |more| {
                let (error, lasts) = ERRORS[(at + more) % ERRORS.len()];
                Trouble { point: point.clone(), error, lasts }
            })
        })
        .collect()
}

/// What the first start has made is not made again; and without their path, `openat` and `write` are mostly no calls to
/// the disk.
fn is_of_the_story(point: &Point) -> bool {
    match &point.path {
        Some(path) if point.call == "mkdir" => {
            path.starts_with("docker/registry/v2/blobs/sha256/") || path.contains("/library")
        }
        Some(path) => {
            path.contains("/partial/") || path.starts_with("docker/registry/v2/") || path.contains("data.mdb")
        }
        None => !["openat", "write"].contains(&point.call.as_str()),
    }
}

/// A mirror meets a trouble and lives on. Whether it met it.
async fn met(script: &Script, trouble: &Trouble) -> bool {
    // A first start has made what every start makes.
    let (setup, status) = script.setup().start().stop();
    assert!(status.success(), "{status}");
    let error = format!("error={}", trouble.error);
    let started = trace::injected(setup.clone(), &trouble.point, &error, trouble.lasts).try_start();
    let mut mirror = match started {
        Ok(mirror) => mirror,
        Err(ended) => {
            // The root can't be written: a start says so. Whatever it was, it is over at the next one.
            assert!(ended.status.code() == Some(1), "{trouble:?}: {}", ended.status);
            assert!(ended.log.iter().any(|line| line.contains("can't be written")), "{:?}", ended.log);
            assert!(trace::was_injected(&setup), "{trouble:?}: a start failed for another reason");
            script.check(setup).await;
            return true;
        }
    };
    // Never a refusal: what the disk does not take is passed on. What it had begun to take may be cut, once.
    for may_be_cut in [true, false] {
        for answer in script.play(&mirror).await {
            assert!(answer.status == 200, "{trouble:?}: {} {:?}", answer.status, answer.body);
            assert!(answer.whole || may_be_cut, "{trouble:?}: cut again");
        }
        script.settled(&setup.root(), || trace::was_injected(&setup)).await;
    }
    assert!(!mirror.has_ended(), "{trouble:?}: the mirror ended");
    mirror.stop();
    let met = trace::was_injected(&setup);
    script.check(setup).await;
    met
}
