//! What a node that joins leaves out: addresses of a family that it has, and that it has not named.
//!
//! The kernel's files in /proc/net tell it; reading them needs no netlink and no rights.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::persist::NodeDescription;

/// `IFA_F_TEMPORARY`, `IFA_F_DADFAILED`, `IFA_F_DEPRECATED` and `IFA_F_TENTATIVE`: an address that goes again, or cannot be used.
const PASSING: u8 = 0x01 | 0x08 | 0x20 | 0x40;

/// What the kernel says of its addresses. What cannot be read is empty, and nothing is found in it.
#[derive(Debug, Default)]
pub struct Host {
    /// `/proc/net/if_inet6`: IPv6 addresses and their interfaces.
    pub if_inet6: String,
    /// `/proc/net/fib_trie`: IPv4 addresses, without their interfaces.
    pub fib_trie: String,
    /// `/proc/net/route`: IPv4 networks and their interfaces.
    pub route: String,
}

impl Host {
    /// This machine.
    pub fn here() -> Self {
        // Only a warning hangs on it.
        let read = |name| std::fs::read_to_string(format!("/proc/net/{name}")).unwrap_or_default();
        Self {
            if_inet6: read("if_inet6"),
            fib_trie: read("fib_trie"),
            route: read("route"),
        }
    }

