//! Certificates that follow their files, with no restart and no connection lost.
//!
//! A [`Subject`] is something on the disk: two files, a folder, the CAs of the clients. It is looked at when the kernel
//! says that something on the way to it changed ([`watch`]), once that has been quiet for a moment; every few seconds
//! whatever the kernel says; again and again while something is wrong, since a writer may be at work; and when an operator
//! wants it. Looking never takes away what is served: a [table](super::certificates) of certificates decides that.

mod assemble;
mod authorities;
mod drawer;
mod pairs;
mod trouble;
mod watch;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};

use self::authorities::Authorities;
use self::drawer::Drawer;
use self::pairs::{Pairs, Place};
use self::watch::{Trail, Watch};
use super::certificates::{Certificates, Source};
use super::tls::Acceptor;
use crate::config::{Protocol, Tls};
use crate::observe::metrics::Metrics;
use crate::sys::clock;
use crate::sys::sync::lock;

/// How long it must be quiet after a change: a writer has more than one thing to write.
const QUIET_WAIT: Duration = Duration::from_millis(100);

/// How long it may go on being loud: changes without an end must not hide a good pair.
const LOUD_MAX: Duration = Duration::from_secs(1);

/// How often files are looked at whatever the kernel says.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// When to look again while something is wrong.
const RETRY_WAITS: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(5)];

/// Wishes of operators that wait for a look.
const WISHES_MAX: usize = 16;

/// What became of a look.
enum Looked {
    /// All is in order.
    Settled,
    /// Something is wrong that may pass.
    Unsettled,
    /// It is as wrong as it was at the last look.
    StillUnsettled,
}

/// Something on the disk that is followed.
trait Subject: Send + 'static {
    /// What leads to it.
    fn trail(&self) -> Trail;
    /// Reads it, if it may have changed, and acts on it. May wait for the disk.
    fn look(&mut self, forced: bool) -> Looked;
}

/// Certificates with all that keeps them up to date. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Secured {
    /// What is served.
    pub certificates: Certificates,
    /// Who shakes hands.
    pub acceptor: Acceptor,
    doors: Arc<[mpsc::Sender<oneshot::Sender<()>>]>,
}

impl Secured {
    /// Reads everything once, and follows it from then on. Files that are named have to be in order, or have been so at an
    /// earlier start; a folder may be empty. `state` is where the last good pairs are kept.
    pub fn open(tls: &Tls, alpn: &[Protocol], state: &Path, metrics: &Arc<Metrics>) -> Result<Self, String> {
        let certificates = Certificates::new(tls.strict_sni);
        let acceptor = Acceptor::new(tls, alpn, certificates.clone())?;
        let mut doors = Vec::new();
        let files = tls.files.clone().map(Place::Files);
        for place in files.into_iter().chain(tls.folder.clone().map(Place::Folder)) {
            let drawer = tls.keep.then(|| Drawer::kept(state, place.source(), place.path()));
            let source = place.source();
            let mut pairs = Pairs::new(place, certificates.clone(), drawer, true, Arc::clone(metrics));
            pairs.remember();
            pairs.look(true);
            if source == Source::Files && certificates.of(source).is_empty() {
                return Err(pairs.complaint());
            }
            if pairs.is_troubled() && !certificates.of(source).is_empty() {
                tracing::warn!(
                    "certificates that were kept at an earlier start are served, as far as they are valid"
                );
            }
            doors.push(follow(pairs));
        }
        if let Some(clients) = &tls.clients {
            let authorities =
                Authorities::open(clients.authorities.clone(), acceptor.clone(), Arc::clone(metrics))?;
            doors.push(follow(authorities));
        }
        Ok(Self { certificates, acceptor, doors: doors.into() })
    }

    /// Looks at all files now.
    pub async fn reload(&self) {
        for door in self.doors.iter() {
            let (done, seen) = oneshot::channel();
            if door.send(done).await.is_ok() {
                let _ = seen.await;
            }
        }
    }
}

/// Hands the pairs of one folder on to another, for as long as it is polled; for a process that may read the first one, and
/// another that may not. The error says why that is not possible.
pub async fn feed(from: &Path, to: &Path) -> Result<(), String> {
    if !to.is_dir() {
        return Err(format!("{} is no folder", to.display()));
    }
    let drawer = Some(Drawer::handed_over(to));
    let metrics = Arc::new(Metrics::default());
    let place = Place::Folder(from.to_owned());
    let (wake, mut asked) = (Arc::new(Notify::new()), mpsc::channel(1).1);
    let pairs = Pairs::new(place, Certificates::new(false), drawer, false, metrics);
    keep_looking(Arc::new(Mutex::new(pairs)), wake, &mut asked).await;
    Ok(())
}

/// Looks at something for as long as the process lives; who wants it looked at now comes through the door.
fn follow<S: Subject>(subject: S) -> mpsc::Sender<oneshot::Sender<()>> {
    let (door, mut asked) = mpsc::channel(WISHES_MAX);
    tokio::spawn(async move {
        keep_looking(Arc::new(Mutex::new(subject)), Arc::new(Notify::new()), &mut asked).await;
    });
    door
}

async fn keep_looking<S: Subject>(
    subject: Arc<Mutex<S>>,
    wake: Arc<Notify>,
    asked: &mut mpsc::Receiver<oneshot::Sender<()>>,
) {
    let watch = Arc::new(Mutex::new(Watch::new(Arc::clone(&wake))));
    let mut wish: Option<oneshot::Sender<()>> = None;
    let mut tries = 0;
    loop {
        let forced = wish.is_some();
        let (subject, watch) = (Arc::clone(&subject), Arc::clone(&watch));
        let looked = tokio::task::spawn_blocking(move || {
            let mut subject = lock(&subject);
            // Watched first and read then: what changes in between is heard.
            lock(&watch).follow(subject.trail());
            subject.look(forced)
        });
        let wait = match looked.await {
            Ok(Looked::Settled) => {
                tries = 0;
                POLL_INTERVAL
            }
            Ok(Looked::Unsettled) => {
                tries = 1;
                RETRY_WAITS.first().copied().unwrap_or(POLL_INTERVAL)
            }
            Ok(Looked::StillUnsettled) => {
                tries += 1;
                RETRY_WAITS.get(tries - 1).copied().unwrap_or(POLL_INTERVAL)
            }
            Err(error) => {
                tracing::error!(%error, "looking at certificate files failed; what is served does not change");
                POLL_INTERVAL
            }
        };
        if let Some(wish) = wish.take() {
            let _ = wish.send(());
        }
        tokio::select! {
            () = wake.notified() => until_quiet(&wake).await,
            () = tokio::time::sleep(wait) => {}
            Some(next) = asked.recv() => wish = Some(next),
        }
    }
}

async fn until_quiet(wake: &Notify) {
    let began = clock::monotonic();
    while began.elapsed() < LOUD_MAX {
        if tokio::time::timeout(QUIET_WAIT, wake.notified()).await.is_err() {
            return;
        }
    }
}
