//! The program in each guest that does what the harness asks. See `dsi_qemu_tests::protocol`.

fn main() -> std::process::ExitCode {
    match dsi_qemu_tests::agent::serve() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dsi-guest-agent: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
