//! What people ask first when a CA could not reach a name.

use std::time::Duration;

use crate::config::DnsName;

/// How long the lookup may take.
const LOOKUP_WAIT: Duration = Duration::from_secs(5);

/// Most addresses that are shown.
const SHOWN_MAX: usize = 6;

/// The likely questions, with what this machine sees.
pub async fn after_validation(name: &DnsName) -> String {
    let looked = tokio::time::timeout(LOOKUP_WAIT, tokio::net::lookup_host((name.as_str(), 443))).await;
    let addresses: Vec<std::net::IpAddr> = match looked {
        Ok(Ok(found)) => {
            let mut all: Vec<_> = found.map(|address| address.ip()).collect();
            all.dedup();
            all.truncate(SHOWN_MAX);
            all
        }
        Ok(Err(_)) | Err(_) => Vec::new(),
    };
    question(name, &addresses)
}

fn question(name: &DnsName, addresses: &[std::net::IpAddr]) -> String {
    if addresses.is_empty() {
        return format!(". From here {name} has no address: does its DNS record exist?");
    }
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let other = if addresses.iter().any(|address| address.is_ipv6()) {
        "; does the AAAA record lead elsewhere?"
    } else {
        ""
    };
    format!(
        ". From here {name} is {}: is that this machine, with port 443 (tls-alpn-01) or 80 (http-01) open to the internet?{other}",
        shown.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likely_question_is_asked() {
        let name = "mirror.test".parse().unwrap();
        assert!(question(&name, &[]).contains("DNS record"));
        let both = question(&name, &["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]);
        assert!(both.contains("192.0.2.1") && both.contains("AAAA") && both.contains("port 443"), "{both}");
        assert!(!question(&name, &["192.0.2.1".parse().unwrap()]).contains("AAAA"));
    }
}
