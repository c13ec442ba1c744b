use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::SignatureScheme;

use super::pem::Content;
use super::*;

const EC: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];
const RSA: &[SignatureScheme] = &[SignatureScheme::RSA_PSS_SHA256];
const BOTH: &[SignatureScheme] = &[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256];

/// A pair to be made.
struct Recipe {
    names: Vec<String>,
    from: i64,
    until: i64,
    rsa: bool,
    leaf_alone: bool,
    origin: String,
}

fn of(names: &[&str]) -> Recipe {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    let now = now();
    let (from, until) = (now - 1000, now + 1000);
    Recipe { names, from, until, rsa: false, leaf_alone: false, origin: "a.pem".to_owned() }
}

impl Recipe {
    fn during(self, from: i64, until: i64) -> Self {
        Self { from: now() + from, until: now() + until, ..self }
    }

    fn at(self, origin: &str) -> Self {
        Self { origin: origin.to_owned(), ..self }
    }

    fn texts(&self) -> (String, String) {
        let mut authority = CertificateParams::new(vec![]).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(rcgen::DnType::CommonName, "authority");
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let kind = if self.rsa { &rcgen::PKCS_RSA_SHA256 } else { &rcgen::PKCS_ECDSA_P256_SHA256 };
        let key = KeyPair::generate_for(kind).unwrap();
        let mut leaf = CertificateParams::new(self.names.clone()).unwrap();
        leaf.not_before = (UNIX_EPOCH + Duration::from_secs(self.from.unsigned_abs())).into();
        leaf.not_after = (UNIX_EPOCH + Duration::from_secs(self.until.unsigned_abs())).into();
        let leaf = leaf.signed_by(&key, &authority).unwrap();
        let issuer = if self.leaf_alone { String::new() } else { authority.pem() };
        (format!("{}{issuer}", leaf.pem()), key.serialize_pem())
    }

    fn pair(self) -> Arc<Pair> {
        let (chain, key) = self.texts();
        Arc::new(Pair::from_pem(chain.as_bytes(), key.as_bytes(), self.origin).unwrap())
    }
}

#[track_caller]
fn serves(certificates: &Certificates, name: Option<&str>, schemes: &[SignatureScheme], pair: &Arc<Pair>) {
    let table = certificates.0.table.load();
    let chosen = table.choose(name, schemes, now());
    assert!(chosen.is_some_and(|chosen| Arc::ptr_eq(chosen, pair)), "{name:?}: {chosen:?}");
}

#[test]
fn names_are_exact_or_of_one_label_and_all_others_get_the_first() {
    let certificates = Certificates::new(false);
    let (exact, wild) = (of(&["a.test"]).pair(), of(&["*.w.test"]).at("b.pem").pair());
    certificates.offer(Source::Folder, Arc::clone(&exact)).unwrap();
    certificates.offer(Source::Folder, Arc::clone(&wild)).unwrap();
    serves(&certificates, Some("a.test"), BOTH, &exact);
    serves(&certificates, Some("x.w.test"), BOTH, &wild);
    for other in [Some("w.test"), Some("y.x.w.test"), Some("unknown"), None] {
        serves(&certificates, other, BOTH, &exact);
    }
    let strict = Certificates::new(true);
    strict.offer(Source::Folder, exact).unwrap();
    assert!(strict.serving("a.test").is_some() && strict.serving("b.test").is_none());
    assert!(strict.0.table.load().choose(None, BOTH, now()).is_none());
}

#[test]
fn the_key_is_chosen_by_what_the_client_verifies() {
    let certificates = Certificates::new(false);
    let small = of(&["a.test"]).pair();
    let old = Recipe { rsa: true, ..of(&["a.test"]) }.at("rsa.pem").pair();
    certificates.renew(Source::Folder, vec![Arc::clone(&old), Arc::clone(&small)]);
    serves(&certificates, Some("a.test"), EC, &small);
    serves(&certificates, Some("a.test"), RSA, &old);
    serves(&certificates, Some("a.test"), BOTH, &small);
    assert!(certificates.0.table.load().choose(Some("a.test"), &[SignatureScheme::ED448], now()).is_none());
}

#[test]
fn of_several_the_valid_one_that_began_last_is_served_and_files_go_before_all() {
    let certificates = Certificates::new(false);
    let early = of(&["a.test"]).during(-500, 900).pair();
    let late = of(&["a.test"]).during(-100, 500).at("b.pem").pair();
    let next = of(&["a.test"]).during(100, 5000).at("c.pem").pair();
    let issued = of(&["a.test"]).during(-10, 5000).at("d.pem").pair();
    let named = of(&["a.test"]).during(-999, 5000).at("e.pem").pair();
    certificates.renew(Source::Folder, vec![early, Arc::clone(&late)]);
    assert_eq!(certificates.offer(Source::Folder, Arc::clone(&next)).unwrap_err(), Refusal::NotYet);
    certificates.offer(Source::Acme, issued).unwrap();
    serves(&certificates, Some("a.test"), BOTH, &late);
    certificates.offer(Source::Files, Arc::clone(&named)).unwrap();
    serves(&certificates, Some("a.test"), BOTH, &named);
}

