//! What the shared harness wants of its surroundings.

#[path = "../../tests/it/support/programs.rs"]
pub mod programs;
