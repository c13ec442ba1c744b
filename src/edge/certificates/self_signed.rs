//! A certificate for those who have none: signed by a CA of its own, which clients can be told to trust.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use x509_parser::pem::Pem;

use super::pair::fingerprint;
use crate::sys::{clock, files};

/// How long the CA is valid: clients are told of it once.
const AUTHORITY_LIFE: Duration = Duration::from_secs(3650 * 24 * 3600);

/// How long the certificate is: some clients take no longer ones.
const LEAF_LIFE: Duration = Duration::from_secs(397 * 24 * 3600);

/// How far back both begin, for clients whose clocks are behind.
const BACKDATED: Duration = Duration::from_secs(3600);

/// How our CAs are called, with a part of the hash of their keys.
const AUTHORITY_NAME: &str = "tidegate CA ";

/// The pair in the folder that is served.
const CERTIFICATE: &str = "fullchain.pem";
const KEY: &str = "privkey.pem";

/// What was made.
#[derive(Debug)]
pub struct SelfSigned {
    /// The CA that clients must trust.
    pub authority: PathBuf,
    /// The certificate with its chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Makes a pair in `out` for these names. The CA is taken from `authority`, or made there, which must be another folder: its
/// key is nothing to serve. A pair that is not ours is left alone.
pub fn self_signed(out: &Path, authority: &Path, names: &[String]) -> Result<SelfSigned, String> {
    let at = |path: &Path| {
        let shown = path.display().to_string();
        move |error: io::Error| format!("{shown}: {error}")
    };
    let made = SelfSigned {
        authority: authority.join("ca.pem"),
        certificate: out.join(CERTIFICATE),
        key: out.join(KEY),
    };
    refuse_to_replace(&made)?;
    DirBuilder::new().recursive(true).mode(0o700).create(authority).map_err(at(authority))?;
    fs::create_dir_all(out).map_err(at(out))?;
    if fs::canonicalize(out).map_err(at(out))? == fs::canonicalize(authority).map_err(at(authority))? {
        return Err("the CA must not be in the folder that is served".to_owned());
    }
    let (ours, issuer) = issuer(authority, &made.authority)?;
    let (leaf, key) = leaf(names, &issuer)?;
    let chain = format!("{}{ours}", leaf.pem());
    files::write_whole(&made.key, key.serialize_pem().as_bytes(), 0o600, None, true)
        .map_err(at(&made.key))?;
    files::write_whole(&made.certificate, chain.as_bytes(), 0o644, None, true)
        .map_err(at(&made.certificate))?;
    Ok(made)
}

/// Somebody else's certificate must not be lost.
fn refuse_to_replace(made: &SelfSigned) -> Result<(), String> {
    let foreign = |path: &Path| {
        format!("{} is there and was not made by this command: move it away first", path.display())
    };
    if let Ok(text) = fs::read(&made.certificate) {
        let issuer = Pem::iter_from_buffer(&text).flatten().next();
        let issuer = issuer.and_then(|pem| pem.parse_x509().ok().map(|found| found.issuer().to_string()));
        if !issuer.is_some_and(|issuer| issuer.contains(AUTHORITY_NAME)) {
            return Err(foreign(&made.certificate));
        }
    } else if made.key.exists() {
        return Err(foreign(&made.key));
    }
    Ok(())
}

/// The CA's certificate, and what signs in its name. All that is kept of it is its key, of which the rest follows.
fn issuer(folder: &Path, path: &Path) -> Result<(String, Issuer<'static, KeyPair>), String> {
    let key_path = folder.join("ca-key.pem");
    let failed = |path: &Path, reason: &dyn std::fmt::Display| format!("{}: {reason}", path.display());
    let key = match fs::read_to_string(&key_path) {
        Ok(text) => KeyPair::from_pem(&text).map_err(|error| failed(&key_path, &error))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = KeyPair::generate().map_err(|error| failed(&key_path, &error))?;
            files::write_whole(&key_path, key.serialize_pem().as_bytes(), 0o600, None, true)
                .map_err(|error| failed(&key_path, &error))?;
            key
        }
        Err(error) => return Err(failed(&key_path, &error)),
    };
    let mut ours = CertificateParams::new(Vec::new()).map_err(|error| failed(path, &error))?;
    let print = fingerprint(key.public_key_raw());
    let name = format!("{AUTHORITY_NAME}{}", print.get(..16).unwrap_or_default());
    ours.distinguished_name = rcgen::DistinguishedName::new();
    ours.distinguished_name.push(DnType::CommonName, name);
    ours.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ours.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    between(&mut ours, AUTHORITY_LIFE);
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(_) => {
            let text = ours.self_signed(&key).map_err(|error| failed(path, &error))?.pem();
            files::write_whole(path, text.as_bytes(), 0o644, None, true)
                .map_err(|error| failed(path, &error))?;
            text
        }
    };
    Ok((text, Issuer::new(ours, key)))
}

fn leaf(names: &[String], issuer: &Issuer<'static, KeyPair>) -> Result<(Certificate, KeyPair), String> {
    let wrong = |error: rcgen::Error| format!("{}: {error}", names.join(", "));
    let mut leaf = CertificateParams::new(names).map_err(wrong)?;
    leaf.distinguished_name = rcgen::DistinguishedName::new();
    leaf.distinguished_name.push(DnType::CommonName, names.first().cloned().unwrap_or_default());
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    between(&mut leaf, LEAF_LIFE);
    let key = KeyPair::generate().map_err(wrong)?;
    let signed = leaf.signed_by(&key, issuer).map_err(wrong)?;
    Ok((signed, key))
}

fn between(certificate: &mut CertificateParams, life: Duration) {
    let now = clock::now();
    certificate.not_before = now.checked_sub(BACKDATED).unwrap_or(now).into();
    certificate.not_after = (now + life).into();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::certificates::Pair;

    #[test]
    fn a_pair_is_made_and_made_again_by_the_same_ca() {
        let home = tempfile::tempdir().unwrap();
        let (out, authority) = (home.path().join("certs"), home.path().join("ca"));
        let names = ["mirror.test".to_owned(), "10.0.0.1".to_owned()];
        let made = self_signed(&out, &authority, &names).unwrap();
        let pair = |made: &SelfSigned| {
            let (chain, key) = (fs::read(&made.certificate).unwrap(), fs::read(&made.key).unwrap());
            Pair::from_pem(&chain, &key, "x").unwrap()
        };
        let first = pair(&made);
        assert_eq!((first.names(), first.is_complete()), (names.as_slice(), true));
        assert_eq!(first.certified().cert.len(), 2);
        let trusted = fs::read(&made.authority).unwrap();
        let second = pair(&self_signed(&out, &authority, &names).unwrap());
        assert_ne!(second.fingerprint(), first.fingerprint());
        assert_eq!(second.issuer(), first.issuer());
        assert_eq!(fs::read(&made.authority).unwrap(), trusted);
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let (out, authority) = (home.path().join("certs"), home.path().join("ca"));
        fs::create_dir(&out).unwrap();
        let foreign = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        fs::write(out.join(CERTIFICATE), foreign.cert.pem()).unwrap();
        let refused = self_signed(&out, &authority, &["a.test".to_owned()]).unwrap_err();
        assert!(refused.contains("move it away"), "{refused}");
        assert!(self_signed(&home.path().join("x"), &home.path().join("x"), &[]).is_err());
    }
}
