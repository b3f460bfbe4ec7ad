//! The faults, in the order of the table.

mod bit_flips;
mod clock;
mod descriptors;
mod disk_states;
mod frozen;
mod housekeeping;
mod idle;
mod index;
mod index_errors;
mod invisible;
mod io_errors;
mod log_full;
mod reads;
mod reused;
mod shortages;
mod slow;
mod start_up;
mod surgery;
mod two_processes;
mod write_back;

use crate::table::Row;

/// Every row.
pub fn all() -> Vec<Row> {
    let groups = [
        io_errors::rows(),
        idle::rows(),
        write_back::rows(),
        housekeeping::rows(),
        start_up::rows(),
        shortages::rows(),
        disk_states::rows(),
        log_full::rows(),
        descriptors::rows(),
        invisible::rows(),
        frozen::rows(),
        slow::rows(),
        two_processes::rows(),
        clock::rows(),
        surgery::rows(),
        bit_flips::rows(),
        index::rows(),
        index_errors::rows(),
        reads::rows(),
        reused::rows(),
    ];
    groups.into_iter().flatten().collect()
}
