//! What is written.

use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use tokio_postgres::Client;
use walcast::event::{Expiration, MessageId, Projected, Sequence, Subject, clock};
use walcast::projector::{HighWaterMark, Row, StoreBatch};

/// A batch.
pub type Run = Arc<StoreBatch>;

const SUBJECTS: usize = 1_000;

/// Batches of rows on random subjects, kept for an hour, with bodies that do not compress.
pub fn runs(batches: usize, rows: usize, body_bytes: usize) -> Vec<Run> {
    let mut random = StdRng::seed_from_u64(7);
    let mut last = vec![0u32; SUBJECTS];
    let mut sequence = 0;
    let now = clock::now();
    let subject = |number: usize| Subject::new(format!("orders.europe.{number}")).unwrap();
    let mut batch = || {
        let previous = Projected(Sequence::new(sequence));
        let mut marks = std::collections::BTreeMap::new();
        let rows: Vec<Row> = (0..rows)
            .map(|_| {
                sequence += 1;
                let number = random.random_range(0..SUBJECTS);
                last[number] += 1;
                marks.insert(subject(number), (MessageId::new(last[number]).unwrap(), Sequence::new(sequence)));
                let mut body = vec![0; body_bytes];
                random.fill_bytes(&mut body);
                Row {
                    sequence: Sequence::new(sequence),
                    subject: subject(number),
                    id: MessageId::new(last[number]).unwrap(),
                    published_at: now,
                    expiration: Expiration::from_wire(3_600).unwrap(),
                    body: Bytes::from(body),
                }
            })
            .collect();
        let high_water_marks = marks.into_iter().map(HighWaterMark::from).collect();
        Arc::new(StoreBatch { previous, projected: Projected(Sequence::new(sequence)), rows, high_water_marks })
    };
    (0..batches).map(|_| batch()).collect()
}

/// Bytes on the server's disk a message.
pub async fn print_sizes(admin: &Client, rows: usize) {
    let sizes = "SELECT sum(pg_table_size(inhrelid))::bigint, sum(pg_indexes_size(inhrelid))::bigint FROM pg_inherits \
                 WHERE inhparent = 'walcast.messages'::regclass";
    let row = admin.query_one(sizes, &[]).await.unwrap();
    let per = |bytes: i64| bytes as f64 / rows as f64;
    println!("  bytes a message: {:.0} table, {:.0} index", per(row.get(0)), per(row.get(1)));
}
