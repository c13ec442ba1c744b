//! A self-signed certificate, for want of anything else: clients that verify refuse it, and the port answers all the same.

use std::time::Duration;

use rcgen::{CertificateParams, DnType, KeyPair};

use super::{Flaw, Pair};
use crate::sys::clock;

/// How long a stand-in is valid: longer than anybody should go without a real one, and its quarter is seen in time.
const LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

/// How far back it begins, for clients whose clocks are behind.
const BACKDATED: Duration = Duration::from_secs(24 * 3600);

/// Makes one for these names; for `localhost` if there are none.
pub fn stand_in(names: &[String]) -> Result<Pair, Flaw> {
    let names = if names.is_empty() { vec!["localhost".to_owned()] } else { names.to_vec() };
    let origin = format!("self-signed for {}", names.join(", "));
    let mut parameters = CertificateParams::new(names).map_err(|_| Flaw::NotX509)?;
    parameters.distinguished_name.push(DnType::CommonName, "tidegate stand-in, not to be trusted");
    let now = clock::now();
    parameters.not_before = now.checked_sub(BACKDATED).unwrap_or(now).into();
    parameters.not_after = (now + LIFE).into();
    let key = KeyPair::generate().map_err(|_| Flaw::UnusableKey)?;
    let made = parameters.self_signed(&key).map_err(|_| Flaw::UnusableKey)?;
    Pair::from_pem(made.pem().as_bytes(), key.serialize_pem().as_bytes(), origin)
}
