//! PhoneMania's back end.
fn main() -> std::process::ExitCode {
    dsi_demo::finish(dsi_demo::backend::run(
        dsi_demo::operator::Operator::PhoneMania,
        std::env::args().skip(1),
    ))
}
