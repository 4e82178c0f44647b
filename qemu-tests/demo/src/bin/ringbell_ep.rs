//! RingBell's entry point.
fn main() -> std::process::ExitCode {
    dsi_demo::finish(dsi_demo::entry_point::run(
        dsi_demo::operator::Operator::RingBell,
        std::env::args().skip(1),
    ))
}
