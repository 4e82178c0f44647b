//! Where a server answers: `name:port`, `192.0.2.1:port`, `[2001:db8::1]:port`; the port may be left out.
//!
//! The host part is also what the server's certificate must name. Nothing is resolved here.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};

use crate::DEFAULT_PORT;

/// A server's host name or address, and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerAddress {
    host: String,
    port: u16,
}

/// A text that is not a server's address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a server address: {fault}; write it as name:port, 192.0.2.1:port or [2001:db8::1]:port"
)]
pub struct AddressError {
    text: String,
    fault: &'static str,
}

impl ServerAddress {
    /// An address from its parts.
    pub fn new(host: &str, port: u16) -> Result<Self, AddressError> {
        let fault = |fault| AddressError {
            text: host.to_owned(),
            fault,
        };
        ServerName::try_from(host)
            .map_err(|_| fault("the host is neither a name nor an address"))?;
        if port == 0 {
            return Err(fault("the port is 0"));
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }

    /// The name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What the server's certificate has to name.
    pub fn server_name(&self) -> ServerName<'static> {
        ServerName::try_from(self.host.clone()).expect("checked at construction")
    }
}

impl FromStr for ServerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let fault = |fault| AddressError {
            text: text.to_owned(),
            fault,
        };
        if text.parse::<Ipv6Addr>().is_ok() {
            return Self::new(text, DEFAULT_PORT);
        }
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest
                .split_once(']')
                .ok_or_else(|| fault("`]` is missing"))?;
            host.parse::<Ipv6Addr>()
                .map_err(|_| fault("what is in brackets is no IPv6 address"))?;
            match rest {
                "" => (host, None),
                _ => (
                    host,
                    Some(
                        rest.strip_prefix(':')
                            .ok_or_else(|| fault("`:` is missing after `]`"))?,
                    ),
                ),
            }
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        let port = match port {
            Some(port) => port
                .parse()
                .map_err(|_| fault("the port is not a number up to 65535"))?,
            None => DEFAULT_PORT,
        };
        Self::new(host, port).map_err(|error| fault(error.fault))
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            _ => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl TryFrom<String> for ServerAddress {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<ServerAddress> for String {
    fn from(address: ServerAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for (text, host, port) in [
            ("ss.example", "ss.example", DEFAULT_PORT),
            ("ss.example:99", "ss.example", 99),
            ("192.0.2.1:7430", "192.0.2.1", 7430),
            ("[2001:db8::1]:99", "2001:db8::1", 99),
            ("2001:db8::1", "2001:db8::1", DEFAULT_PORT),
            ("[::1]", "::1", DEFAULT_PORT),
        ] {
            let address: ServerAddress = text.parse().unwrap();
            assert_eq!((address.host(), address.port()), (host, port));
            assert_eq!(
                address.to_string().parse::<ServerAddress>().unwrap(),
                address
            );
        }
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for text in [
            "",
            ":7430",
            "a b:1",
            "host:",
            "host:70000",
            "host:0",
            "[::1",
            "[::1]7",
            "[host]:1",
        ] {
            let error = text.parse::<ServerAddress>().unwrap_err();
            assert!(
                error.to_string().starts_with(&format!("`{text}`")),
                "{error}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_an_address_that_reads_back_or_an_error(text in "[a-f0-9.:\\[\\]-]{0,40}") {
            if let Ok(address) = text.parse::<ServerAddress>() {
                proptest::prop_assert_eq!(address.to_string().parse::<ServerAddress>(), Ok(address));
            }
        }
    }
}
