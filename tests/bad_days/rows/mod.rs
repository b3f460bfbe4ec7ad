//! The bad days, in the order of the table.

mod killed;

use crate::table::Row;

/// Every row.
pub fn all() -> Vec<Row> {
    [killed::rows()].into_iter().flatten().collect()
}
