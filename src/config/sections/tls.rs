//! `http.tls.*`.

use std::path::PathBuf;

use super::choice;
use crate::config::reader::{Found, Reader};
use crate::config::{ClientDemand, Tls, TlsClients, TlsFiles};

/// Suites that are offered if they are named, or if none is.
const OFFERED: [&str; 9] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
];

/// Suites that `registry` takes and rustls does not have: no forward secrecy, or CBC.
const MISSING: [&str; 10] = [
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
];

pub(super) fn tls(reader: &mut Reader<'_>) -> Option<Tls> {
    let only_1_3 = only_1_3(reader);
    let suites = suites(reader, only_1_3);
    let clients = clients(reader);
    let files = files(reader);
    let folder = reader.text("tidegate.tls.dir").map(|found| PathBuf::from(found.text));
    let keep = reader.flag("tidegate.tls.keep").unwrap_or(true);
    let strict_sni = reader.flag("tidegate.edge.strictsni").unwrap_or(false);
    let from_ca = !reader.texts("http.tls.letsencrypt.hosts").is_empty();
    if files.is_none() && folder.is_none() && !from_ca {
        refuse_clients_without_tls(reader);
        return None;
    }
    Some(Tls { files, folder, keep, strict_sni, clients, only_1_3, suites })
}

fn files(reader: &mut Reader<'_>) -> Option<TlsFiles> {
    let certificate = reader.text("http.tls.certificate");
    let key = reader.text("http.tls.key");
    refuse_two_sources(reader, certificate.as_ref());
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            Some(TlsFiles { certificate: PathBuf::from(certificate.text), key: PathBuf::from(key.text) })
        }
        (Some(alone), None) => lonely(reader, &alone, "http.tls.key"),
        (None, Some(alone)) => lonely(reader, &alone, "http.tls.certificate"),
        (None, None) => None,
    }
}

/// Without `clientcas`, `clientauth` has no effect, as in `registry`; its text must be one all the same.
fn clients(reader: &mut Reader<'_>) -> Option<TlsClients> {
    let demands = [
        ("request-client-cert", ClientDemand::Request),
        ("require-any-client-cert", ClientDemand::RequireAny),
        ("verify-client-cert-if-given", ClientDemand::VerifyIfGiven),
        ("require-and-verify-client-cert", ClientDemand::RequireAndVerify),
    ];
    let demand = choice(reader, "http.tls.clientauth", &demands).unwrap_or(ClientDemand::RequireAndVerify);
    let found = reader.texts("http.tls.clientcas");
    let authorities: Vec<_> = found.into_iter().map(|found| PathBuf::from(found.text)).collect();
    if authorities.is_empty() { None } else { Some(TlsClients { authorities, demand }) }
}

/// Over plain HTTP nobody can show a certificate, so everybody would be let in.
fn refuse_clients_without_tls(reader: &mut Reader<'_>) {
    if let Some(first) = reader.texts("http.tls.clientcas").first() {
        let fix = "set http.tls.certificate and http.tls.key, or tidegate.tls.dir";
        reader.report.refuse(first.problem("without TLS everybody would be let in", fix));
    }
}

/// Going on without TLS would send in the clear what should not be.
fn lonely(reader: &mut Reader<'_>, alone: &Found, other: &str) -> Option<TlsFiles> {
    let problem = alone.problem(format!("{other} is not set"), format!("set {other}, or remove both"));
    reader.report.refuse(problem);
    None
}

fn refuse_two_sources(reader: &mut Reader<'_>, certificate: Option<&Found>) {
    let letsencrypt = reader.node("http.tls.letsencrypt").is_some_and(|node| !node.is_empty());
    if let Some(found) = certificate.filter(|_| letsencrypt) {
        let reason = "cannot specify both certificate and Let's Encrypt";
        reader.report.refuse(found.problem(reason, "remove http.tls.letsencrypt"));
    }
}

fn only_1_3(reader: &mut Reader<'_>) -> bool {
    let Some(found) = reader.text("http.tls.minimumtls") else { return false };
    match found.text.as_str() {
        "tls1.3" => true,
        "tls1.2" => false,
        "tls1.0" | "tls1.1" => {
            let text = "TLS 1.2 is the least that is spoken; older versions are broken";
            reader.report.warn(&found.key, &found.origin, text);
            false
        }
        _ => {
            let problem = found.problem("unknown minimum TLS level", "use tls1.2 or tls1.3");
            reader.report.refuse(problem);
            false
        }
    }
}

fn suites(reader: &mut Reader<'_>, only_1_3: bool) -> Vec<String> {
    let found = reader.texts("http.tls.ciphersuites");
    let mut suites = Vec::new();
    let mut unknown = false;
    for suite in &found {
        if OFFERED.contains(&suite.text.as_str()) {
            suites.push(suite.text.clone());
        } else if MISSING.contains(&suite.text.as_str()) {
            let text = format!("{} is not offered: it has no forward secrecy, or is CBC", suite.text);
            reader.report.warn(&suite.key, &suite.origin, &text);
        } else {
            unknown = true;
            let fix = format!("use names such as {}", OFFERED.join(", "));
            reader.report.refuse(suite.problem("no such cipher suite", fix));
        }
    }
    let Some(first) = found.first() else { return suites };
    if suites.is_empty() && !unknown {
        let fix = format!("add one of {}", OFFERED.join(", "));
        reader.report.refuse(first.problem("none of the cipher suites can be offered", fix));
    }
    if only_1_3 {
        let text = "with minimumtls: tls1.3 all suites of TLS 1.3 are offered, whatever is listed";
        reader.report.warn(&first.key, &first.origin, text);
    }
    suites
}
