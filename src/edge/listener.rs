//! Listeners: one address, all addresses, or a Unix socket.

use std::fmt;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, UnixListener};

use super::limits::{BACKLOG, SILENCE_MAX};
use super::socket::Stream;
use crate::config::Listen;
use crate::sys::entropy;

/// Pause after an accept that failed for want of descriptors or memory; without it the loop would spin.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(50);

/// Lets every segment pass but one that asks for a connection: SYN without ACK (RFC 9293 section 3.1: bits 1 and 4 of byte
/// 13). In the kernel's classic filter language: load, mask, compare, drop, take.
const NO_SYN: [SockFilter; 5] = [
    SockFilter::new(0x30, 0, 0, 13),
    SockFilter::new(0x54, 0, 0, 0x12),
    SockFilter::new(0x15, 0, 1, 0x02),
    SockFilter::new(0x06, 0, 0, 0),
    SockFilter::new(0x06, 0, 0, u32::MAX),
];

/// A bound listener.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// Unix; the path is removed at the end.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Binds. The error says what was tried, and what can be done.
    pub fn bind(listen: &Listen) -> Result<Self, String> {
        let bound = match listen {
            Listen::Tcp(address) => tcp(*address).map(Self::Tcp),
            Listen::Anywhere(port) => anywhere(*port).map(Self::Tcp),
            Listen::Unix(path) => unix(path).map(|listener| Self::Unix(listener, path.clone())),
        };
        bound.map_err(|error| format!("can't listen on {}: {error}{}", shown(listen), advice(&error)))
    }

    /// Binds a Unix socket for its owner, and for its group if that is wanted; its folder is made if it is missing.
    pub fn bind_private(path: &Path, group: bool) -> Result<Self, String> {
        let bind = || {
            if let Some(folder) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
            }
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            // Under another name until its mode is right: nobody else connects in between.
            let aside = path.with_extension(entropy::hex());
            let listener = UnixListener::bind(&aside)?;
            let mode = if group { 0o660 } else { 0o600 };
            let placed = std::fs::set_permissions(&aside, Permissions::from_mode(mode))
                .and_then(|()| std::fs::rename(&aside, path));
            placed.inspect_err(|_| drop(std::fs::remove_file(&aside)))?;
            Ok(Self::Unix(listener, path.to_owned()))
        };
        bind().map_err(|error: io::Error| format!("{}: {error}", path.display()))
    }

    /// Has the system take no new connection, so that what is left to be accepted comes to an end. A client that asks for
    /// one hears nothing; it asks again after a second, and finds the port closed.
    pub fn take_no_more(&self) {
        if let Self::Tcp(listener) = self
            && let Err(error) = SockRef::from(listener).attach_filter(&NO_SYN)
        {
            tracing::debug!(%error, "connections that come at the very end may be reset");
        }
    }

    /// The next connection and the peer's address, which one on a Unix socket has not. `None`: it was gone before it was here, or the
    /// machine is out of something, after a pause.
    pub async fn accept(&self) -> Option<(Stream, Option<IpAddr>)> {
        let accepted = match self {
            Self::Tcp(listener) => listener.accept().await.map(|(tcp, peer)| {
                tune(&tcp);
                (Stream::Tcp(tcp), Some(peer.ip().to_canonical()))
            }),
            Self::Unix(listener, _) => listener.accept().await.map(|(unix, _)| (Stream::Unix(unix), None)),
        };
        match accepted {
            Ok(accepted) => Some(accepted),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                ) =>
            {
                None
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(EXHAUSTED_WAIT).await;
                None
            }
        }
    }
}

/// As `registry` prints it: `[::]:5000`.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => write!(f, "{address}"),
                Err(_) => f.write_str("an unknown address"),
            },
            Self::Unix(_, path) => write!(f, "{}", path.display()),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// IPv6 and IPv4 at once; IPv4 alone on a machine that has no IPv6.
fn anywhere(port: u16) -> io::Result<TcpListener> {
    match tcp((Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(error)
            if error.kind() != io::ErrorKind::AddrInUse
                && error.kind() != io::ErrorKind::PermissionDenied =>
        {
            tcp((Ipv4Addr::UNSPECIFIED, port).into())
        }
        bound => bound,
    }
}

/// Takes the place of a socket that nobody listens on any more.
fn unix(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        bound => bound,
    }
}

/// A peer that is gone must not hold its place; a small answer must not wait. Failing to tune is no reason not to serve.
fn tune(tcp: &tokio::net::TcpStream) {
    let socket = SockRef::from(tcp);
    let _ = tcp.set_nodelay(true);
    let _ = socket.set_tcp_user_timeout(Some(SILENCE_MAX));
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(SILENCE_MAX));
}

fn shown(listen: &Listen) -> String {
    match listen {
        Listen::Anywhere(port) => format!(":{port}"),
        Listen::Tcp(address) => address.to_string(),
        Listen::Unix(path) => path.display().to_string(),
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another process has it: `ss -ltnp` names it",
        io::ErrorKind::PermissionDenied => "; ports below 1024 want root or CAP_NET_BIND_SERVICE",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_with_what_to_do() {
        let first = Listener::bind(&Listen::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let address: SocketAddr = first.to_string().parse().unwrap();
        let error = Listener::bind(&Listen::Tcp(address)).unwrap_err();
        assert!(error.contains(&address.to_string()) && error.contains("ss -ltnp"), "{error}");
    }

    #[tokio::test]
    async fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let live = Listener::bind(&Listen::Unix(path.clone())).unwrap();
        assert!(Listener::bind(&Listen::Unix(path.clone())).is_err());
        drop(live);
        assert!(!path.exists());
    }
}
