//! A smoke run of the fuzz target without a fuzzer: the committed corpus as it is, and a bounded number of seeded changes
//! to it. `make fuzz` looks further, with coverage.

use std::fs;
use std::path::Path;

/// Changed inputs.
const CHANGED: usize = 20_000;

fn check(datagram: &[u8]) -> usize {
    let (messages, notices) = dsi_proto::netlink::read_any(datagram);
    assert!(messages <= datagram.len() / 16 + 1, "{datagram:02x?}");
    assert!(notices <= messages, "{datagram:02x?}");
    notices
}

#[test]
fn any_datagram_is_read_or_refused() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/netlink");
    let mut paths: Vec<_> = fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let corpus: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    let notices: usize = corpus.iter().map(|datagram| check(datagram)).sum();
    assert!(
        notices > 0,
        "nothing of the corpus comes as far as a notice"
    );
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize
    };
    for _ in 0..CHANGED {
        let mut bytes = corpus[next() % corpus.len()].clone();
        for _ in 0..1 + next() % 4 {
            let at = next() % (bytes.len() + 1);
            match next() % 4 {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, next() as u8),
                2 if at < bytes.len() => bytes[at] ^= 1 << (next() % 8),
                _ if at < bytes.len() => bytes[at] = [0, 1, 4, 0x7f, 0x80, 0xff][next() % 6],
                _ => {}
            }
        }
        check(&bytes);
    }
}
