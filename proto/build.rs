//! Generates the gRPC code from the `.proto` files, in Rust alone: no `protoc` is looked for or run.

use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const FILES: [&str; 4] = [
    "dsi/v1/types.proto",
    "dsi/v1/enrolment.proto",
    "dsi/v1/manager.proto",
    "dsi/v1/admin.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in FILES {
        println!(
            "cargo::rerun-if-changed={}",
            Path::new(ROOT).join(file).display()
        );
    }
    let descriptors = protox::compile(FILES, [ROOT])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
