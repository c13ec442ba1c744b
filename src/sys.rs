//! The environment of the process: clock, entropy, files, locks, raw system calls.
//!
//! The only place where `unsafe`, a raw clock, randomness or a memory map may stand. Each submodule is a thin, safe
//! face; nothing here decides anything.

pub mod clock;
pub mod collapse;
pub mod entropy;
pub mod files;
pub mod map;
pub mod sync;
pub mod threads;
