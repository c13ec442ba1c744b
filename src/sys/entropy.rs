//! Random bytes, for names that nobody can guess and waits that nobody shares.

use aws_lc_rs::rand;

/// Sixteen lower-case hex digits.
pub fn hex() -> String {
    format!("{:016x}", number())
}

/// A number from the whole range.
pub fn number() -> u64 {
    let mut bytes = [0; 8];
    // The generator fails only before the kernel's own is seeded; a name of zeros still works then.
    let _ = rand::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}
