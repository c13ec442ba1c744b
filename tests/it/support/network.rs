//! An address that is not 127.0.0.0/8, which dockerd takes for insecure whatever it is told.

use std::process::Command;

/// From the block for documentation (RFC 5737), so that nobody misses it.
pub const OUTSIDE: &str = "198.51.100.1";

/// [`OUTSIDE`] on the loopback interface, as long as this lives.
pub struct Outside(());

impl Outside {
    /// Adds the address; one at a time.
    pub fn add() -> Self {
        change("replace");
        Self(())
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        change("del");
    }
}

fn change(how: &str) {
    let address = format!("{OUTSIDE}/32");
    let changed = Command::new("ip").args(["address", how, &address, "dev", "lo"]).status();
    let changed = changed.expect("ip is needed by the tests (tests/run installs iproute2)");
    assert!(changed.success() || std::thread::panicking(), "ip address {how} {address}: {changed}");
}