#[test]
fn nothing_takes_the_place_of_something_better() {
    let certificates = Certificates::new(false);
    let good = of(&["a.test"]).pair();
    certificates.offer(Source::Folder, Arc::clone(&good)).unwrap();
    for (worse, refusal) in [
        (of(&["a.test"]).during(-500, -10), Refusal::Ended),
        (of(&["a.test"]).during(100, 500), Refusal::NotYet),
        (Recipe { leaf_alone: true, ..of(&["a.test"]) }, Refusal::LeafAlone),
    ] {
        let worse = worse.pair();
        assert_eq!(certificates.offer(Source::Folder, Arc::clone(&worse)).unwrap_err(), refusal);
        let change = certificates.renew(Source::Folder, vec![worse]);
        assert_eq!((change.refused.len(), change.removed.len()), (1, 0));
        serves(&certificates, Some("a.test"), BOTH, &good);
    }
    // With nothing better, something is better than nothing.
    let empty = Certificates::new(false);
    let ended = of(&["a.test"]).during(-500, -10).pair();
    empty.offer(Source::Files, Arc::clone(&ended)).unwrap();
    serves(&empty, Some("a.test"), BOTH, &ended);
}

#[test]
fn a_name_keeps_its_valid_certificate_until_it_is_withdrawn() {
    let certificates = Certificates::new(false);
    let (first, second) = (of(&["a.test"]).pair(), of(&["b.test"]).pair());
    certificates.renew(Source::Folder, vec![Arc::clone(&first)]);
    let change = certificates.renew(Source::Folder, vec![Arc::clone(&second)]);
    assert!(change.is_change() && change.retained.len() == 1 && change.lost.is_empty());
    let generation = certificates.generation();
    serves(&certificates, Some("a.test"), BOTH, &first);
    serves(&certificates, Some("b.test"), BOTH, &second);
    assert_eq!(certificates.renew(Source::Folder, vec![]).retained.len(), 1);
    assert_eq!(certificates.of(Source::Folder).len(), 2);
    let lost = certificates.withdraw(Source::Folder, "a.pem").lost;
    assert_eq!(lost, ["a.test", "b.test"]);
    assert_ne!(certificates.generation(), generation);
    assert!(certificates.listing().is_empty());
}

#[test]
fn a_new_certificate_for_the_same_names_takes_the_place_of_the_old_one() {
    let certificates = Certificates::new(false);
    certificates.offer(Source::Acme, of(&["a.test"]).pair()).unwrap();
    let generation = certificates.generation();
    let new = of(&["a.test"]).during(-5, 9000).pair();
    let change = certificates.offer(Source::Acme, Arc::clone(&new)).unwrap();
    assert_eq!((change.added.len(), change.removed.len()), (1, 1));
    assert_eq!(certificates.of(Source::Acme).len(), 1);
    // Who resumes a session has seen a certificate of this name.
    assert_eq!(certificates.generation(), generation);
    assert!(!certificates.offer(Source::Acme, new).unwrap().is_change());
}

#[test]
fn a_stand_in_is_served_only_while_there_is_nothing_else() {
    let certificates = Certificates::new(false);
    let stand_in = Arc::new(stand_in(&["a.test".to_owned()]).unwrap());
    assert!(stand_in.is_valid(now()) && !stand_in.is_old(now()) && !stand_in.is_authority());
    certificates.offer(Source::StandIn, Arc::clone(&stand_in)).unwrap();
    serves(&certificates, Some("a.test"), BOTH, &stand_in);
    assert!(!certificates.is_furnished());
    let ended = of(&["a.test"]).during(-500, -10).pair();
    certificates.offer(Source::Folder, Arc::clone(&ended)).unwrap();
    serves(&certificates, Some("a.test"), BOTH, &ended);
    serves(&certificates, None, BOTH, &ended);
}

#[test]
fn who_asks_without_a_name_gets_a_certificate_with_an_address_if_there_is_one() {
    let certificates = Certificates::new(false);
    let numbered = of(&["10.0.0.1", "n.test"]).at("z.pem").pair();
    assert_eq!(numbered.names(), ["10.0.0.1", "n.test"]);
    let named = of(&["a.test"]).pair();
    certificates.renew(Source::Folder, vec![Arc::clone(&named), Arc::clone(&numbered)]);
    serves(&certificates, None, BOTH, &numbered);
    serves(&certificates, Some("unknown.test"), BOTH, &named);
}

