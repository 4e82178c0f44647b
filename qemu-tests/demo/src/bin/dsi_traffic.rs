//! Traffic for tests: echo servers, clients and continuous load over UDP and TCP.
fn main() -> std::process::ExitCode {
    dsi_demo::finish(dsi_demo::traffic::run(std::env::args().skip(1)))
}
