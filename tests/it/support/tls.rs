//! A CA of the tests, and a pair that it signed.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use super::network::OUTSIDE;

/// Files of a CA and of a server for localhost, 127.0.0.1 and [`OUTSIDE`].
pub struct Pair {
    _folder: TempDir,
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Makes a CA, and with it a pair.
pub fn pair() -> Pair {
    let mut ours = CertificateParams::new(vec![]).unwrap();
    ours.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ours.distinguished_name.push(rcgen::DnType::CommonName, "tidegate test CA");
    let authority = CertifiedIssuer::self_signed(ours, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = ["localhost", "127.0.0.1", OUTSIDE].map(str::to_owned);
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
    let folder = TempDir::new().unwrap();
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let certificate = write("fullchain.pem", format!("{}{}", leaf.pem(), authority.pem()));
    let (authority, key) = (write("ca.crt", authority.pem()), write("privkey.pem", key.serialize_pem()));
    Pair { _folder: folder, authority, certificate, key }
}
