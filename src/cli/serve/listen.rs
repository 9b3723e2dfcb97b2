//! Binding the port, before anything slow: a port that is taken is known at once.

use anyhow::{Context as _, anyhow};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener};

/// Listens on `port` of `host`; connections wait in the system's queue until they are accepted.
pub(super) fn bind(host: &str, port: u16) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind((host, port)).map_err(|error| {
        let advice = match error.kind() {
            ErrorKind::AddrInUse => "another process listens there; choose a port with --port, 0 for any free one",
            ErrorKind::PermissionDenied => "this port needs privileges; choose one above 1023 with --port",
            ErrorKind::AddrNotAvailable => "the address is not one of this machine; choose one with --host",
            _ => "is --host right?",
        };
        anyhow!("cannot listen on {host} port {port}: {advice} ({error})")
    })?;
    listener.set_nonblocking(true).context("cannot prepare the socket")?;
    Ok(listener)
}

/// The address as a client on this machine would write it.
pub(super) fn url(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_what_to_do() {
        let first = bind("127.0.0.1", 0).expect("some port is free");
        let port = first.local_addr().expect("it is bound").port();
        let error = bind("127.0.0.1", port).expect_err("the port is taken").to_string();
        assert!(error.starts_with(&format!("cannot listen on 127.0.0.1 port {port}: another process listens there")), "{error}");
        assert!(error.contains("--port"), "{error}");
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        let error = bind("192.0.2.1", 0).expect_err("a documentation address").to_string();
        assert!(error.contains("--host"), "{error}");
    }

    #[test]
    fn urls_can_be_pasted() {
        let url = |address: &str| url(address.parse().expect("an address"));
        assert_eq!(url("0.0.0.0:80"), "http://127.0.0.1:80");
        assert_eq!(url("[::]:8000"), "http://[::1]:8000");
        assert_eq!(url("192.168.1.2:1"), "http://192.168.1.2:1");
    }
}
