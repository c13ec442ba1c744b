//! Pebble, Let's Encrypt's CA for tests, and its name server; both end with the test.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use super::tls::{self, Pair};
use super::{PATIENCE, soon};

/// How it is to behave.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Lifetime of certificates, in seconds.
    pub validity: u64,
    /// Good nonces that are rejected, in percent.
    pub nonces_rejected: u32,
    /// Whether accounts must be made elsewhere.
    pub external_accounts: bool,
    /// Names that are refused.
    pub blocked: Vec<String>,
}

impl Default for Rules {
    fn default() -> Self {
        Self { validity: 90 * 24 * 3600, nonces_rejected: 0, external_accounts: false, blocked: vec![] }
    }
}

/// A CA that runs.
pub struct Pebble {
    rules: Rules,
    folder: TempDir,
    pair: Pair,
    ports: Ports,
    processes: Vec<Child>,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    acme: u16,
    management: u16,
    dns: u16,
    dns_management: u16,
    http: u16,
    tls: u16,
}

/// A port that nobody has.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Pebble {
    /// Starts one.
    pub async fn start(rules: Rules) -> Self {
        let ports = Ports {
            acme: free_port(),
            management: free_port(),
            dns: free_port(),
            dns_management: free_port(),
            http: free_port(),
            tls: free_port(),
        };
        let mut pebble =
            Self { rules, folder: TempDir::new().unwrap(), pair: tls::pair(), ports, processes: vec![] };
        pebble.run().await;
        pebble
    }

    async fn run(&mut self) {
        let Ports { acme, management, dns, dns_management, http, tls } = self.ports;
        let config = self.folder.path().join("config.json");
        let document = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{acme}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": self.pair.certificate, "privateKey": self.pair.key,
            "httpPort": http, "tlsPort": tls, "ocspResponderURL": "",
            "externalAccountBindingRequired": self.rules.external_accounts,
            "externalAccountMACKeys": { "kid-1": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W" },
            "domainBlocklist": self.rules.blocked,
            "certificateValidityPeriod": self.rules.validity,
        }});
        std::fs::write(&config, document.to_string()).unwrap();
        let names = Command::new("pebble-challtestsrv")
            .args([
                "-management",
                &format!("127.0.0.1:{dns_management}"),
                "-dns01",
                &format!("127.0.0.1:{dns}"),
            ])
            .args(["-http01", "", "-https01", "", "-tlsalpn01", ""])
            .args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let authority = Command::new("pebble")
            .args(["-config", config.to_str().unwrap(), "-dnsserver", &format!("127.0.0.1:{dns}")])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_AUTHZREUSE", "0")
            .env("PEBBLE_WFE_NONCEREJECT", self.rules.nonces_rejected.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let wanted = "pebble is needed by the tests (tests/run installs it)";
        self.processes = vec![names.expect(wanted), authority.expect(wanted)];
        soon("pebble answers", async {
            while self.ask("/roots/0").await.is_none() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    }

    /// Stops it, as if the CA's house had burnt down.
    pub fn stop(&mut self) {
        for mut process in self.processes.drain(..) {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// The file of the CA that signed for the CA's own port.
    pub fn cafile(&self) -> PathBuf {
        self.pair.authority.clone()
    }

    /// What its port proves itself with.
    pub fn pair(&self) -> &Pair {
        &self.pair
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.acme)
    }

    /// Where it looks for answers over HTTP.
    pub fn http(&self) -> String {
        format!("127.0.0.1:{}", self.ports.http)
    }

    /// Where it looks for answers over TLS.
    pub fn tls(&self) -> String {
        format!("127.0.0.1:{}", self.ports.tls)
    }

    /// The root of the certificates that it gives, PEM.
    pub async fn root(&self) -> String {
        self.ask("/roots/0").await.unwrap()
    }

    async fn ask(&self, path: &str) -> Option<String> {
        let authority = std::fs::read(&self.pair.authority).unwrap();
        let client = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(&authority).unwrap()])
            .no_proxy()
            .timeout(PATIENCE)
            .build()
            .unwrap();
        let answer =
            client.get(format!("https://localhost:{}{path}", self.ports.management)).send().await.ok()?;
        answer.text().await.ok()
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        self.stop();
    }
}
