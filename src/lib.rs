//! tidegate: a Docker Hub pull-through mirror with an HTTPS edge.
//!
//! A request travels from the top of this list to its bottom, and nothing below calls upwards:
//!
//! * `edge` owns sockets: listener, TLS, HTTP, limits, drain.
//! * `engine` decides and fills: a request becomes a plan, a plan becomes an outcome.
//! * `index`, `store` and `upstream` are what the engine stands on.
//! * [`sys`] is the only place with a clock, entropy, mapped memory and raw system calls.
//!
//! [`registry`] is the OCI protocol as values: it does no I/O, depends on nothing and may be used by all.
//! `observe` (logs, metrics, health) is handed in from the side; `config` is read once, before anything starts.

pub mod cli;
pub mod config;
pub mod edge;
pub mod engine;
pub mod index;
pub mod observe;
pub mod registry;
pub mod store;
pub mod sys;
#[cfg(any(test, fuzzing))]
pub mod untrusted;
pub mod upstream;
