//! The limits of the edge. Each protects the others' service from one peer.

use std::time::Duration;

/// So many open connections as are wanted, under a limit of open files: a quarter of them is left for bodies, upstreams and
/// the index.
pub fn connections_max(wanted: u32, descriptors: Option<u64>) -> usize {
    let share = descriptors.map_or(u64::MAX, |descriptors| descriptors / 4 * 3);
    usize::try_from(share.min(u64::from(wanted))).unwrap_or(usize::MAX)
}

/// Connections that wait to be accepted: a farm starts its jobs at the same second.
pub const BACKLOG: i32 = 4096;

/// How long a balancer may take to say whose connection it is.
pub const PROXY_HEADER_WAIT: Duration = Duration::from_secs(5);

/// How long a TLS handshake may take.
pub const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);

/// How long a connection may wait for the whole head of its next request; so the longest idle time, too. Clients open a
/// new connection without a word when they find one closed.
pub const HEAD_WAIT: Duration = Duration::from_secs(30);

/// How long a listener that is about to close waits for one more connection that the system has accepted.
pub const LAST_CALL_WAIT: Duration = Duration::from_millis(20);

/// How long a connection that was told to end may do nothing before it is closed: an HTTP/2 client that is silent, or one
/// in the middle of a head.
pub const FAREWELL_WAIT: Duration = Duration::from_secs(1);

/// Bytes of the head of a request. Real ones have about 1 KiB; podman's longest `Range` has 20 KiB.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Requests at once on one HTTP/2 connection.
pub const STREAMS_MAX: u32 = 128;

/// How often an HTTP/2 peer is asked whether it is still there, and how long it may take to answer.
pub const PING_INTERVAL: Duration = Duration::from_secs(20);

/// How long sent bytes may stay unacknowledged, and a peer silent, before the system gives a connection up.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);

/// How long a backend may take for a connection.
pub const BACKEND_CONNECT_WAIT: Duration = Duration::from_secs(5);

/// How long a backend may give no sign, and take none: it hashes and moves a layer of many GiB before it answers the end of
/// a push.
pub const BACKEND_SILENCE_MAX: Duration = Duration::from_secs(300);

/// How long an unused connection to a backend is kept.
pub const BACKEND_IDLE_WAIT: Duration = Duration::from_secs(30);

/// Requests that are with a backend at once, each on a connection of its own.
pub const BACKEND_REQUESTS_MAX: usize = 4096;

/// The same beside so many connections of clients: a quarter of the open files is left for the rest, and half of that is
/// for these.
pub fn backend_requests_max(connections_max: usize) -> usize {
    (connections_max / 6).clamp(1, BACKEND_REQUESTS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_rest() {
        assert_eq!(connections_max(20_000, None), 20_000);
        assert_eq!(connections_max(20_000, Some(1 << 20)), 20_000);
        assert_eq!(connections_max(20_000, Some(1024)), 768);
        assert_eq!(connections_max(100, Some(1024)), 100);
        assert_eq!(connections_max(20_000, Some(0)), 0);
    }
}
