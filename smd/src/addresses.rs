//! What a node that joins leaves out: addresses of a family that it has, and that it has not named.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::persist::NodeDescription;

/// An address of this machine's that is good beyond its link, and stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// Number of its interface.
    pub interface: u32,
    /// The address.
    pub address: IpAddr,
}

/// This machine's, as the kernel tells everybody (rtnetlink(7), RTM_GETADDR).
///
/// # Errors
/// Those of the socket, and what the kernel answers.
pub fn here() -> io::Result<Vec<Own>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let mut request = NetlinkMessage::from(request);
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
    let mut found = Vec::new();
    loop {
        let (datagram, sender) = socket.recv_from_full()?;
        // Other processes may write to the socket as well.
        let mut rest = if sender.port_number() == 0 {
            &datagram[..]
        } else {
            &[]
        };
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(message)) => {
                    found.extend(own(&message));
                }
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

/// What a message says of an address, if it stays and is good beyond its link.
fn own(message: &AddressMessage) -> Option<Own> {
    // Where both are told, of a point-to-point link, the other end is "the address".
    let of = |local| {
        message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Local(address) if local => Some(*address),
                AddressAttribute::Address(address) if !local => Some(*address),
                _ => None,
            })
    };
    let address = of(true).or_else(|| of(false))?;
    let beyond = match address {
        IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
        IpAddr::V6(address) => {
            // The first of them is the bit of a temporary address; over IPv4 a second one has it.
            let passing = AddressHeaderFlags::Secondary
                | AddressHeaderFlags::Dadfailed
                | AddressHeaderFlags::Deprecated
                | AddressHeaderFlags::Tentative;
            !address.is_loopback()
                && !address.is_unicast_link_local()
                && !message.header.flags.intersects(passing)
        }
    };
    beyond.then_some(Own {
        interface: message.header.index,
        address,
    })
}

/// Addresses of the family that `named` has none of, on interfaces that have one of `named`.
pub fn left_out(own: &[Own], named: &[IpAddr]) -> Vec<IpAddr> {
    let is_missing = |address: &IpAddr| {
        named
            .iter()
            .all(|other| other.is_ipv4() != address.is_ipv4())
    };
    let is_beside = |interface| {
        own.iter()
            .any(|other| other.interface == interface && named.contains(&other.address))
    };
    own.iter()
        .filter(|own| is_missing(&own.address) && is_beside(own.interface))
        .map(|own| own.address)
        .collect()
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
    use netlink_packet_route::AddressFamily;
    use uuid::Uuid;

    use super::*;

    // A network of both families on the first interface, containers on the second, IPv4 alone on the third.
    const HOST: [(u32, &str); 6] = [
        (1, "10.77.0.1"),
        (1, "fd77::1"),
        (2, "172.17.0.1"),
        (2, "fd99::1"),
        (3, "10.128.0.7"),
        (3, "10.128.0.8"),
    ];

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn left_out_of(named: &[&str]) -> Vec<String> {
        let own = HOST.map(|(interface, text)| Own {
            interface,
            address: address(text),
        });
        let named: Vec<IpAddr> = named.iter().map(|text| address(text)).collect();
        let left_out = left_out(&own, &named);
        left_out.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_of_the_other_family_on_the_same_interface_are_left_out() {
        assert_eq!(left_out_of(&["10.77.0.1"]), ["fd77::1"]);
        assert_eq!(left_out_of(&["fd77::1"]), ["10.77.0.1"]);
        assert_eq!(left_out_of(&["172.17.0.1"]), ["fd99::1"]);
        assert!(left_out_of(&["10.77.0.1", "fd77::1"]).is_empty());
        // An interface without addresses of the other family, and an address that is behind a translation.
        assert!(left_out_of(&["10.128.0.7"]).is_empty());
        assert!(left_out_of(&["2001:db8::1"]).is_empty());
        assert!(left_out_of(&[]).is_empty());
    }

    #[test]
    fn only_addresses_that_stay_and_leave_their_link_count() {
        let told = |text, flags| {
            let mut message = AddressMessage::default();
            let address = address(text);
            message.header.index = 7;
            message.header.flags = flags;
            message.header.family = match address {
                IpAddr::V4(_) => AddressFamily::Inet,
                IpAddr::V6(_) => AddressFamily::Inet6,
            };
            message.attributes = vec![AddressAttribute::Address(address)];
            own(&message).map(|own| own.address)
        };
        let none = AddressHeaderFlags::empty();
        for text in ["10.77.0.1", "fd77::1"] {
            assert_eq!(told(text, none), Some(address(text)));
        }
        for text in ["127.0.0.1", "169.254.0.1", "::1", "fe80::1"] {
            assert_eq!(told(text, none), None, "{text}");
        }
        let second = AddressHeaderFlags::Secondary;
        assert_eq!(told("10.77.0.2", second), Some(address("10.77.0.2")));
        assert_eq!(told("fd77::2", second), None, "temporary");
        assert_eq!(told("fd77::2", AddressHeaderFlags::Deprecated), None);
    }

    #[test]
    fn of_a_point_to_point_link_the_own_end_counts() {
        let mut message = AddressMessage::default();
        message.attributes = vec![
            AddressAttribute::Address(address("10.77.0.2")),
            AddressAttribute::Local(address("10.77.0.1")),
        ];
        assert_eq!(
            own(&message).map(|own| own.address),
            Some(address("10.77.0.1"))
        );
    }

    #[test]
    fn the_kernel_tells() {
        assert!(here().is_ok_and(|own| own.iter().all(|own| own.interface > 0)));
    }

    #[test]
    fn warning_says_what_to_type() {
        let [v4, v6] = ["10.77.0.1", "fd77::1"].map(address);
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
