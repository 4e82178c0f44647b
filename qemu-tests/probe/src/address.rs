//! Addresses from text.

use crate::{Result, wrong};
use std::net::{SocketAddr, SocketAddrV4};

/// A socket address as the kernel takes it.
pub(crate) struct Address(Vec<u8>);

/// An IPv4 address and a port.
pub(crate) fn ipv4(text: &str) -> Result<SocketAddrV4> {
    text.parse().map_err(|_| wrong("an IPv4 address and port"))
}

impl Address {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if text == "unspec" {
            return Ok(Self(vec![0; 16]));
        }
        if text == "short" {
            return Ok(Self(vec![0; 2]));
        }
        if let Some(name) = text.strip_prefix('@') {
            let mut bytes = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
            bytes.push(0);
            bytes.extend(name.as_bytes());
            return Ok(Self(bytes));
        }
        if let Some(port) = text.strip_prefix("netlink:") {
            let port: u32 = port.parse().map_err(|_| wrong("a netlink port"))?;
            let mut bytes = (libc::AF_NETLINK as u32).to_ne_bytes().to_vec();
            bytes.extend(port.to_ne_bytes());
            bytes.extend([0; 4]);
            return Ok(Self(bytes));
        }
        let address: SocketAddr = text.parse().map_err(|_| wrong("an address"))?;
        let mut bytes = Vec::new();
        match address {
            SocketAddr::V4(address) => {
                bytes.extend((libc::AF_INET as u16).to_ne_bytes());
                bytes.extend(address.port().to_be_bytes());
                bytes.extend(address.ip().octets());
                bytes.extend([0; 8]);
            }
            SocketAddr::V6(address) => {
                bytes.extend((libc::AF_INET6 as u16).to_ne_bytes());
                bytes.extend(address.port().to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(address.ip().octets());
                bytes.extend(address.scope_id().to_ne_bytes());
            }
        }
        Ok(Self(bytes))
    }

    pub(crate) fn pointer(&self) -> *const libc::sockaddr {
        self.0.as_ptr().cast()
    }

    pub(crate) fn len(&self) -> u32 {
        self.0.len() as u32
    }
}
