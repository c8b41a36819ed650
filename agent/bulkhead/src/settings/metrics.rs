//! `[metrics]` of agent.toml: where they are served.

use std::net::{Ipv4Addr, SocketAddr};

use serde::Deserialize;

/// Of this machine alone: whoever reaches it may read.
const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9469);

/// `[metrics]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    #[serde(default = "loopback")]
    pub(super) address: SocketAddr,
}

fn loopback() -> SocketAddr {
    LOOPBACK
}

#[cfg(test)]
mod tests {
    use super::super::tests::parse;

    #[test]
    fn metrics_are_served_on_loopback_if_at_all() {
        let address = |text: &str| parse(text).map(|file| file.metrics.map(|metrics| metrics.address));
        assert_eq!(address(""), Ok(None));
        assert_eq!(address("[metrics]\n"), Ok(Some("127.0.0.1:9469".parse().unwrap())));
        assert_eq!(address("[metrics]\naddress = \"[::]:80\"\n"), Ok(Some("[::]:80".parse().unwrap())));
        let said = address("[metrics]\naddress = \"localhost\"\n").unwrap_err();
        assert!(said.contains("invalid socket address syntax"), "{said}");
    }
}
