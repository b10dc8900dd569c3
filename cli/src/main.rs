//! `partywall`: parse, hand over, exit.
use std::process::ExitCode;

fn main() -> ExitCode {
    // `partywall demo` starts this same binary as its tenants' processes.
    if let Some(code) = partywall_workload::run_if_worker() {
        return code;
    }
    partywall_cli::run()
}
