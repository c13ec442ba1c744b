//! What can be seen from outside: logs, metrics, health. Handed in from the side; nothing here decides anything.

pub mod access;
pub mod health;
pub mod lines;
pub mod log;
pub mod metrics;
