//! Many swaps under load.
