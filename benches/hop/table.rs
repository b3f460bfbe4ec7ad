//! The table, and the floors.

use crate::figures::median;
use crate::pages::{number, spread};
use crate::{Failure, Figures, LOADS, Rounds, Side};

/// Of the direct rate, on the same processors: the hop reads and writes each call once more.
const RATE_FLOOR: f64 = 0.45;
/// What the hop may add to a call alone, in calls of a server that does nothing: it is one of those.
const HOP_MAX: f64 = 1.0;

/// The block of the page.
///
/// # Errors
/// Nothing was measured.
pub fn markdown(rounds: &Rounds, settings: &str) -> Result<String, Failure> {
    if rounds.is_empty() {
        return Err("nothing was measured".into());
    }
    let mut text = format!(
        "{settings}\n\n| connections x in flight | way | publishes/s | of the owner's | p50 us | p99 us |\n|---|---|---|---|---|---|\n"
    );
    for ((load, side), figures) in rounds {
        let rates: Vec<f64> = figures.iter().map(|figures| figures.rate).collect();
        let of = |part: fn(&Figures) -> f64| number(median(figures.iter().map(part).collect()));
        text.push_str(&format!(
            "| {} x {} | {} | {} | {:.2} | {} | {} |\n",
            load.0,
            load.1,
            side.name(),
            spread(&rates),
            of_direct(rounds, *load, *side),
            of(|figures| figures.p50_us),
            of(|figures| figures.p99_us),
        ));
    }
    let verdict = |kept: bool| if kept { "" } else { " **missed**" };
    let (ratio, added) = (rate_of_hop(rounds), added_by_hop(rounds));
    text.push_str(&format!(
        "\n| load | figure | bound | measured |\n|---|---|---|---|\n\
         | 8 x 32 | rate by another node, of the owner's | at least {RATE_FLOOR} | {ratio:.2}{} |\n\
         | 1 x 1 | p50 by another node above the owner's, in calls of noop | at most {HOP_MAX} | {added:.2}{} |\n",
        verdict(ratio >= RATE_FLOOR),
        verdict(added <= HOP_MAX),
    ));
    Ok(text)
}

/// Whether both floors are kept; NaN of nothing keeps none.
pub fn keeps_floors(rounds: &Rounds) -> bool {
    rate_of_hop(rounds) >= RATE_FLOOR && added_by_hop(rounds) <= HOP_MAX
}

fn rate_of_hop(rounds: &Rounds) -> f64 {
    of_direct(rounds, LOADS[0], Side::Forwarded)
}

/// The median of the rounds' ratios to the owner's rate.
fn of_direct(rounds: &Rounds, load: (u32, u32), side: Side) -> f64 {
    let (own, direct) = (of_load(rounds, load, side), of_load(rounds, load, Side::Direct));
    median(own.iter().zip(direct).map(|(own, direct)| own.rate / direct.rate).collect())
}

fn added_by_hop(rounds: &Rounds) -> f64 {
    let alone = |side| of_load(rounds, LOADS[1], side).iter().map(|figures| figures.p50_us);
    let sides = alone(Side::Forwarded).zip(alone(Side::Direct)).zip(alone(Side::Noop));
    median(sides.map(|((hop, direct), noop)| (hop - direct) / noop).collect())
}

fn of_load(rounds: &Rounds, load: (u32, u32), side: Side) -> &[Figures] {
    rounds.get(&(load, side)).map_or(&[], Vec::as_slice)
}
