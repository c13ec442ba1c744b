//! The folder of `registry` 3's own client (Go's autocert): its account and its certificates are taken over, and the folder is
//! left as it is, so that `registry` finds it again.

use std::io;
use std::path::Path;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use crate::config::DnsName;
use crate::sys::files;

/// Longest file that is read.
const FILE_BYTES_MAX: usize = 256 * 1024;

/// Where autocert has its account, today and before 2018.
const ACCOUNTS: [&str; 2] = ["acme_account+key", "acme_account.key"];

/// The key of the account: PKCS #8, DER; nothing if there is none that can be used.
pub fn account(folder: &Path) -> Option<Vec<u8>> {
    ACCOUNTS.iter().find_map(|file| {
        let pem = read(&folder.join(file)).ok().flatten()?;
        let key = PrivateKeyDer::from_pem_slice(&pem).ok()?;
        let pair =
            EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_der()).ok()?;
        Some(pair.to_pkcs8v1().ok()?.as_ref().to_vec())
    })
}

/// The certificate for a name with its key, PEM; that of ECDSA, or else of RSA.
pub fn pair(folder: &Path, name: &DnsName) -> Option<Vec<u8>> {
    let files = [name.to_string(), format!("{name}+rsa")];
    files.iter().find_map(|file| read(&folder.join(file)).ok().flatten())
}

/// `registry` 2 had a file there, for a protocol that no CA speaks any more.
pub fn is_outdated(folder: &Path) -> bool {
    folder.is_file()
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let Some(file) = files::open_regular(path)? else { return Ok(None) };
    Ok(Some(files::read_at(&file, 0, FILE_BYTES_MAX)?.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der};
    use base64::Engine;

    /// As Go's `pem.Encode` writes what `x509.MarshalECPrivateKey` gives.
    fn written_by_go() -> String {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let der: EcPrivateKeyRfc5915Der<'_> = pair.private_key().as_der().unwrap();
        let text = base64::prelude::BASE64_STANDARD.encode(der.as_ref());
        let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN EC PRIVATE KEY-----\n{}\n-----END EC PRIVATE KEY-----\n", lines.join("\n"))
    }

    #[test]
    fn the_account_of_autocert_becomes_ours() {
        let folder = tempfile::tempdir().unwrap();
        assert!(account(folder.path()).is_none());
        std::fs::write(folder.path().join("acme_account+key"), written_by_go()).unwrap();
        let key = account(folder.path()).unwrap();
        assert!(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key).is_ok());
        std::fs::write(folder.path().join("acme_account+key"), "nonsense").unwrap();
        assert!(account(folder.path()).is_none());
    }

    #[test]
    fn certificates_are_found_by_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let name = "mirror.test".parse().unwrap();
        assert_eq!(pair(folder.path(), &name), None);
        std::fs::write(folder.path().join("mirror.test+rsa"), "rsa").unwrap();
        assert_eq!(pair(folder.path(), &name).as_deref(), Some(&b"rsa"[..]));
        std::fs::write(folder.path().join("mirror.test"), "ecdsa").unwrap();
        assert_eq!(pair(folder.path(), &name).as_deref(), Some(&b"ecdsa"[..]));
        assert!(is_outdated(&folder.path().join("mirror.test")) && !is_outdated(folder.path()));
    }
}
