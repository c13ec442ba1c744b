//! The PROXY protocol, versions 1 and 2 (haproxy's proxy-protocol.txt): a load balancer in front says whose connection it
//! passes on. It is read from those who must speak it, and from nobody else.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// How every header of version 2 begins.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Longest header of version 1, its line end included (section 2.1).
const LINE_BYTES_MAX: usize = 107;

/// Longest rest of a header of version 2: addresses, and what else a balancer tells, certificates of clients included.
const REST_BYTES_MAX: usize = 4096;

/// Reads a header, and not a byte more. `None`: the balancer speaks for itself, as it does to see whether we live.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<IpAddr>> {
    let mut start = [0; SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    if start == SIGNATURE {
        return read_binary(stream).await;
    }
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() >= LINE_BYTES_MAX {
            return Err(broken());
        }
        line.push(stream.read_u8().await?);
    }
    let line = line.strip_suffix(b"\r\n").and_then(|line| std::str::from_utf8(line).ok());
    line.and_then(of_line).ok_or_else(broken)
}

async fn read_binary(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<IpAddr>> {
    let (command, family) = (stream.read_u8().await?, stream.read_u8().await?);
    let length = usize::from(stream.read_u16().await?);
    if length > REST_BYTES_MAX {
        return Err(broken());
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    match command {
        0x20 => Ok(None),
        0x21 => of_addresses(family, &rest).map(Some).ok_or_else(broken),
        _ => Err(broken()),
    }
}

/// The source in a line of version 1; `Some(None)` where it is unknown.
fn of_line(line: &str) -> Option<Option<IpAddr>> {
    let mut words = line.split(' ');
    let (Some("PROXY"), Some(family)) = (words.next(), words.next()) else { return None };
    if family == "UNKNOWN" {
        return Some(None);
    }
    let words: Vec<&str> = words.collect();
    let &[source, target, source_port, target_port] = words.as_slice() else { return None };
    source_port.parse::<u16>().ok()?;
    target_port.parse::<u16>().ok()?;
    let (source, target): (IpAddr, IpAddr) = (source.parse().ok()?, target.parse().ok()?);
    let is_v4 = match family {
        "TCP4" => true,
        "TCP6" => false,
        _ => return None,
    };
    (source.is_ipv4() == is_v4 && target.is_ipv4() == is_v4).then(|| Some(source.to_canonical()))
}

/// The source among the addresses of version 2. Only streams over IP have one that a rule can be about.
fn of_addresses(family: u8, rest: &[u8]) -> Option<IpAddr> {
    match family {
        0x11 if rest.len() >= 12 => rest.first_chunk::<4>().map(|ip| IpAddr::V4(Ipv4Addr::from(*ip))),
        0x21 if rest.len() >= 36 => {
            rest.first_chunk::<16>().map(|ip| IpAddr::V6(Ipv6Addr::from(*ip)).to_canonical())
        }
        _ => None,
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no header of the PROXY protocol")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a header says, and how many of the four bytes behind it are left.
    async fn said(header: &[u8]) -> io::Result<(Option<String>, usize)> {
        let bytes = [header, b"GET "].concat();
        let mut rest = bytes.as_slice();
        let ip = read(&mut rest).await?;
        Ok((ip.map(|ip| ip.to_string()), rest.len()))
    }

    async fn check(header: &[u8], expected: Option<&str>) {
        assert_eq!(said(header).await.unwrap(), (expected.map(str::to_owned), 4), "{header:?}");
    }

    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    #[tokio::test]
    async fn a_header_names_the_client_and_no_byte_more_is_read() {
        check(b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n", Some("192.0.2.7")).await;
        check(b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n", Some("2001:db8::7")).await;
        check(b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", Some("192.0.2.7")).await;
        check(b"PROXY UNKNOWN\r\n", None).await;
        check(b"PROXY UNKNOWN anything at all\r\n", None).await;
        let v4 = [192, 0, 2, 7, 192, 0, 2, 1, 1, 2, 3, 4];
        check(&binary(0x21, 0x11, &v4), Some("192.0.2.7")).await;
        check(&binary(0x21, 0x11, &[&v4[..], &[4, 0, 1, 9]].concat()), Some("192.0.2.7")).await;
        let v6 = [&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets()[..], &[0; 20]].concat();
        check(&binary(0x21, 0x21, &v6), Some("2001:db8::7")).await;
        check(&binary(0x20, 0, &[]), None).await;
    }

    #[tokio::test]
    async fn what_is_no_header_is_an_error() {
        let long = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 120], b"\r\n"].concat();
        for broken in [
            b"GET /v2/ HTTP/1.1\r\n\r\n".as_slice(),
            b"PROXY TCP4 192.0.2.7 192.0.2.1 1\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2 3\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 1 99999\r\n",
            b"PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n",
            b"PROXY TCP5 192.0.2.7 192.0.2.1 1 2\r\n",
            b"proxy TCP4 192.0.2.7 192.0.2.1 1 2\r\n",
            b"PROXY TCP4 192.0.2.07 192.0.2.1 1 2\r\n",
            &long,
            &binary(0x21, 0x11, &[1, 2, 3]),
            &binary(0x21, 0x31, &[0; 216]),
            &binary(0x21, 0x12, &[0; 12]),
            &binary(0x31, 0x11, &[0; 12]),
            &binary(0x22, 0x11, &[0; 12]),
            &binary(0x21, 0x11, &[0; 5000]),
            &SIGNATURE,
            b"PROXY",
        ] {
            assert!(said(broken).await.is_err(), "{broken:?}");
        }
    }
}
