//! The OCI distribution protocol as values.
//!
//! Everything that arrives as text (a path, a header, a manifest) is parsed here into a type whose existence is the
//! proof that the text was well formed; everything further in works with the type. Nothing here does I/O, knows the
//! time, or depends on another module of the crate, so all of it is tested by values alone.
//!
//! Bytes of manifests stay opaque: they are looked into for what they name, never written again.

pub mod digest;
pub mod fault;
pub mod manifest;
pub mod media_type;
pub mod name;
pub mod pattern;
pub mod range;
pub mod reference;
pub mod route;

pub use digest::{Algorithm, Digest, Hasher};
pub use fault::{Code, Fault};
pub use manifest::Manifest;
pub use media_type::MediaType;
pub use name::RepositoryName;
pub use pattern::Pattern;
pub use range::ByteRange;
pub use reference::{Reference, Tag};
