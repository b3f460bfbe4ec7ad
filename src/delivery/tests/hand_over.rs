//! The state machine by itself.

use super::*;
use crate::delivery::hand_over::{Contradiction, HandOver, NEAR_IDS, Range, Step};

fn chunk(ids: impl IntoIterator<Item = u32>, through: u32) -> Chunk {
    let message = |id| {
        let id = MessageId::new(id).expect("an id");
        (id, encoded("s", id))
    };
    Chunk { messages: ids.into_iter().map(message).collect(), through }
}

fn take(hand_over: &mut HandOver, chunk: Chunk) -> Result<Vec<i32>, Contradiction> {
    let mut ids = Vec::new();
    hand_over.take(chunk, |message| ids.push(id_of(message))).map(|()| ids)
}

fn reads(after: u32, through: u32, owed: bool) -> Step {
    Step::Read(Range { after, through, owed })
}

#[test]
fn reads_to_the_end_holds_reads_the_rest_and_joins() {
    let mut one = HandOver::resume(3, 10);
    assert_eq!(one.step(), reads(3, 10, false));
    assert_eq!(take(&mut one, chunk([5, 6], 6)), Ok(vec![5, 6]), "4 has expired");
    assert_eq!(one.step(), reads(6, 10, false));
    assert_eq!(take(&mut one, chunk([], 10)), Ok(vec![]));
    assert_eq!((one.step(), one.settled()), (Step::Hold, 10));
    assert!(one.held(12));
    assert_eq!(one.step(), reads(10, 12, true));
    assert_eq!(take(&mut one, chunk([11, 12], 12)), Ok(vec![11, 12]));
    assert_eq!((one.step(), one.settled()), (Step::Join, 12));
    one.overflowed(15);
    assert_eq!(one.step(), reads(12, 15, true));
    assert_eq!(take(&mut one, chunk([13, 14, 15], 15)), Ok(vec![13, 14, 15]));
    assert_eq!(one.step(), Step::Hold);
    assert!(one.held(15));
    assert_eq!(one.step(), Step::Join);
}

#[test]
fn lets_the_ring_keep_nothing_while_there_is_much_to_read() {
    let mut one = HandOver::fall_back(5, 5);
    assert_eq!(one.step(), Step::Hold);
    assert!(!one.held(5 + NEAR_IDS + 1));
    assert_eq!(one.step(), reads(5, 5 + NEAR_IDS + 1, true));
    let ids = 6..=5 + NEAR_IDS + 1;
    assert_eq!(take(&mut one, chunk(ids.clone(), *ids.end())).map(|ids| ids.len()), Ok(NEAR_IDS as usize + 1));
    assert_eq!(one.step(), Step::Hold);
    assert!(one.held(5 + 2 * NEAR_IDS));
}

#[test]
fn ends_where_something_that_is_owed_is_gone() {
    let mut one = HandOver::fall_back(5, 20);
    assert_eq!(take(&mut one, chunk([6, 8, 9], 9)), Ok(vec![6]));
    assert_eq!((one.step(), one.settled()), (Step::Gone { first_available: 8 }, 6));
    // What can be had comes in a later chunk.
    let mut one = HandOver::fall_back(5, 20);
    assert_eq!(take(&mut one, chunk([6], 9)), Ok(vec![6]));
    assert_eq!(one.step(), reads(9, 20, true));
    assert_eq!(take(&mut one, chunk([], 12)), Ok(vec![]));
    assert_eq!(take(&mut one, chunk([13, 14], 14)), Ok(vec![]));
    assert_eq!((one.step(), one.settled()), (Step::Gone { first_available: 13 }, 6));
    // Or never.
    let mut one = HandOver::fall_back(5, 20);
    assert_eq!(take(&mut one, chunk([], 20)), Ok(vec![]));
    assert_eq!((one.step(), one.settled()), (Step::Gone { first_available: 21 }, 5));
}

#[test]
fn a_chunk_of_another_range_is_a_contradiction() {
    for wrong in [chunk([], 3), chunk([3], 4), chunk([5, 5], 6), chunk([6, 5], 6), chunk([7], 6), chunk([], 11)] {
        let said = format!("{wrong:?}");
        assert_eq!(take(&mut HandOver::resume(3, 10), wrong), Err(Contradiction), "{said}");
    }
}