    /// Addresses of the family that `named` has none of, on interfaces that have one of `named`.
    pub fn left_out(&self, named: &[IpAddr]) -> Vec<IpAddr> {
        let v6 = self.v6();
        let has_v4 = named.iter().any(IpAddr::is_ipv4);
        let has_v6 = named.iter().any(IpAddr::is_ipv6);
        let interfaces: Vec<&str> = named
            .iter()
            .filter_map(|address| match address {
                IpAddr::V4(address) => self.interface(*address),
                IpAddr::V6(address) => v6.iter().find(|(a, _)| a == address).map(|(_, name)| *name),
            })
            .collect();
        match (has_v4, has_v6) {
            (true, false) => v6
                .into_iter()
                .filter(|(address, name)| is_global(*address) && interfaces.contains(name))
                .map(|(address, _)| address.into())
                .collect(),
            (false, true) => {
                let here = |address: &Ipv4Addr| {
                    self.interface(*address)
                        .is_some_and(|i| interfaces.contains(&i))
                };
                self.v4().into_iter().filter(here).map(IpAddr::V4).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Addresses that stay, with their interfaces.
    fn v6(&self) -> Vec<(Ipv6Addr, &str)> {
        self.if_inet6.lines().filter_map(lasting).collect()
    }

    /// Addresses of this node that are no loopback's.
    fn v4(&self) -> Vec<Ipv4Addr> {
        let mut found = Vec::new();
        let mut last = None;
        for line in self.fib_trie.lines() {
            if let Some(leaf) = line.trim_start().strip_prefix("|-- ") {
                last = leaf.parse::<Ipv4Addr>().ok();
            } else if line.contains("/32 host LOCAL")
                && let Some(address) = last
                && !address.is_loopback()
                && !address.is_link_local()
                && !found.contains(&address)
            {
                found.push(address);
            }
        }
        found
    }

    /// The interface by whose network an address is reached: an own one's is its interface.
    fn interface(&self, address: Ipv4Addr) -> Option<&str> {
        let routes = self
            .route
            .lines()
            .skip(1)
            .filter_map(|line| leads_to(line, address));
        routes.max_by_key(|(mask, _)| *mask).map(|(_, name)| name)
    }
}

/// Address and interface of a line of `if_inet6`, if the address stays.
fn lasting(line: &str) -> Option<(Ipv6Addr, &str)> {
    let mut words = line.split_whitespace();
    let address = u128::from_str_radix(words.next()?, 16).ok()?;
    let flags = u8::from_str_radix(words.nth(3)?, 16).ok()?;
    (flags & PASSING == 0).then_some((address.into(), words.next()?))
}

/// Mask and interface of a line of `route`, if it leads to the address.
fn leads_to(line: &str, address: Ipv4Addr) -> Option<(u32, &str)> {
    // In the bytes' order on the wire, read as a number of this machine's.
    let number = |word| {
        let number = u32::from_str_radix(word, 16).ok()?;
        Some(u32::from_be_bytes(number.to_ne_bytes()))
    };
    let words: Vec<&str> = line.split_whitespace().collect();
    let [name, to, _, _, _, _, _, mask, ..] = words[..] else {
        return None;
    };
    let (to, mask) = (number(to)?, number(mask)?);
    (address.to_bits() & mask == to).then_some((mask, name))
}

/// Whether an address is good beyond its link.
fn is_global(address: Ipv6Addr) -> bool {
    !(address.is_loopback() || address.is_unicast_link_local() || address.is_multicast())
}

/// What to tell whoever made this node a member, whose addresses of a family were left out; nothing if there are none.
pub fn warning(node: &NodeDescription, directory: &Path, left_out: &[IpAddr]) -> Option<String> {
    let first = left_out.first()?;
    let (known, missing) = if first.is_ipv6() {
        ("IPv4", "IPv6")
    } else {
        ("IPv6", "IPv4")
    };
    let list = |addresses: &[IpAddr], before: &str, between: &str| {
        let words: Vec<String> = addresses.iter().map(|a| format!("{before}{a}")).collect();
        words.join(between)
    };
    Some(format!(
        "the cluster knows this node by {known} only: what goes to or comes from its {missing} address {} counts as outside. \
         To have both, make it a new node, with a new SnID: `dsictl node remove {name}` and \
         `dsictl node join-token {name} > {name}.token` where the administrator is, and here `rm -r {dir}` and \
         `smd join --token-file {name}.token --dir {dir} {} {}`",
        list(left_out, "", ", "),
        list(&node.addresses, "--address ", " "),
        list(left_out, "--address ", " "),
        name = node.name,
        dir = directory.display(),
    ))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    // A machine with a network of both families on eth0, containers on docker0, a lease of one address on ens4, and an address
    // that is no more than temporary.
    const IF_INET6: &str = "\
00000000000000000000000000000001 01 80 10 80       lo
fe8000000000000000fc00fffe000001 04 40 20 80     eth0
fd770000000000000000000000000001 04 40 00 82     eth0
fd77000000000000aaaabbbbccccdddd 04 40 00 01     eth0
fd990000000000000000000000000001 05 40 00 80  docker0
";
    const ROUTE: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
ens4\t00000000\t0100800A\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t00004D0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
";
    const FIB_TRIE: &str = "\
Local:
  +-- 0.0.0.0/0 3 0 5
     |-- 10.77.0.0
        /24 link UNICAST
     |-- 10.77.0.1
        /32 host LOCAL
     |-- 10.77.0.255
        /32 link BROADCAST
     |-- 10.128.0.7
        /32 host LOCAL
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 172.17.0.1
        /32 host LOCAL
";

    fn left_out(named: &[&str]) -> Vec<String> {
        // /proc/net/route is in this machine's byte order; the text above is a little-endian one's.
        let host = Host {
            if_inet6: IF_INET6.into(),
            fib_trie: FIB_TRIE.into(),
            route: ROUTE.into(),
        };
        let named: Vec<IpAddr> = named
            .iter()
            .map(|a| a.parse().expect("an address"))
            .collect();
        host.left_out(&named)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn only_lasting_addresses_of_the_other_family_on_the_same_interface_are_left_out() {
        assert_eq!(left_out(&["10.77.0.1"]), ["fd77::1"]);
        assert_eq!(left_out(&["fd77::1"]), ["10.77.0.1"]);
        assert_eq!(left_out(&["172.17.0.1"]), ["fd99::1"]);
        assert!(left_out(&["10.77.0.1", "fd77::1"]).is_empty());
        // An interface without addresses of the other family, and an address that is behind a translation.
        assert!(left_out(&["10.128.0.7"]).is_empty());
        assert!(left_out(&["2001:db8::1"]).is_empty());
        assert!(left_out(&[]).is_empty());
    }

    #[test]
    fn what_cannot_be_read_leaves_nothing_out() {
        let named = [IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1))];
        assert!(Host::default().left_out(&named).is_empty());
        let host = Host {
            if_inet6: "\n zz 01\nfd77 eth0".into(),
            fib_trie: "/32 host LOCAL\n |-- nothing\n/32 host LOCAL".into(),
            route: "\neth0 00\neth0 x y z".into(),
        };
        assert!(host.left_out(&named).is_empty());
    }

    #[test]
    fn warning_says_what_to_type() {
        let [v4, v6]: [IpAddr; 2] =
            ["10.77.0.1", "fd77::1"].map(|a| a.parse().expect("an address"));
        let of = |named, left_out: &[IpAddr]| {
            let node = NodeDescription {
                name: "munster".into(),
                snid: 2,
                cluster: Uuid::nil(),
                servers: Vec::new(),
                addresses: vec![named],
            };
            warning(&node, Path::new("/srv/node"), left_out)
        };
        let text = of(v4, &[v6]).expect("a warning");
        for part in [
            "by IPv4 only",
            "its IPv6 address fd77::1 counts as outside",
            "`dsictl node remove munster`",
            "`rm -r /srv/node`",
            "--token-file munster.token --dir /srv/node --address 10.77.0.1 --address fd77::1`",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let text = of(v6, &[v4]).expect("a warning");
        assert!(text.contains("by IPv6 only"), "{text}");
        assert_eq!(of(v4, &[]), None);
    }
}
