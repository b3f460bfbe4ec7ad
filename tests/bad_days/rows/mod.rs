//! The bad days, in the order of the table.

mod calm;
mod cassandra;
mod crashing;
mod cut;
mod killed;
mod refusing;

use crate::table::Row;

/// Every row.
pub fn all() -> Vec<Row> {
    [calm::rows(), killed::rows(), cut::rows(), refusing::rows(), crashing::rows(), cassandra::rows()]
        .into_iter()
        .flatten()
        .collect()
}
