//! Real clients before a real registry: every named client pulls every test image through the mirror, over HTTP and over
//! HTTPS, and again with the upstream stopped and the mirror restarted.

mod buildah;
mod containerd;
mod docker;
mod documented;
pub mod peers;
mod podman;
mod rough;
mod skopeo;

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

use crate::support::mirror::{Mirror, Setup};
use crate::support::network::{OUTSIDE, Outside};
use crate::support::tls::{self, Pair};
use peers::{Shelf, Upstream};

/// Daemons and mounts: one at a time.
static TURN: Mutex<()> = Mutex::const_new(());

/// A registry with the test images, and a mirror of it.
struct Scene {
    upstream: Upstream,
    shelf: Shelf,
    mirror: Mirror,
    authority: Option<PathBuf>,
    folder: TempDir,
    _pair: Option<Pair>,
    _outside: Outside,
    _turn: MutexGuard<'static, ()>,
}

/// How the mirror is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

const SCHEMES: [Scheme; 2] = [Scheme::Http, Scheme::Https];

impl Scene {
    async fn new(scheme: Scheme) -> Self {
        let turn = TURN.lock().await;
        let upstream = Upstream::start().await;
        let shelf = Shelf::fill(&upstream.url).await;
        let pair = (scheme == Scheme::Https).then(tls::pair);
        let outside = Outside::add();
        let setup = Setup::of(&upstream.url)
            .with("TIDEGATE_PROXY_NAME", "docker.io")
            .with("REGISTRY_HTTP_ADDR", &format!("{OUTSIDE}:0"));
        let setup = match &pair {
            Some(pair) => setup
                .with("REGISTRY_HTTP_TLS_CERTIFICATE", pair.certificate.to_str().unwrap())
                .with("REGISTRY_HTTP_TLS_KEY", pair.key.to_str().unwrap()),
            None => setup,
        };
        let authority = pair.as_ref().map(|pair| pair.authority.clone());
        let folder = TempDir::new().unwrap();
        Self {
            upstream,
            shelf,
            mirror: setup.start(),
            authority,
            folder,
            _pair: pair,
            _outside: outside,
            _turn: turn,
        }
    }

    /// Stops the upstream, and restarts the mirror on the same address: clients keep their configuration.
    fn upstream_goes_and_mirror_restarts(self) -> Self {
        let address = self.mirror.address.clone();
        let (setup, status) = self.mirror.stop();
        assert!(status.success());
        let upstream = self.upstream.stop();
        Self { mirror: setup.with("REGISTRY_HTTP_ADDR", &address).start(), upstream, ..self }
    }

    /// `host:port` of the mirror.
    fn host(&self) -> &str {
        &self.mirror.address
    }

    fn url(&self) -> String {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.host())
    }

    /// A folder that the clients take certificates from.
    fn certificates(&self) -> Option<PathBuf> {
        self.authority.as_ref().map(|authority| authority.parent().unwrap().to_owned())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
