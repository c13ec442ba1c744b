//! The configuration.

pub mod secret;

pub use secret::{Account, Secret};
