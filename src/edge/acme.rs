//! ACME (draft essay).
pub mod schedule;
