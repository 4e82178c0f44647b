// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Shows that labels are written and read as the contract says: a known packet, whose bytes an independent SipHash
//! made, every kind of malformed options area beside its sound twin, and any bytes at all without a panic.

use dsi_engine::header6::{self, HEADER_LEN};
use dsi_engine::label::{self, MacWords, Start, OPTION_LEN, PLACEHOLDER};
use dsi_engine::{Flow, Label, LabelError, Prf, ScId, SnId};
use proptest::prelude::*;
use siphasher::sip::SipHasher24;
use std::hash::Hasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

struct Sip;

impl Prf for Sip {
    fn siphash_u64x1(key: &[u8; 16], word: u64) -> u64 {
        let mut hasher = SipHasher24::new_with_key(key);
        hasher.write(&word.to_le_bytes());
        hasher.finish()
    }

    fn siphash_u64x3(key: &[u8; 16], words: [u64; 3]) -> u64 {
        sip(key, &words)
    }

    fn siphash_u64x4(key: &[u8; 16], words: [u64; 4]) -> u64 {
        sip(key, &words)
    }

    fn siphash_u64x6(key: &[u8; 16], words: [u64; 6]) -> u64 {
        sip(key, &words)
    }

    fn siphash_u64x7(key: &[u8; 16], words: [u64; 7]) -> u64 {
        sip(key, &words)
    }
}

fn sip(key: &[u8; 16], words: &[u64]) -> u64 {
    let mut hasher = SipHasher24::new_with_key(key);
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    hasher.write(&bytes);
    hasher.finish()
}

const SECRET: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const PAIR_KEY: [u8; 16] = 0xe694_e195_57bf_7f00_e411_7090_1333_c860_u128.to_be_bytes();
const FLOW: Flow = Flow {
    protocol: 17,
    saddr: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
    daddr: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)),
    sport: 40000,
    dport: 8801,
};
/// Node 1, ScID 10, epoch 5, in [`FLOW`].
const OPTION: [u8; OPTION_LEN] = [
    158, 20, 0x10, 5, 0, 0, 0, 1, 0, 0, 0, 10, 0x6e, 0x06, 0xf5, 0x20, 0x76, 0xdd, 0x02, 0x51,
];

fn node(snid: u32) -> SnId {
    SnId::node(snid).unwrap()
}

#[test]
fn a_known_packet_has_the_known_label() {
    assert_eq!(label::pair_key::<Sip>(&SECRET, node(1)), PAIR_KEY);
    let sealed = Label::sealed::<Sip>(5, node(1), ScId(10), &FLOW, None, &PAIR_KEY);
    assert_eq!(
        label::mac_words(&sealed, &FLOW, None),
        MacWords::V4([
            0x1005_0011_0000_0001,
            0x0000_000a_0a00_0001,
            0x0a00_0002_9c40_2261
        ])
    );
    assert_eq!(sealed.encode(), OPTION);
    assert_eq!(Label::parse(&OPTION), Ok(sealed));
    assert!(sealed.verify::<Sip>(&FLOW, None, &PAIR_KEY));
}

#[test]
fn a_label_verifies_in_its_own_packet_only() {
    let sealed = Label::sealed::<Sip>(5, node(1), ScId(10), &FLOW, None, &PAIR_KEY);
    for other in [
        Label { epoch: 6, ..sealed },
        Label {
            snid: node(2),
            ..sealed
        },
        Label {
            scid: ScId(20),
            ..sealed
        },
        Label {
            mac: sealed.mac ^ 1,
            ..sealed
        },
    ] {
        assert!(!other.verify::<Sip>(&FLOW, None, &PAIR_KEY), "{other:?}");
    }
    for other in [
        Flow {
            protocol: 6,
            ..FLOW
        },
        Flow {
            saddr: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 3)),
            ..FLOW
        },
        Flow {
            daddr: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 3)),
            ..FLOW
        },
        Flow {
            sport: 40001,
            ..FLOW
        },
        Flow {
            dport: 9001,
            ..FLOW
        },
    ] {
        assert!(!sealed.verify::<Sip>(&other, None, &PAIR_KEY), "{other:?}");
    }
    let other_sender = label::pair_key::<Sip>(&SECRET, node(2));
    assert!(!sealed.verify::<Sip>(&FLOW, None, &other_sender));
}

