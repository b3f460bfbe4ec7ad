//! The control: a broker that acknowledges without fdatasync must be found out by the same load, cut and judgement.
//!
//! The store and the checkpoint of the ids, which still sync, know more than the log that is left, and so the broker
//! mostly refuses to start. To count what is lost, both are set aside then. If the log alone does not open either,
//! nothing can be counted: such a start stands for itself and is no figure of lost messages.

use std::time::Instant;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::machine::Machine;
use crate::support::from_env;
use crate::support::load::Load;
use crate::{cut_under_load, seed, settings};

/// What came of the cuts.
#[derive(Debug, Default)]
struct Seen {
    acknowledged: usize,
    /// Starts that were refused.
    refused: usize,
    /// Of these, those that the log alone did not allow either: nothing of them is judged.
    unreadable: usize,
    /// Acknowledged and looked for afterwards.
    judged: usize,
    /// Of these, not found.
    lost: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_skips_the_fsync_is_found_out() {
    let (seed, cycles, started) = (seed(), from_env("WALCAST_CUT_CYCLES", 10), Instant::now());
    let mut random = StdRng::seed_from_u64(seed);
    // Large enough that one segment takes everything: a finished one with a hole would be damage, not a loss to count.
    let mut settings = settings("32MiB");
    settings.push(("FAULT_CONTROL", "skip-fsync"));
    let machine = Machine::new(settings);
    let mut seen = Seen::default();
    for cycle in 1..=cycles {
        let load = Load::new(seed.wrapping_add(cycle));
        machine.replace_disk();
        let guest = machine.boot();
        guest.ready().await.expect("a broker with an empty disk starts");
        cut_under_load(guest, &load, &mut random).await;
        let all = load.with(|ledger| ledger.acknowledged_count());
        seen.acknowledged += all;
        let mut guest = machine.boot();
        let mut ready = guest.ready().await;
        if let Err(refusal) = &ready {
            println!("{refusal}");
            seen.refused += 1;
            guest.cut().await;
            guest = machine.boot_after("rm -rf store ids");
            ready = guest.ready().await;
        }
        match ready {
            Ok(_) => {
                load.judge(guest.grpc(), Load::first_ids()).await;
                seen.judged += all;
                seen.lost += load.with(|ledger| ledger.lost_count());
            }
            Err(refusal) => {
                println!("by the log alone: {refusal}");
                seen.unreadable += 1;
            }
        }
        guest.cut().await;
    }
    println!("power cuts under load      {cycles}");
    println!("acknowledged               {}", seen.acknowledged);
    println!("starts refused             {}", seen.refused);
    println!("of these by the log alone  {}", seen.unreadable);
    println!("acknowledged and judged    {}", seen.judged);
    println!("of these lost              {}", seen.lost);
    println!("took                       {:.0} s", started.elapsed().as_secs_f64());
    assert!(seen.lost > 0, "the control loses nothing: this rig cannot see a missing fsync");
}
