//! The environment of the process: clock, entropy, raw system calls.
//!
//! The only place where `unsafe`, a raw clock, randomness or a memory map may stand. Each submodule is a thin, safe
//! face; nothing here decides anything.

pub mod clock;
pub mod entropy;
pub mod files;
pub mod map;
pub mod sync;
