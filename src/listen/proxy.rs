//! The PROXY protocol, versions 1 and 2: a load balancer's first words, which say who its client is. Owns nothing; only the octets
//! of the header are taken from the stream.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::Reception;
use crate::event::Event;
use crate::system::BoxStream;

/// Longest line of version 1, with its CR LF; octets.
const LINE_SIZE_MAX: usize = 107;
/// Octets of version 2 before its addresses.
const FIXED_SIZE: usize = 16;
/// Octets of version 2 behind that: addresses, and whatever else a balancer tells.
const REST_SIZE_MAX: usize = 4096;

impl Reception {
    /// Who is behind a load balancer: what its PROXY header says. None: there was none, and the connection is over.
    pub(super) async fn behind_proxy(&self, stream: &mut BoxStream, peer: SocketAddr, wait: Duration) -> Option<SocketAddr> {
        let timed_out = || Err("the PROXY header didn't come in time".to_owned());
        match tokio::time::timeout(wait, read(stream)).await.unwrap_or_else(|_| timed_out()) {
            Ok(None) => Some(peer),
            Ok(Some(client)) => {
                let (by, address) = (peer.ip().to_canonical(), client.ip().to_canonical());
                self.events.report(Event::Presented { client: address, by, means: "PROXY", login: None });
                Some(client)
            }
            Err(reason) => {
                self.events.report(Event::ProxyFailed { client: peer, reason });
                None
            }
        }
    }
}

/// Reads a header. The client's address; none where the balancer speaks for itself or doesn't know. Errors: why it is none.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, String> {
    let broken = |error: std::io::Error| format!("the connection ended within the PROXY header: {error}");
    // The shortest header there is, of either version, is longer than this.
    let mut header = vec![0; v2::PROTOCOL_PREFIX.len()];
    stream.read_exact(&mut header).await.map_err(broken)?;
    if header == v2::PROTOCOL_PREFIX {
        header.resize(FIXED_SIZE, 0);
        stream.read_exact(&mut header[v2::PROTOCOL_PREFIX.len()..]).await.map_err(broken)?;
        let rest = usize::from(u16::from_be_bytes([header[FIXED_SIZE - 2], header[FIXED_SIZE - 1]]));
        if rest > REST_SIZE_MAX {
            return Err(format!("the PROXY header is longer than {} octets", FIXED_SIZE + REST_SIZE_MAX));
        }
        header.resize(FIXED_SIZE + rest, 0);
        stream.read_exact(&mut header[FIXED_SIZE..]).await.map_err(broken)?;
        return binary(&header);
    }
    if !header.starts_with(b"PROXY ") {
        return Err("there is no PROXY header".to_owned());
    }
    while !header.ends_with(b"\r\n") {
        if header.len() >= LINE_SIZE_MAX {
            return Err(format!("the PROXY header is longer than {LINE_SIZE_MAX} octets"));
        }
        header.push(stream.read_u8().await.map_err(broken)?);
    }
    line(&header)
}

fn line(header: &[u8]) -> Result<Option<SocketAddr>, String> {
    let header = v1::Header::try_from(header).map_err(|error| format!("the PROXY header is malformed: {error}"))?;
    Ok(match header.addresses {
        v1::Addresses::Tcp4(found) => Some(address(found.source_address, found.source_port)),
        v1::Addresses::Tcp6(found) => Some(address(found.source_address, found.source_port)),
        v1::Addresses::Unknown => None,
    })
}

fn binary(header: &[u8]) -> Result<Option<SocketAddr>, String> {
    let header = v2::Header::try_from(header).map_err(|error| format!("the PROXY header is malformed: {error}"))?;
    Ok(match (header.command, header.addresses) {
        (v2::Command::Proxy, v2::Addresses::IPv4(found)) => Some(address(found.source_address, found.source_port)),
        (v2::Command::Proxy, v2::Addresses::IPv6(found)) => Some(address(found.source_address, found.source_port)),
        _ => None,
    })
}

fn address(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn from(octets: &[u8]) -> (Result<Option<SocketAddr>, String>, Vec<u8>) {
        let mut stream = octets;
        let found = read(&mut stream).await;
        (found, stream.to_vec())
    }

    fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let size = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[command, family], &size, rest].concat()
    }

    #[tokio::test]
    async fn both_versions_name_the_client_and_take_no_more_than_their_octets() {
        let four = [192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0, 25];
        let mut six = [0; 36];
        six[..16].copy_from_slice(&"2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets());
        six[32..].copy_from_slice(&[0x30, 0x39, 0, 25]);
        // Further facts, which aren't needed.
        let told = [&four[..], &[4, 0, 1, 42]].concat();
        for (header, expected) in [
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 25\r\n".to_vec(), Some("192.0.2.7:12345")),
            (b"PROXY TCP6 2001:db8::7 ::1 12345 25\r\n".to_vec(), Some("[2001:db8::7]:12345")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (version_2(0x21, 0x11, &four), Some("192.0.2.7:12345")),
            (version_2(0x21, 0x21, &six), Some("[2001:db8::7]:12345")),
            (version_2(0x21, 0x11, &told), Some("192.0.2.7:12345")),
            // A health check of the balancer itself.
            (version_2(0x20, 0x00, &[]), None),
            (version_2(0x20, 0x11, &four), None),
        ] {
            let (found, rest) = from(&[&header[..], b"EHLO x\r\n"].concat()).await;
            assert_eq!(found, Ok(expected.map(|text| text.parse().unwrap())), "{}", header.escape_ascii());
            assert_eq!(rest, b"EHLO x\r\n");
        }
    }

    #[tokio::test]
    async fn anything_else_is_an_error() {
        let long = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat();
        for (octets, expected) in [
            (b"EHLO client.test\r\n".to_vec(), "no PROXY header"),
            (b"PROXY TCP4 192.0.2.7\r\n".to_vec(), "malformed"),
            (b"PROXY TCP4 192.0.2.777 10.0.0.1 1 2\r\n".to_vec(), "malformed"),
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 99999 2\r\n".to_vec(), "malformed"),
            (long, "longer than 107"),
            (b"PROXY TCP4 ".to_vec(), "ended"),
            (b"PROXY TCP4 192.0.2.7".to_vec(), "ended"),
            (version_2(0x21, 0x11, &[1, 2, 3]), "malformed"),
            (version_2(0x31, 0x11, &[0; 12]), "malformed"),
            (version_2(0x21, 0x11, &[0; 5000]), "longer than"),
            (version_2(0x21, 0x11, &[0; 12])[..20].to_vec(), "ended"),
        ] {
            let (found, _) = from(&octets).await;
            assert!(found.as_ref().is_err_and(|why| why.contains(expected)), "{}: {found:?}", octets.escape_ascii());
        }
    }
}
