//! The broker with the feature `fault-controls`, under a name of its own, so that it can never be taken for the other one.

#[path = "../../src/main.rs"]
mod program;

fn main() -> std::process::ExitCode {
    program::main()
}
