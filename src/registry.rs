//! The OCI distribution protocol as values.
//!
//! Everything that arrives as text (a path, a header, a manifest) is parsed here into a type whose existence is the
//! proof that the text was well formed; everything further in works with the type. Nothing here does I/O, knows the
//! time, or depends on another module of the crate, so all of it is tested by values alone.
//!
//! Bytes of manifests stay opaque: they are looked into for what they name, never written again.

pub mod digest;
pub mod media_type;
pub mod name;
pub mod reference;

pub use digest::{Algorithm, Digest, Hasher};
pub use media_type::MediaType;
pub use name::RepositoryName;
pub use reference::{Reference, Tag};