#[test]
fn a_streams_label_verifies_in_its_own_connection_only() {
    let start = |sender, receiver| Some(Start { sender, receiver });
    for flow in [FLOW, FLOW6] {
        let seal = |start| Label::sealed::<Sip>(5, node(1), ScId(10), &flow, start, &PAIR_KEY);
        let opening = seal(start(7, None));
        let answered = seal(start(7, Some(9)));
        assert!(opening.verify::<Sip>(&flow, start(7, None), &PAIR_KEY));
        assert!(answered.verify::<Sip>(&flow, start(7, Some(9)), &PAIR_KEY));
        for other in [
            start(8, None),
            start(7, Some(0)),
            start(7, Some(9)),
            start(0, Some(7)),
            None,
        ] {
            assert!(!opening.verify::<Sip>(&flow, other, &PAIR_KEY), "{other:?}");
        }
        for other in [
            start(7, None),
            start(7, Some(8)),
            start(8, Some(9)),
            start(9, Some(7)),
            None,
        ] {
            assert!(
                !answered.verify::<Sip>(&flow, other, &PAIR_KEY),
                "{other:?}"
            );
        }
        let plain = seal(None);
        assert!(!plain.verify::<Sip>(&flow, start(7, Some(9)), &PAIR_KEY));
        // Nor does a code serve with the flag turned.
        let turned = |label: Label| Label {
            stream: !label.stream,
            ..label
        };
        assert!(!turned(plain).verify::<Sip>(&flow, start(0, Some(0)), &PAIR_KEY));
        assert!(!turned(opening).verify::<Sip>(&flow, None, &PAIR_KEY));
        assert_eq!(Label::parse(&answered.encode()), Ok(answered));
        assert_eq!(answered.encode()[2], 0x11);
    }
}

#[test]
fn a_known_stream_has_the_known_input() {
    let start = Some(Start {
        sender: 0x0102_0304,
        receiver: Some(0x0506_0708),
    });
    let flow = Flow {
        protocol: 6,
        ..FLOW
    };
    let sealed = Label::sealed::<Sip>(5, node(1), ScId(10), &flow, start, &PAIR_KEY);
    assert_eq!(
        label::mac_words(&sealed, &flow, start),
        MacWords::V4Stream([
            0x1105_0006_0000_0001,
            0x0000_000a_0a00_0001,
            0x0a00_0002_9c40_2261,
            0x0102_0304_0506_0708
        ])
    );
    let opening = Some(Start {
        sender: 0x0102_0304,
        receiver: None,
    });
    assert_eq!(
        label::mac_words(&sealed, &flow, opening),
        MacWords::V4Stream([
            0x1105_0106_0000_0001,
            0x0000_000a_0a00_0001,
            0x0a00_0002_9c40_2261,
            0x0102_0304_0000_0000
        ])
    );
}

#[test]
fn a_label_is_found_among_other_options() {
    let label = Label::parse(&OPTION).unwrap();
    let area = |before: &[u8], after: &[u8]| [before, &OPTION, after].concat();
    for sound in [
        area(&[], &[]),
        area(&[1, 1], &[0, 0]),
        area(&[7, 3, 4], &[1]),
        area(&[], &[0, 158, 20]), // behind the end of the list nothing counts
    ] {
        assert_eq!(label::find(&sound), Ok(Some(label)), "{sound:?}");
    }
    for without in [
        &[][..],
        &[0],
        &[1, 1, 1, 0],
        &[7, 3, 4, 0],
        &[0, 158, 20, 1],
    ] {
        assert_eq!(label::find(without), Ok(None), "{without:?}");
    }
}

