//! Nodes, stores in keyspaces of their own, and an operator.

mod node;
mod operator;
mod place;

pub use node::{Node, Setup, disturbed, one_at_a_time, shared};
pub use operator::{execute, operator, query};
pub use place::{LOG, Place, at, batch, id, now, row, rows, subject};
