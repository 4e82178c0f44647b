// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Shows that identifiers, binary labels and the names that the audit gives are what the contracts say.

use dsi_engine::{decide, xattr, Class, Mode, ProcessPermission, Reason, ScId, SnId, XattrError};
use proptest::prelude::*;

#[test]
fn a_binary_label_has_one_spelling() {
    assert_eq!(xattr::parse(b"10"), Ok(ScId(10)));
    assert_eq!(xattr::parse(b"0"), Ok(ScId::KERNEL));
    assert_eq!(xattr::parse(b"4294967294"), Ok(ScId(u32::MAX - 1)));
    for (value, error) in [
        (&b""[..], XattrError::Empty),
        (b"4294967295", XattrError::OutOfRange),
        (b"9999999999", XattrError::OutOfRange),
        (b"12345678901", XattrError::TooLong { len: 11 }),
        (b"10\n", XattrError::NotADigit { at: 2, byte: b'\n' }),
        (b"10\0", XattrError::NotADigit { at: 2, byte: 0 }),
        (b"+10", XattrError::NotADigit { at: 0, byte: b'+' }),
        (b" 10", XattrError::NotADigit { at: 0, byte: b' ' }),
        (b"010", XattrError::LeadingZero),
        (b"00", XattrError::LeadingZero),
    ] {
        assert_eq!(xattr::parse(value), Err(error), "{value:?}");
    }
}

proptest! {
    #[test]
    fn any_value_gives_an_answer(value in proptest::collection::vec(any::<u8>(), 0..16)) {
        let expected = std::str::from_utf8(&value)
            .ok()
            .and_then(|text| text.parse::<u32>().ok().filter(|n| n.to_string() == text && *n != u32::MAX));
        prop_assert_eq!(xattr::parse(&value).ok(), expected.map(ScId));
    }
}

#[test]
fn zones_are_what_a_policy_may_name() {
    for (scid, zone) in [
        (0, false),
        (1, false),
        (2, true),
        (3, true),
        (u32::MAX - 1, true),
        (u32::MAX, false),
    ] {
        assert_eq!(ScId(scid).is_zone(), zone, "{scid}");
    }
    assert_eq!([SnId::node(0), SnId::node(65536)], [None, None]);
    assert_eq!(SnId::node(65535).map(SnId::get), Some(65535));
}

#[test]
fn numbers_and_names_are_those_of_the_netlink_specification() {
    let yaml = include_str!("../../../proto/netlink/dsi.yaml");
    assert_eq!(
        entries(yaml, "reason"),
        Reason::ALL.iter().map(|r| r.name()).collect::<Vec<_>>()
    );
    assert_eq!(
        entries(yaml, "mode"),
        Mode::ALL.iter().map(|m| m.name()).collect::<Vec<_>>()
    );
    assert_eq!(
        entries(yaml, "class"),
        Class::ALL.iter().map(|c| c.name()).collect::<Vec<_>>()
    );
    for (n, reason) in (0..).zip(Reason::ALL) {
        assert_eq!(
            (reason.number(), Reason::from_number(n)),
            (n, Some(*reason))
        );
    }
    assert_eq!(Reason::from_number(Reason::ALL.len() as u32), None);
}

#[test]
fn without_a_policy_an_enrolled_node_starts_and_zones_are_apart() {
    let ask = |closed, subject, target, permission| {
        decide::process_without_policy(closed, ScId(subject), ScId(target), permission).permit
    };
    for (subject, target, permission, permit) in [
        (2, 2, ProcessPermission::Trace, true),
        (2, 10, ProcessPermission::Signal, true),
        (2, 1, ProcessPermission::Signal, true),
        (2, 1, ProcessPermission::Trace, false),
        (2, 1, ProcessPermission::UnixConnect, true),
        (2, 10, ProcessPermission::Trace, true),
        (2, 10, ProcessPermission::UnixConnect, false),
        (2, 10, ProcessPermission::UseFd, false),
        (1, 10, ProcessPermission::Trace, true),
        (10, 10, ProcessPermission::Trace, true),
        (10, 0, ProcessPermission::Signal, true),
        (10, 1, ProcessPermission::Signal, false),
        (10, 2, ProcessPermission::Signal, false),
        (10, 20, ProcessPermission::Signal, false),
    ] {
        assert_eq!(
            ask(true, subject, target, permission),
            permit,
            "{subject} to {target}"
        );
        assert!(ask(false, subject, target, permission));
    }
    for (subject, permit) in [(0, true), (1, true), (2, true), (10, false)] {
        assert_eq!(
            decide::system_without_policy(true, ScId(subject)).permit,
            permit
        );
        assert!(decide::system_without_policy(false, ScId(subject)).permit);
    }
}

/// The entries of an enum of the specification, written as a list in brackets or as one item a line.
fn entries<'y>(yaml: &'y str, name: &str) -> Vec<&'y str> {
    let heading = format!("    name: {name}\n");
    let from = yaml
        .find(&heading)
        .expect("the enum is in the specification")
        + heading.len();
    let text = &yaml[from..];
    let text = &text[text.find("entries:").expect("it has entries") + "entries:".len()..];
    if let Some(list) = text.trim_start_matches(' ').strip_prefix('[') {
        let list = &list[..list.find(']').expect("the list ends")];
        return list.split(',').map(str::trim).collect();
    }
    text.lines()
        .skip(1)
        .map_while(|line| line.trim_start().strip_prefix("- "))
        .collect()
}

/// What is told of refusals: the first of each kind, whatever else is refused, and again in each period.
mod told {
    use dsi_engine::{ScId, Told};

    const MOUNT: u32 = 165;
    const EXECVE: u32 = 59;

    #[test]
    fn the_same_again_is_told_once_in_a_period() {
        let told = Told::<64>::new();
        let due = |period| told.is_due(ScId(10), 7, EXECVE, period);
        assert!(due(1));
        assert!(!due(1));
        assert!(!due(1));
        assert!(due(2));
        assert!(!due(2));
    }

    #[test]
    fn one_kind_keeps_no_other_back() {
        let told = Told::<1>::new();
        for _ in 0..3 {
            assert!(told.is_due(ScId(10), 7, EXECVE, 1));
            assert!(told.is_due(ScId(10), 7, MOUNT, 1));
            assert!(told.is_due(ScId(10), 5, MOUNT, 1));
            assert!(told.is_due(ScId(11), 5, MOUNT, 1));
        }
    }

    #[test]
    fn kinds_are_told_apart_to_the_last_bit() {
        let told = Told::<1024>::new();
        let zones = [0, 2, 3, 10, 1 << 16, 1 << 31, u32::MAX - 1];
        for subject in zones.map(ScId) {
            for what in zones {
                for call in [0, 1, 59, 165, 548, 4095] {
                    assert!(
                        told.is_due(subject, what, call, 1),
                        "{subject} {what} {call}"
                    );
                    assert!(!told.is_due(subject, what, call, 1));
                }
            }
        }
    }
}
