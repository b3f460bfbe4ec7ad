//! What reads may take of memory, seen by what goes over the wire.

use std::time::Duration;

use walcast::projector::Store;

use crate::harness::{Node, Place, batch, id, now, row, shared, subject};
use crate::wire::Wire;

const MIB: u64 = 1024 * 1024;

/// A keyspace on `node` whose store goes over a wire that counts.
async fn place_over_a_wire(node: &Node) -> (Place, Wire) {
    let wire = Wire::to(node).await;
    let mut place = Place::on(node);
    place.config.nodes = vec![wire.address()];
    (place, wire)
}

#[tokio::test]
async fn catching_up_reads_no_body_that_does_not_fit() {
    let (place, wire) = place_over_a_wire(shared()).await;
    let store = place.open().await;
    // Small ones, by which no reader could guess what comes.
    let small = (1..=20).map(|sequence| row(sequence, "s", "small")).collect();
    store.apply(&batch(0, small)).await.expect("applied");
    for sequence in 21..=40 {
        store.apply(&batch(sequence - 1, vec![row(sequence, "s", vec![7; 3 << 20])])).await.expect("applied");
    }
    for (after, bytes_max, messages, bytes) in [
        // Nothing is known of the subject yet, and one body is enough.
        (20, 1, 1, 3 * MIB),
        // From small ones to the first large one.
        (0, 1_000_000, 21, 3 * MIB),
        (0, 4 << 20, 22, 6 * MIB),
    ] {
        let before = wire.answered();
        let found = store.after(&subject("s"), after, 100, bytes_max, now()).await.expect("read");
        let read = wire.answered() - before;
        assert_eq!(found.len(), messages, "{bytes_max} bytes after {after}");
        assert!((bytes..bytes + MIB / 10).contains(&read), "{bytes_max} bytes after {after}: {read} bytes were read");
    }
}

#[tokio::test]
async fn as_many_reads_are_under_way_as_have_room() {
    let (mut place, wire) = place_over_a_wire(shared()).await;
    // Four bodies of this size are 64 MiB.
    place.config.body_bytes = 16 << 20;
    let store = place.open().await;
    store.apply(&batch(0, vec![row(1, "s", "body")])).await.expect("applied");
    let (asked_by, one) = (subject("s"), id(1));
    let mut asked = wire.asked();
    assert!(store.fetch(&asked_by, one, now()).await.expect("read").is_some());
    let question = wire.asked() - asked;
    wire.hold(true);
    asked = wire.asked();
    let fetches = futures_util::future::join_all((0..64).map(|_| store.fetch(&asked_by, one, now())));
    let looked = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let under_way = (wire.asked() - asked) / question;
        wire.hold(false);
        under_way
    };
    let (answers, under_way) = tokio::join!(fetches, looked);
    assert_eq!(under_way, 4);
    assert!(answers.into_iter().all(|answer| answer.is_ok_and(|message| message.is_some())));
}
