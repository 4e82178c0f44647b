//! The end user's client.
fn main() -> std::process::ExitCode {
    dsi_demo::finish(dsi_demo::client::run(std::env::args().skip(1)))
}
