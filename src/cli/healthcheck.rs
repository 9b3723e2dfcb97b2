//! `openelm-server healthcheck`: asks `/readyz` of the server of the same configuration whether it takes requests, so a server that drains
//! is not healthy. For containers, whose image has no HTTP client.
//!
//! It sees the variables, the file that `OPENELM_CONFIG` names and its own flags, never the flags of the process that serves: where a
//! container's health is checked, host and port are set by `OPENELM_HOST` and `OPENELM_PORT`.

use crate::config::Config;
use anyhow::{Context as _, bail};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

/// Time for each of connecting, asking and reading.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Ends without an error when `/readyz` answers 200.
pub(super) fn run(config: &Config) -> anyhow::Result<()> {
    let (host, port) = (reachable(&config.host), config.port);
    let ask = || -> std::io::Result<String> {
        let no_address = || std::io::Error::other("the host has no address");
        let address = (host.as_str(), port).to_socket_addrs()?.next().ok_or_else(no_address)?;
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.write_all(format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut head = [0; 64];
        let mut length = 0;
        while length < head.len() && !head[..length].contains(&b'\n') {
            match stream.read(&mut head[length..])? {
                0 => break,
                count => length += count,
            }
        }
        Ok(String::from_utf8_lossy(&head[..length]).lines().next().unwrap_or_default().to_owned())
    };
    let status = ask().with_context(|| format!("no answer from {host} port {port}"))?;
    if status.split(' ').nth(1) != Some("200") {
        bail!("{host} port {port} is not ready: {status}");
    }
    Ok(())
}

/// Where a server that listens on `host` can be asked from this machine: on "all addresses", that is the loopback one.
fn reachable(host: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.to_string(),
        Ok(IpAddr::V6(ip)) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.to_string(),
        _ => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, load};
    use std::collections::BTreeMap;
    use std::io::{BufRead as _, BufReader};
    use std::net::TcpListener;

    /// Answers one request with `status` and returns what was asked for.
    fn serve_once(listener: &TcpListener, status: &str) -> String {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).expect("a request");
        stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).expect("written");
        line.trim_end().to_owned()
    }

    #[test]
    fn it_asks_readyz_on_the_port_of_the_variable() {
        for (status, is_healthy) in [("200 OK", true), ("503 Service Unavailable", false)] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let port = listener.local_addr().expect("bound").port().to_string();
            let variables = BTreeMap::from([("OPENELM_PORT".to_owned(), port), ("OPENELM_HOST".to_owned(), "0.0.0.0".to_owned())]);
            let config = load(&Flags::default(), &variables).expect("valid").config;
            let server = std::thread::spawn(move || serve_once(&listener, status));
            assert_eq!(run(&config).is_ok(), is_healthy, "{status}");
            assert_eq!(server.join().expect("no panic"), "GET /readyz HTTP/1.1");
        }
    }

    #[test]
    fn all_addresses_are_asked_on_the_loopback_one() {
        assert_eq!(["0.0.0.0", "::", "10.1.2.3", "localhost"].map(reachable), ["127.0.0.1", "::1", "10.1.2.3", "localhost"]);
    }
}