#[test]
fn the_certificate_of_a_ca_is_no_leaf() {
    let mut authority = CertificateParams::new(vec![]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let made = authority.self_signed(&key).unwrap();
    let pair = Pair::from_pem(made.pem().as_bytes(), key.serialize_pem().as_bytes(), "ca.pem").unwrap();
    let certificates = Certificates::new(false);
    assert_eq!(certificates.offer(Source::Folder, Arc::new(pair)).unwrap_err(), Refusal::Authority);
}

#[test]
fn chains_are_brought_in_order_and_what_does_not_belong_is_left_out() {
    let (chain, key) = of(&["a.test"]).texts();
    let (other, _) = of(&["b.test"]).texts();
    let stranger = other.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
    let mut blocks: Vec<_> = chain.split_inclusive("-----END CERTIFICATE-----\n").collect();
    blocks.reverse();
    let mixed = format!("{stranger}some text\r\n{}", blocks.concat());
    let pair = Pair::from_pem(mixed.as_bytes(), key.as_bytes(), "x").unwrap();
    assert_eq!((pair.names(), pair.certified().cert.len()), (["a.test".to_owned()].as_slice(), 2));
    let marked = format!("\u{feff}{}", mixed.replace('\n', "\r\n"));
    assert!(Pair::from_pem(marked.as_bytes(), key.as_bytes(), "x").is_ok());
    let both = pair.to_pem();
    assert_eq!(
        Pair::from_pem(both.as_bytes(), both.as_bytes(), "x").unwrap().fingerprint(),
        pair.fingerprint()
    );
    assert!(!format!("{pair:?}").contains("PRIVATE"));
}

#[track_caller]
fn flawed(chain: &str, key: &str, expected: &Flaw) {
    let flaw = Pair::from_pem(chain.as_bytes(), key.as_bytes(), "x").unwrap_err();
    assert_eq!(&flaw, expected);
}

#[test]
fn what_is_wrong_with_a_pair_is_said() {
    let (chain, key) = of(&["a.test"]).texts();
    let (_, other) = of(&["a.test"]).texts();
    flawed("", &key, &Flaw::NoCertificate);
    flawed(&chain, "", &Flaw::NoKey);
    flawed(&chain, &chain, &Flaw::NoKey);
    flawed(&chain[..chain.len() - 30], &key, &Flaw::Torn);
    flawed(&chain, &key[..key.len() - 40], &Flaw::Torn);
    flawed(&chain, &key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"), &Flaw::Encrypted);
    let certificate = fingerprint(&Content::parse(chain.as_bytes()).unwrap().certificates[0]);
    flawed(&chain, &other, &Flaw::Mismatch { certificate });
    flawed(&chain.repeat(200), &key, &Flaw::TooMany);
    let mut der = vec![0x30, 0x82, 1, 0];
    der.resize(260, 7);
    assert_eq!(Pair::from_pem(&der, key.as_bytes(), "x").unwrap_err(), Flaw::Der);
    flawed(&chain.replace("MII", "AAA"), &key, &Flaw::NotX509);
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0_usize..900) {
        let (chain, key) = cached();
        let mut broken = chain.clone().into_bytes();
        let at = at.min(broken.len());
        broken.splice(at..at, bytes.iter().copied());
        let _ = Pair::from_pem(&broken, key.as_bytes(), "x");
        let _ = Pair::from_pem(chain.as_bytes(), &bytes, "x");
    }

    /// Whatever is offered in whatever order: a name that had a valid certificate has one.
    #[test]
    fn no_sequence_of_offers_loses_a_valid_certificate(
        offers in proptest::collection::vec(proptest::collection::vec(0_usize..6, 0..4), 1..12),
    ) {
        let certificates = Certificates::new(false);
        let mut had: BTreeSet<String> = BTreeSet::new();
        for offer in offers {
            certificates.renew(Source::Folder, offer.iter().map(|&which| menu(which)).collect());
            let valid = offer.iter().map(|&which| menu(which)).filter(|pair| pair.is_valid(now()));
            had.extend(valid.flat_map(|pair| pair.names().to_vec()));
            for name in &had {
                let served = certificates.serving(name);
                prop_assert!(served.is_some_and(|pair| pair.is_valid(now()) && pair.names().contains(name)));
            }
        }
    }
}

fn cached() -> &'static (String, String) {
    static TEXTS: std::sync::OnceLock<(String, String)> = std::sync::OnceLock::new();
    TEXTS.get_or_init(|| of(&["a.test"]).texts())
}

fn menu(which: usize) -> Arc<Pair> {
    static MENU: std::sync::OnceLock<Vec<Arc<Pair>>> = std::sync::OnceLock::new();
    let menu = MENU.get_or_init(|| {
        vec![
            of(&["a.test"]).pair(),
            of(&["a.test", "b.test"]).during(-50, 9000).at("b.pem").pair(),
            of(&["b.test"]).during(-500, -10).at("c.pem").pair(),
            of(&["a.test"]).during(500, 1000).at("d.pem").pair(),
            Recipe { leaf_alone: true, ..of(&["a.test"]) }.at("e.pem").pair(),
            Recipe { leaf_alone: true, ..of(&["c.test"]) }.at("f.pem").pair(),
        ]
    });
    Arc::clone(&menu[which])
}
