//! From the files of a folder to its pairs: by public keys, whatever the files are called. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::edge::certificates::pem::Content;
use crate::edge::certificates::{Flaw, Pair, public_key};

/// What a folder gives.
#[derive(Debug, Default)]
pub struct Found {
    /// Each certificate that has a key, with its chain.
    pub pairs: Vec<Arc<Pair>>,
    /// What is wrong, by file.
    pub troubles: BTreeMap<String, String>,
    /// Files that have a private key.
    pub keys: BTreeSet<PathBuf>,
}

/// A file that was parsed.
struct Parsed {
    path: PathBuf,
    certificates: Vec<(CertificateDer<'static>, Vec<u8>)>,
    keys: Vec<PrivateKeyDer<'static>>,
}

/// Finds the pairs in the contents of files.
pub fn assemble(files: Vec<(PathBuf, Vec<u8>)>) -> Found {
    let mut found = Found::default();
    let mut parsed = Vec::new();
    for (path, bytes) in files {
        match parse(path.clone(), &bytes) {
            Ok(file) => parsed.push(file),
            Err(flaw) => drop(found.troubles.insert(path.display().to_string(), flaw.to_string())),
        }
    }
    let authorities: Vec<_> = parsed
        .iter()
        .flat_map(|file| file.certificates.iter())
        .filter(|(der, _)| is_authority(der))
        .collect();
    let authorities: Vec<_> = authorities.into_iter().map(|(der, _)| der.clone()).collect();
    let mut used = BTreeSet::new();
    for file in &parsed {
        for key in &file.keys {
            found.keys.insert(file.path.clone());
            pair_up(&file.path, key, &parsed, &authorities, &mut used, &mut found);
        }
    }
    for file in &parsed {
        let is_lonely =
            |(der, key): &(CertificateDer<'static>, Vec<u8>)| !used.contains(key) && !is_authority(der);
        if file.certificates.first().is_some_and(is_lonely) {
            let text = "no private key belongs to its certificate".to_owned();
            found.troubles.entry(file.path.display().to_string()).or_insert(text);
        }
    }
    found
}

fn parse(path: PathBuf, bytes: &[u8]) -> Result<Parsed, Flaw> {
    let content = Content::parse(bytes)?;
    if content.encrypted {
        return Err(Flaw::Encrypted);
    }
    let mut certificates = Vec::new();
    for der in content.certificates {
        let key = public_key(&der)?;
        certificates.push((der, key));
    }
    Ok(Parsed { path, certificates, keys: content.keys })
}

/// Makes a pair of each certificate that belongs to a key.
fn pair_up(
    path: &std::path::Path,
    key: &PrivateKeyDer<'static>,
    files: &[Parsed],
    authorities: &[CertificateDer<'static>],
    used: &mut BTreeSet<Vec<u8>>,
    found: &mut Found,
) {
    let trouble = |found: &mut Found, text: String| {
        found.troubles.insert(path.display().to_string(), text);
    };
    let public = any_supported_type(key).ok().and_then(|key| key.public_key().map(|key| key.to_vec()));
    let Some(public) = public else { return trouble(found, Flaw::UnusableKey.to_string()) };
    if !used.insert(public.clone()) {
        return;
    }
    // Of the files that have a certificate, the one with the longest chain is where it comes from.
    let mut leaves: BTreeMap<&[u8], &Parsed> = BTreeMap::new();
    for file in files {
        for (der, _) in file.certificates.iter().filter(|(_, its)| *its == public) {
            let best = leaves.entry(der.as_ref()).or_insert(file);
            if file.certificates.len() > best.certificates.len() {
                *best = file;
            }
        }
    }
    if leaves.is_empty() {
        trouble(found, "no certificate belongs to its private key".to_owned());
    }
    for (leaf, file) in leaves {
        let own = file.certificates.iter().map(|(der, _)| der);
        let leaf = own.clone().filter(|der| der.as_ref() == leaf);
        let all: Vec<_> = leaf.chain(own.clone()).chain(authorities).cloned().collect();
        match Pair::of(&all, key.clone_key(), file.path.display().to_string()) {
            Ok(pair) => found.pairs.push(Arc::new(pair)),
            Err(flaw) => drop(found.troubles.insert(file.path.display().to_string(), flaw.to_string())),
        }
    }
}

fn is_authority(certificate: &[u8]) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| parsed.is_ca())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    struct Made {
        leaf: String,
        issuer: String,
        key: String,
    }

    fn made(name: &str) -> Made {
        let mut authority = CertificateParams::new(vec![]).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(rcgen::DnType::CommonName, format!("authority of {name}"));
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        Made { leaf: leaf.pem(), issuer: authority.pem(), key: key.serialize_pem() }
    }

    fn folder(files: &[(&str, &str)]) -> Found {
        assemble(files.iter().map(|(name, text)| (PathBuf::from(name), text.as_bytes().to_vec())).collect())
    }

    #[track_caller]
    fn pairs(found: &Found, expected: &[(&str, &str, usize)]) {
        let mut pairs: Vec<_> = found
            .pairs
            .iter()
            .map(|pair| (pair.names()[0].as_str(), pair.origin(), pair.certified().cert.len()))
            .collect();
        pairs.sort_unstable();
        assert_eq!(pairs, expected, "{:?}", found.troubles);
    }

    #[test]
    fn pairs_are_found_whatever_their_files_are_called() {
        let (a, b, c) = (made("a.test"), made("b.test"), made("c.test"));
        let found = folder(&[
            ("README", "what this folder is for"),
            ("a.crt", &a.leaf),
            ("a.issuer.crt", &a.issuer),
            ("x", &a.key),
            ("cert.pem", &b.leaf),
            ("chain.pem", &b.issuer),
            ("fullchain.pem", &format!("{}{}", b.leaf, b.issuer)),
            ("privkey.pem", &b.key),
            ("all.pem", &format!("{}{}{}", c.key, c.issuer, c.leaf)),
        ]);
        pairs(&found, &[("a.test", "a.crt", 2), ("b.test", "fullchain.pem", 2), ("c.test", "all.pem", 2)]);
        assert!(found.troubles.is_empty(), "{:?}", found.troubles);
        assert_eq!(found.keys.len(), 3);
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        let (a, b) = (made("a.test"), made("b.test"));
        let found = folder(&[
            ("a.pem", &a.leaf),
            ("b.key", &b.key),
            ("torn.pem", &a.leaf[..300]),
            ("locked.pem", &a.key.replace("PRIVATE", "ENCRYPTED PRIVATE")),
            ("binary.der", "0\u{2}"),
        ]);
        pairs(&found, &[]);
        let of = |name: &str| found.troubles.get(name).map(String::as_str).unwrap_or_default();
        assert!(of("a.pem").contains("no private key"), "{:?}", found.troubles);
        assert!(of("b.key").contains("no certificate"));
        assert!(of("torn.pem").contains("not whole") && of("locked.pem").contains("encrypted"));
        assert_eq!(found.troubles.len(), 4);
    }

    proptest::proptest! {
        #[test]
        fn any_files_give_pairs_or_troubles(cuts in proptest::collection::vec((0_usize..1200, proptest::num::u8::ANY), 0..6)) {
            static MADE: std::sync::OnceLock<Made> = std::sync::OnceLock::new();
            let made = MADE.get_or_init(|| made("a.test"));
            let mut text = format!("{}{}{}", made.leaf, made.issuer, made.key).into_bytes();
            for (at, byte) in cuts {
                let at = at.min(text.len() - 1);
                text[at] = byte;
            }
            let half = text.len() / 2;
            let files = [("a", &text[..half]), ("b", &text[half..]), ("c", &text[..])];
            let found = assemble(files.map(|(name, text)| (PathBuf::from(name), text.to_vec())).to_vec());
            proptest::prop_assert!(!found.pairs.is_empty() || !found.troubles.is_empty());
        }
    }

    #[test]
    fn a_key_that_was_used_again_gives_both_certificates() {
        let a = made("a.test");
        let key = KeyPair::from_pem(&a.key).unwrap();
        let again = CertificateParams::new(["a.test".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        let found = folder(&[("1.pem", &a.leaf), ("2.pem", &again), ("key.pem", &a.key)]);
        pairs(&found, &[("a.test", "1.pem", 1), ("a.test", "2.pem", 1)]);
    }
}
