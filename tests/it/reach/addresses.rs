//! An upstream whose name has two addresses, one of which stops working.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::clients::peers::{Shelf, Upstream};
use crate::support::mirror::Setup;
use crate::support::pull::get;

/// Bytes that go through the first address that is asked for many, before it breaks for good.
const BREAKS_AFTER: usize = 5_000_000;

const ADDRESSES: [[u8; 4]; 2] = [[127, 0, 5, 2], [127, 0, 5, 3]];

/// Two doors to one server on one port. One of them breaks in the middle of a body; from then on it takes connections
/// and closes them without a word.
#[derive(Default)]
struct Doors {
    target: String,
    broken: OnceLock<usize>,
    /// Connections that each took, and those that found the broken one so.
    taken: [AtomicUsize; 2],
    in_vain: AtomicUsize,
}

impl Doors {
    /// Opens both; gives the port.
    async fn open(target: &str) -> (Arc<Self>, u16) {
        let doors = Arc::new(Self { target: target.to_owned(), ..Self::default() });
        let first = TcpListener::bind(SocketAddr::from((ADDRESSES[0], 0))).await.unwrap();
        let port = first.local_addr().unwrap().port();
        let second = TcpListener::bind(SocketAddr::from((ADDRESSES[1], port))).await.unwrap();
        for (at, listener) in [first, second].into_iter().enumerate() {
            tokio::spawn(Arc::clone(&doors).accept(at, listener));
        }
        (doors, port)
    }

    async fn accept(self: Arc<Self>, at: usize, listener: TcpListener) {
        while let Ok((client, _)) = listener.accept().await {
            if self.broken.get() == Some(&at) {
                self.in_vain.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            self.taken[at].fetch_add(1, Ordering::SeqCst);
            let doors = Arc::clone(&self);
            tokio::spawn(async move { doors.carry(at, client).await });
        }
    }

    async fn carry(&self, at: usize, mut client: TcpStream) -> std::io::Result<()> {
        let mut server = TcpStream::connect(&self.target).await?;
        let ((mut asks, mut answers), (mut from, mut to)) = (client.split(), server.split());
        let back = async {
            let (mut piece, mut carried) = (vec![0; 64 * 1024], 0);
            loop {
                let length = from.read(&mut piece).await?;
                answers.write_all(&piece[..length]).await?;
                carried += length;
                let breaks = carried > BREAKS_AFTER && *self.broken.get_or_init(|| at) == at;
                if length == 0 || breaks {
                    return Ok(());
                }
            }
        };
        tokio::select! {
            _ = tokio::io::copy(&mut asks, &mut to) => Ok(()),
            ended = back => ended,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_breaks_off_goes_on_at_another_address_of_its_name() {
    let upstream = Upstream::start().await;
    let shelf = Shelf::fill(&upstream.url).await;
    let (doors, port) = Doors::open(upstream.url.trim_start_matches("http://")).await;
    // Names of the machine's own are none of a test's business: the mirror sees a file that nobody else does.
    let folder = tempfile::tempdir().unwrap();
    let hosts = folder.path().join("hosts");
    let lines: Vec<_> =
        ADDRESSES.iter().map(|[a, b, c, d]| format!("{a}.{b}.{c}.{d} two-doors.test\n")).collect();
    std::fs::write(&hosts, lines.concat()).unwrap();
    let mount = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    let setup = Setup::of(&format!("http://two-doors.test:{port}"));
    let mirror = setup.under(&["unshare", "--mount", "sh", "-c", mount, hosts.to_str().unwrap()]).start();
    let (repository, digest) =
        shelf.images.iter().find(|(repository, _)| *repository == "library/docker").unwrap();
    let manifest = get(&mirror.url(&format!("/v2/{repository}/manifests/{digest}"))).await;
    let layer = manifest.json()["layers"][0]["digest"].as_str().unwrap().to_owned();
    let answer = get(&mirror.url(&format!("/v2/{repository}/blobs/{layer}"))).await;
    assert_eq!((answer.status, answer.whole, answer.digest()), (200, true, layer));
    let broken = *doors.broken.get().expect("no address broke off");
    assert!(doors.taken[1 - broken].load(Ordering::SeqCst) >= 1, "the other address was not asked");
    // The one that broke off is tried last, so nobody came to it in vain.
    assert_eq!(doors.in_vain.load(Ordering::SeqCst), 0);
}
