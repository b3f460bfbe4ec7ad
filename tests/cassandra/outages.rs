//! The node killed, frozen, away, and short of others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use walcast::projector::cassandra::{CassandraStore, Config};
use walcast::projector::{ApplyError, Opening, Store, StoreBatch, StoreError};

use crate::harness::{Place, at, batch, disturbed, execute, id, now, operator, query, row, rows, shared, subject};
use crate::wire::Wire;

/// How long a node that comes back may stay unnoticed: the driver's pauses between attempts are ten seconds at most.
const NOTICED_WITHIN: Duration = Duration::from_secs(30);

fn is_passing(error: &ApplyError) -> bool {
    matches!(error, ApplyError::Store(StoreError::Unavailable { .. }))
}

/// A store with a timeout so short that a busy machine exceeds it now and then.
async fn opened(place: &Place) -> CassandraStore {
    let store = place.store();
    let started = Instant::now();
    while let Err(error) = store.prepare().await {
        assert!(error.retryable() && started.elapsed() < NOTICED_WITHIN, "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    store
}

/// Applies a batch that failed as the pipeline does, however often that takes. An earlier attempt may have been carried out.
async fn apply_again(store: &CassandraStore, run: &Arc<StoreBatch>) {
    let started = Instant::now();
    loop {
        match store.apply(run).await {
            Ok(()) => return,
            Err(ApplyError::WrongPosition { found, .. }) if found == run.projected => return,
            Err(error) => assert!(is_passing(&error), "{error}"),
        }
        assert!(started.elapsed() < NOTICED_WITHIN, "the store is not used again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Asks until an answer comes: a batch that was carried out before the kill is known to be, and asks nothing of the node.
async fn answers_again(store: &CassandraStore) {
    let started = Instant::now();
    while let Err(error) = store.ask().await {
        assert!(error.retryable() && started.elapsed() < NOTICED_WITHIN, "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_in_the_middle_of_batches_loses_and_doubles_nothing() {
    let node = disturbed().await;
    let place = Place::on(&node);
    let store = place.open().await;
    let (size, mut done, mut cut_off) = (400, 0, 0);
    store.apply(&batch(0, rows(0, size))).await.expect("applied");
    done += size;
    for round in 0..5u64 {
        let run = batch(done, rows(done, size));
        let begun = Instant::now();
        let killed = async {
            // From the first rows to the cursor, which takes some tens of milliseconds.
            tokio::time::sleep(Duration::from_millis(10 + round * 25)).await;
            tokio::task::block_in_place(|| node.kill());
            begun.elapsed()
        };
        let (outcome, _) = tokio::join!(store.apply(&run), killed);
        match outcome {
            Ok(()) => {}
            Err(error) => {
                assert!(is_passing(&error), "{error}");
                cut_off += 1;
            }
        }
        let asked = Instant::now();
        let down = store.fetch(&subject("s"), id(1), now()).await;
        assert!(matches!(down, Err(StoreError::Unavailable { .. })), "{down:?}");
        assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
        let asked = store.ask().await;
        assert!(
            matches!(asked, Err(StoreError::Unavailable { .. })),
            "who only knows the position says that all is well: {asked:?}"
        );
        tokio::task::block_in_place(|| node.restart());
        apply_again(&store, &run).await;
        answers_again(&store).await;
        done += size;
    }
    assert!(cut_off > 0, "no batch was cut off");
    // A new process, which knows nothing of the old one's connections.
    let store = place.open().await;
    assert_eq!(store.projected().await.expect("read"), at(done));
    let found = store.after(&subject("s"), 0, usize::MAX, usize::MAX, now()).await.expect("read");
    let ids: Vec<u64> = found.iter().map(|(id, _)| u64::from(id.get())).collect();
    assert_eq!(ids, (1..=done).collect::<Vec<_>>());
    for (id, message) in found {
        assert_eq!(message.body, format!("body {id}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_is_given_up_in_time_and_used_again() {
    let node = disturbed().await;
    let mut place = Place::on(&node);
    place.config.request_timeout = Duration::from_secs(1);
    let store = opened(&place).await;
    apply_again(&store, &batch(0, rows(0, 100))).await;
    node.freeze();
    let run = batch(100, rows(100, 100));
    for _ in 0..3 {
        let asked = Instant::now();
        let error = store.apply(&run).await.expect_err("it hangs");
        assert!(is_passing(&error), "{error}");
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        let error = store.fetch(&subject("s"), id(1), now()).await.expect_err("it hangs");
        assert!(error.retryable(), "{error}");
    }
    node.thaw();
    apply_again(&store, &run).await;
    assert_eq!(store.projected().await.expect("read"), at(200));
    assert!(store.fetch(&subject("s"), id(200), now()).await.expect("read").is_some());
}

/// A way to the node on which 256 rows of a KiB take 0.6 s, and each request may take 0.5 s.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_too_much_at_once_is_written_with_less() {
    let node = shared();
    let mut place = Place::on(node);
    let wire = Wire::to(node).await;
    place.config.nodes = vec![wire.address()];
    place.config.request_timeout = Duration::from_millis(500);
    let store = opened(&place).await;
    apply_again(&store, &batch(0, rows(0, 1))).await;
    wire.slow_down(400_000);
    let run = batch(1, (2..=1_000).map(|sequence| row(sequence, "s", vec![7; 1_024])).collect());
    for _ in 0..2 {
        let error = store.apply(&run).await.expect_err("more than goes over in time");
        assert!(is_passing(&error) && error.to_string().contains("timeout"), "{error}");
    }
    apply_again(&store, &run).await;
    assert_eq!(store.projected().await.expect("read"), at(1_000));
}

/// A move of the position whose answer is lost, then carried out or not: the rows are there once, and the position is right.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_found_out() {
    let node = disturbed().await;
    let mut place = Place::on(&node);
    place.config.request_timeout = Duration::from_millis(500);
    let store = opened(&place).await;
    let keyspace = &place.config.keyspace;
    let session = operator(&place.config).await;
    let claim = async || query::<(String,)>(&session, &format!("SELECT claim FROM {keyspace}.cursor")).await;
    let first = claim().await;
    let (mut done, mut lost) = (0, 0);
    // Until one was lost while the position was moved, so that it was in doubt: then the store claims its cursor anew.
    while done < 200 || claim().await == first {
        assert!(done < 2_000, "no answer to a move was lost");
        let round = done / 20 % 20;
        let run = batch(done, rows(done, 20));
        let frozen = async {
            tokio::time::sleep(Duration::from_millis(round * 3)).await;
            node.freeze();
            tokio::time::sleep(Duration::from_millis(700)).await;
            node.thaw();
        };
        let (outcome, ()) = tokio::join!(store.apply(&run), frozen);
        if outcome.is_err() {
            lost += 1;
            apply_again(&store, &run).await;
        }
        done += 20;
        assert_eq!(store.projected().await.expect("read"), at(done));
    }
    assert!(lost > 0, "no answer was lost");
    let count: Vec<(i64,)> = query(&session, &format!("SELECT count(*) FROM {keyspace}.messages")).await;
    assert_eq!(count, [(done.cast_signed(),)]);
}

#[tokio::test]
async fn a_cluster_that_is_away_at_the_start_is_used_once_it_is_there() {
    let node = disturbed().await;
    let place = Place::on(&node);
    node.kill();
    let store = place.store();
    let asked = Instant::now();
    let error = store.prepare().await.expect_err("nobody is there");
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    // Many who ask at once do not wait one after the other.
    let asked = Instant::now();
    let subject = subject("s");
    let fetches = (0..50).map(|_| store.fetch(&subject, id(1), now()));
    for outcome in futures_util::future::join_all(fetches).await {
        assert!(outcome.is_err_and(|error| error.retryable()));
    }
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    node.restart();
    apply_again(&store, &batch(0, rows(0, 3))).await;
    assert_eq!(store.projected().await.expect("read"), at(3));
}

#[tokio::test]
async fn an_address_that_swallows_packets_is_given_up_in_time() {
    // A connection is made, and then nobody answers, wherever the test runs.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let config = Config { nodes: vec![silent.local_addr().expect("bound").to_string()], ..Config::default() };
    let store = CassandraStore::new(config, 1, 1, Opening::Take).expect("a good configuration");
    let asked = Instant::now();
    let error = store.prepare().await.expect_err("nobody is there");
    assert!(error.retryable(), "{error}");
    assert!(asked.elapsed() > Duration::from_secs(1), "somebody answered: {error}");
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn too_few_nodes_for_the_consistency_are_waited_for() {
    let place = Place::on(shared());
    let keyspace = &place.config.keyspace;
    let copies = |copies: u32| {
        format!(
            "ALTER KEYSPACE {keyspace} WITH replication = {{'class': 'NetworkTopologyStrategy', 'datacenter1': {copies}}}"
        )
    };
    let store = place.open().await;
    store.apply(&batch(0, rows(0, 10))).await.expect("applied");
    let session = operator(&place.config).await;
    execute(&session, &copies(3)).await;
    let run = batch(10, rows(10, 10));
    let error = store.apply(&run).await.expect_err("one node of three is there");
    assert!(is_passing(&error), "{error}");
    assert!(error.to_string().contains("alive: 1"), "{error}");
    let newer = place.store();
    let error = newer.prepare().await.expect_err("one node of three is there");
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    execute(&session, &copies(1)).await;
    apply_again(&newer, &run).await;
    assert_eq!(newer.projected().await.expect("read"), at(20));
}
