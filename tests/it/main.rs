//! Scenarios: the real binary over real sockets, before a scripted Hub and before real registries, with real clients.
#![allow(clippy::disallowed_methods, reason = "tests measure and read the environment for themselves")]
#![allow(clippy::cast_possible_truncation, reason = "the sizes of tests are small")]

mod support;

mod smoke;
