//! Certificates from a CA: Pebble, with a counter in front of it, and everything that a CA's bad day brings.

mod faults;
mod issuance;
mod world;
