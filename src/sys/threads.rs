//! How many threads the system lets this process have.

use std::io;
use std::sync::Mutex;
use std::thread::{self, Builder};

use super::sync::lock;

/// Whether so many threads more can run at once. They have ended when this returns.
pub fn can_start(count: usize) -> io::Result<()> {
    let gate = Mutex::new(());
    thread::scope(|scope| {
        // Nobody gets through before all have been started, or one was refused.
        let _closed = lock(&gate);
        (0..count).try_for_each(|_| Builder::new().spawn_scoped(scope, || drop(lock(&gate))).map(drop))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_can_be_started_and_none_at_all() {
        assert!(can_start(4).is_ok() && can_start(0).is_ok());
    }
}