#[test]
fn a_malformed_area_is_refused() {
    for (area, error) in [
        (
            [&OPTION[..], &OPTION[..]].concat(),
            LabelError::Duplicate { offset: 20 },
        ),
        (OPTION[..19].to_vec(), LabelError::Truncated { offset: 0 }),
        (vec![1, 158], LabelError::Truncated { offset: 1 }),
        (vec![7, 0, 1, 1], LabelError::Truncated { offset: 0 }),
        (vec![7, 1, 1, 1], LabelError::Truncated { offset: 0 }),
        (vec![7, 5, 1, 1], LabelError::Truncated { offset: 0 }),
        (
            vec![158, 4, 0x10, 5],
            LabelError::Length {
                offset: 0,
                found: 4,
            },
        ),
        (
            [&OPTION[..], &[7, 9]].concat(),
            LabelError::Truncated { offset: 20 },
        ),
    ] {
        assert_eq!(label::find(&area), Err(error), "{area:?}");
    }
}

#[test]
fn a_malformed_label_is_refused() {
    let with = |at: usize, byte: u8| {
        let mut option = OPTION;
        option[at] = byte;
        Label::parse(&option)
    };
    assert_eq!(with(0, 159), Err(LabelError::Kind { found: 159 }));
    assert_eq!(
        with(1, 19),
        Err(LabelError::Length {
            offset: 0,
            found: 19
        })
    );
    assert_eq!(with(2, 0x20), Err(LabelError::Version { found: 2 }));
    assert_eq!(with(2, 0x12), Err(LabelError::Flags { found: 2 }));
    assert_eq!(with(5, 1), Err(LabelError::Node { found: 0x0001_0001 }));
    assert_eq!(with(7, 0), Err(LabelError::Node { found: 0 }));
    let mut outside = OPTION;
    outside[8..12].fill(0xFF);
    assert_eq!(
        Label::parse(&outside),
        Err(LabelError::Context { found: u32::MAX })
    );
    assert!(with(7, 2).is_ok());
}

#[test]
fn a_placeholder_is_located_and_never_taken_for_a_label() {
    assert_eq!(label::locate(&PLACEHOLDER), Ok(Some(0)));
    assert_eq!(
        label::find(&PLACEHOLDER),
        Err(LabelError::Version { found: 0 })
    );
}

proptest! {
    #[test]
    fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..=64)) {
        if let Ok(Some(offset)) = label::locate(&bytes) {
            prop_assert_eq!(&bytes[offset..offset + 2], &[158, 20]);
            prop_assert!(offset + OPTION_LEN <= bytes.len());
        }
        if let Ok(Some(label)) = label::find(&bytes) {
            let offset = label::locate(&bytes).unwrap().unwrap();
            prop_assert_eq!(&label.encode()[..], &bytes[offset..offset + OPTION_LEN]);
        }
    }

    #[test]
    fn areas_of_options_are_read_as_a_naive_reader_does(
        options in proptest::collection::vec((prop::sample::select(vec![0_u8, 1, 7, 158]), 0_u8..=24), 0..6),
    ) {
        let mut area = Vec::new();
        for (kind, len) in options {
            match kind {
                0 | 1 => area.push(kind),
                158 => area.extend(OPTION),
                _ => area.extend(std::iter::once(kind).chain([len]).chain((2..len).map(|_| 1))),
            }
        }
        prop_assert_eq!(label::locate(&area).ok(), naive(&area));
    }

    #[test]
    fn what_is_encoded_is_read_back(epoch: u8, snid in 1_u32..=65535, scid in 0_u32..u32::MAX, mac: u64) {
        let label = Label { stream: mac & 1 != 0, epoch, snid: node(snid), scid: ScId(scid), mac };
        prop_assert_eq!(Label::parse(&label.encode()), Ok(label));
    }
}

/// Splits the area into options first and looks for labels then; `None` is an error.
fn naive(area: &[u8]) -> Option<Option<usize>> {
    let mut options = Vec::new();
    let mut rest = area;
    while let [kind, tail @ ..] = rest {
        let len = match kind {
            0 => break,
            1 => 1,
            _ => usize::from(*tail.first()?),
        };
        if len > rest.len() || (*kind != 1 && len < 2) {
            return None;
        }
        options.push((area.len() - rest.len(), &rest[..len]));
        rest = &rest[len..];
    }
    let labels: Vec<_> = options
        .iter()
        .filter(|(_, option)| option[0] == 158)
        .collect();
    match labels.as_slice() {
        [] => Some(None),
        [(offset, option)] if option.len() == OPTION_LEN => Some(Some(*offset)),
        _ => None,
    }
}

