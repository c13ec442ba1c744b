//! Scenarios: the real binary over real sockets, before a scripted Hub and before real registries, with real clients.
#![allow(clippy::disallowed_methods, reason = "tests measure and read the environment for themselves")]
#![allow(clippy::cast_possible_truncation, reason = "the sizes of tests are small")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by a panic"
)]

mod blackbox;
mod support;

mod abuse;
mod acme;
mod budget;
mod certificates;
mod clients;
mod conformance;
mod crash;
mod disk;
mod documents;
mod drain;
mod failure;
mod faults;
mod fills;
mod flights;
mod gate;
mod limits;
mod model;
mod operate;
mod reach;
mod reload;
mod rot;
mod service;
mod sidecar;
mod smoke;
mod tags;
mod trouble;
mod turns;
mod volumes;
