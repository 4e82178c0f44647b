// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! A smoke run of the fuzz targets without a fuzzer: the committed corpus as it is, and a bounded number of seeded
//! changes to it. `make fuzz` looks further, with coverage.

#[path = "../fuzz/checks.rs"]
mod checks;

use std::fs;
use std::path::{Path, PathBuf};

use dsp_schema::{compile, parse, CompileInput};

/// Changed inputs that each target is shown.
const CHANGED: usize = 20_000;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut paths: Vec<PathBuf> = fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", dir.display());
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// The next number of a xorshift generator.
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 16) as usize
}

fn changed(input: &[u8], other: &[u8], state: &mut u64) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..1 + next(state) % 4 {
        let at = next(state) % (bytes.len() + 1);
        match next(state) % 6 {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, next(state) as u8),
            2 if at < bytes.len() => bytes[at] ^= 1 << (next(state) % 8),
            3 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][next(state) % 5],
            4 if at < bytes.len() => {
                bytes.remove(at);
            }
            _ => bytes
                .splice(at.., other.iter().skip(at).copied())
                .for_each(drop),
        }
    }
    bytes
}

fn smoke(target: &str, seeds: &[Vec<u8>], check: fn(&[u8])) {
    let mut inputs = corpus(target);
    inputs.extend_from_slice(seeds);
    inputs.iter().for_each(|input| check(input));
    let mut state = 0x0064_7369_6675_7a7a;
    for _ in 0..CHANGED {
        let input = &inputs[next(&mut state) % inputs.len()];
        let other = &inputs[next(&mut state) % inputs.len()];
        check(&changed(input, other, &mut state));
    }
}

/// Images of the documents that the tests and the documentation have.
fn images() -> Vec<Vec<u8>> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut images = Vec::new();
    for dir in ["dsp-schema/examples", "qemu-tests/policies"] {
        for entry in fs::read_dir(repository.join(dir)).unwrap() {
            let path = entry.unwrap().path();
            let Ok(policy) = parse(&path.to_string_lossy(), &fs::read(&path).unwrap()) else {
                panic!("{} does not parse", path.display());
            };
            let input = CompileInput {
                cluster_uuid: [1; 16],
                version: 1,
            };
            images.push(compile(&policy, &input).unwrap());
        }
    }
    assert!(!images.is_empty());
    images
}

#[test]
fn any_options_give_an_answer() {
    smoke("label", &[], checks::label);
}

#[test]
fn any_extension_headers_give_an_answer() {
    smoke("header6", &[], checks::header6);
}

/// With `DSI_FUZZ_SEEDS=<dir>` it also leaves the images there, for a fuzzer to begin with.
#[test]
fn any_image_gives_an_answer() {
    let images = images();
    smoke("image", &images, checks::image);
    if let Some(dir) = std::env::var_os("DSI_FUZZ_SEEDS").map(PathBuf::from) {
        for (number, image) in images.iter().enumerate() {
            fs::write(dir.join(format!("seed-{number}")), image).unwrap();
        }
    }
}

#[test]
fn any_attribute_gives_an_answer() {
    smoke("xattr", &[], checks::xattr);
}