const FLOW6: Flow = Flow {
    saddr: IpAddr::V6(Ipv6Addr::new(0xFD77, 0, 0, 0, 0, 0, 0, 1)),
    daddr: IpAddr::V6(Ipv6Addr::new(0xFD77, 0, 0, 0, 0, 0, 0, 2)),
    ..FLOW
};
/// The label of node 1, ScID 10, epoch 5, in [`FLOW6`].
const HEADER: [u8; HEADER_LEN] = [
    17, 2, 1, 0, 0x1E, 18, 0x10, 5, 0, 0, 0, 1, 0, 0, 0, 10, 0xd6, 0x19, 0x54, 0x9e, 0xf9, 0xe1,
    0x46, 0x98,
];
const HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DEST: u8 = 60;
const UDP: u8 = 17;

/// A header of 8 bytes with four bytes of padding.
const fn padded(next: u8) -> [u8; 8] {
    [next, 0, 1, 4, 0, 0, 0, 0]
}

#[test]
fn a_known_ipv6_packet_has_the_known_label() {
    let sealed = Label::sealed::<Sip>(5, node(1), ScId(10), &FLOW6, None, &PAIR_KEY);
    assert_eq!(
        label::mac_words(&sealed, &FLOW6, None),
        MacWords::V6([
            0x1005_0011_0000_0001,
            0x0000_000a_9c40_2261,
            0xfd77_0000_0000_0000,
            1,
            0xfd77_0000_0000_0000,
            2,
        ])
    );
    assert_eq!(header6::encode(&sealed, UDP), HEADER);
    assert_eq!(header6::find(DEST, &HEADER, UDP), Ok(Some(sealed)));
    assert!(sealed.verify::<Sip>(&FLOW6, None, &PAIR_KEY));
    for other in [
        Flow {
            saddr: FLOW6.daddr,
            ..FLOW6
        },
        Flow {
            daddr: FLOW6.saddr,
            ..FLOW6
        },
        Flow {
            sport: 40001,
            ..FLOW6
        },
        Flow {
            protocol: 6,
            ..FLOW6
        },
        FLOW,
    ] {
        assert!(!sealed.verify::<Sip>(&other, None, &PAIR_KEY), "{other:?}");
    }
}

#[test]
fn an_ipv6_label_is_found_behind_other_headers() {
    let label = header6::find(DEST, &HEADER, UDP).unwrap();
    assert!(label.is_some());
    for (first, before) in [
        (DEST, vec![]),
        (HOP, padded(DEST).to_vec()),
        (DEST, padded(DEST).to_vec()),
        (FRAGMENT, vec![DEST, 0, 0, 0, 0, 0, 0, 1]),
        (HOP, [padded(ROUTING), padded(DEST)].concat()),
    ] {
        let area = [&before[..], &HEADER].concat();
        assert_eq!(header6::find(first, &area, UDP), Ok(label), "{area:?}");
    }
    for (first, without) in [
        (UDP, vec![]),
        (HOP, padded(UDP).to_vec()),
        (DEST, vec![UDP, 0, 0, 0, 0, 0, 0, 0]),
        (ROUTING, padded(UDP).to_vec()),
    ] {
        assert_eq!(header6::find(first, &without, UDP), Ok(None), "{without:?}");
    }
    let routed = header6::survey(ROUTING, &padded(UDP), UDP).unwrap();
    assert!(routed.routed);
    assert!(!header6::survey(DEST, &padded(UDP), UDP).unwrap().routed);
}

