//! Where requests go.

use anyhow::{Context as _, bail};
use hyper::Uri;

/// A server with the OpenAI API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Host and port to connect to.
    pub(super) address: String,
    /// What stands in the `Host` header.
    pub(super) authority: String,
    /// Before `/v1`, without a slash at the end.
    prefix: String,
    /// Sent as bearer token.
    pub(super) api_key: Option<String>,
}

impl Target {
    /// From `http://HOST[:PORT][/PREFIX][/v1]`.
    pub(super) fn parse(url: &str, api_key: Option<String>) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().context("expected http://HOST:PORT")?;
        let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            bail!("expected http://HOST:PORT, without TLS");
        };
        let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        let path = uri.path().trim_end_matches('/');
        let prefix = path.strip_suffix("/v1").unwrap_or(path).to_owned();
        Ok(Self { address, authority: authority.as_str().to_owned(), prefix, api_key })
    }

    /// The path of an endpoint, as `/v1/models`.
    pub(super) fn path(&self, endpoint: &str) -> String {
        format!("{}{endpoint}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_servers_and_of_their_api_are_taken() {
        for (url, address, path) in [
            ("http://127.0.0.1:8000", "127.0.0.1:8000", "/v1/models"),
            ("http://localhost", "localhost:80", "/v1/models"),
            ("http://[::1]:9/v1/", "[::1]:9", "/v1/models"),
            ("http://host:1/llm/v1", "host:1", "/llm/v1/models"),
        ] {
            let target = Target::parse(url, None).expect(url);
            assert_eq!((target.address.as_str(), target.path("/v1/models").as_str()), (address, path));
        }
        for url in ["https://host", "host:80", "/v1", "", "http://"] {
            assert!(Target::parse(url, None).is_err(), "{url}");
        }
    }
}