#[test]
fn malformed_extension_headers_are_refused() {
    let with = |at: usize, byte: u8| {
        let mut header = HEADER;
        header[at] = byte;
        header.to_vec()
    };
    let chain = |next: u8, after: &[u8]| [&with(0, next)[..], after].concat();
    for (first, area, error) in [
        (DEST, chain(DEST, &HEADER), LabelError::Place { offset: 0 }),
        (HOP, HEADER.to_vec(), LabelError::Place { offset: 0 }),
        (
            DEST,
            chain(DEST, &padded(UDP)),
            LabelError::Place { offset: 0 },
        ),
        (
            DEST,
            chain(ROUTING, &padded(UDP)),
            LabelError::Place { offset: 0 },
        ),
        (DEST, with(0, 6), LabelError::Place { offset: 0 }),
        (DEST, with(5, 17), LabelError::Place { offset: 4 }),
        (
            DEST,
            [&[UDP, 2, 0x1E, 18][..], &HEADER[6..], &[1, 0]].concat(),
            LabelError::Place { offset: 2 },
        ),
        (
            DEST,
            [&[UDP, 3, 1, 0], &HEADER[4..], &[0; 8]].concat(),
            LabelError::Place { offset: 4 },
        ),
        (
            DEST,
            HEADER[..16].to_vec(),
            LabelError::Truncated { offset: 0 },
        ),
        (DEST, vec![UDP], LabelError::Truncated { offset: 0 }),
        (
            DEST,
            vec![UDP, 0, 5, 5, 0, 0, 0, 0],
            LabelError::Truncated { offset: 2 },
        ),
        (
            DEST,
            vec![UDP, 0, 1, 3, 0, 0, 0, 5],
            LabelError::Truncated { offset: 7 },
        ),
        (UDP, HEADER.to_vec(), LabelError::Header { found: UDP }),
        (6, vec![], LabelError::Header { found: 6 }),
        (DEST, padded(6).to_vec(), LabelError::Header { found: 6 }),
        (DEST, with(6, 0), LabelError::Version { found: 0 }),
        (DEST, with(6, 0x20), LabelError::Version { found: 2 }),
        (DEST, with(6, 0x13), LabelError::Flags { found: 3 }),
        (DEST, with(11, 0), LabelError::Node { found: 0 }),
    ] {
        assert_eq!(header6::find(first, &area, UDP), Err(error), "{area:?}");
    }
}

proptest! {
    #[test]
    fn any_extension_headers_give_an_answer(
        first in prop::sample::select(vec![HOP, DEST, ROUTING, FRAGMENT, 51, UDP]),
        bytes in proptest::collection::vec(any::<u8>(), 0..=96),
    ) {
        if let Ok(Some(label)) = header6::find(first, &bytes, UDP) {
            prop_assert_eq!(&header6::encode(&label, UDP)[..], &bytes[bytes.len() - HEADER_LEN..]);
        }
    }

    #[test]
    fn chains_are_read_as_a_naive_reader_does(
        links in proptest::collection::vec((prop::sample::select(vec![HOP, DEST, ROUTING, FRAGMENT]), 0_u8..4), 0..5),
    ) {
        let kinds: Vec<u8> = links.iter().map(|link| link.0).chain([UDP]).collect();
        let mut area = Vec::new();
        for ((kind, shape), next) in links.iter().zip(&kinds[1..]) {
            match (*kind, shape) {
                (FRAGMENT, _) => area.extend([*next, 9, 0, 0, 0, 0, 0, 1]),
                (_, 0) => area.extend([&[*next], &HEADER[1..]].concat()),
                (_, 1) => area.extend([*next, 0, 0x1E, 4, 0, 0, 0, 0]),
                _ => area.extend(padded(*next)),
            }
        }
        let carriers: Vec<_> = links
            .iter()
            .enumerate()
            .filter(|(_, (kind, shape))| matches!(*kind, HOP | DEST) && *shape < 2)
            .collect();
        let expected = match carriers.as_slice() {
            [] => Some(false),
            [(at, (DEST, 0))] if at + 1 == links.len() => Some(true),
            _ => None,
        };
        let found = header6::find(kinds[0], &area, UDP).ok().map(|label| label.is_some());
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn what_is_encoded_for_ipv6_is_read_back(epoch: u8, snid in 1_u32..=65535, scid in 0_u32..u32::MAX, mac: u64) {
        let label = Label { stream: mac & 1 != 0, epoch, snid: node(snid), scid: ScId(scid), mac };
        prop_assert_eq!(header6::find(DEST, &header6::encode(&label, 6), 6), Ok(Some(label)));
    }
}
