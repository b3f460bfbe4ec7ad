//! Days of a node that is there twice, on a copy of its data directory.

use std::time::Duration;

use rustix::process::Signal;
use tokio::task::block_in_place;

use crate::days::{BETWEEN, nothing_failed};
use crate::journal::{Broken, Kind, Verdict};
use crate::load::{Load, Plan, lock, more};
use crate::rig::Cluster;
use crate::server::Server;
use crate::shared::{common, wrong_rows};
use crate::support::nodes::{NODES, copy_of};
use crate::support::{Setup, eventually};

/// What the earlier of two processes with one log ends with.
const FENCED: &str = "belongs to another walcast now";

/// Exit code of a broker that a failure has ended.
const FAILED: i32 = 1;

/// Exit code of one that must not start as it is.
const REFUSED: i32 = 2;

/// What the later of two processes says that were started with one log at once.
const COPIED: &str = "another process has had the store with the same start of this log";

/// Nodes that are about to be doubled.
fn doubled(common: Setup) -> Setup {
    [FENCED, COPIED, "a task failed"].iter().fold(common, |setup, said| setup.expect_log(said))
}

/// Clients that send again until they are answered: with one of two processes gone, its address is nobody's until somebody acts.
async fn patient_load(cluster: &Cluster) -> Load {
    cluster.load_of(|plan| Plan { unmannerly: true, rate: plan.rate / 2, ..plan }).await
}

/// A copy of the volume, as a snapshot has it, is given to a second process while the first goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_double_on_an_older_copy_gives_no_id() {
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    let cluster = Cluster::with_room_for_another(|| common(&url)).await;
    let load = cluster.load().await;
    more(&load, BETWEEN).await;
    let node = cluster.node(0);
    node.signal(Signal::STOP);
    let copy = copy_of(node.data());
    node.signal(Signal::CONT);
    let behind = node.position("durable").await;
    eventually("the store to be ahead of the copy", || async {
        (node.position("projected").await > behind).then_some(())
    })
    .await;
    let double = cluster.double_of(0, common(&url)).data_dir(copy);
    let (code, said) = block_in_place(|| double.refuse());
    assert_eq!(code, REFUSED, "{said}");
    assert!(said.contains("but the log ends at"), "its log lacks what the store has: {said}");
    // The first one has not noticed.
    more(&load, BETWEEN).await;
    assert!(cluster.node(0).get("/livez").await.is_some());
    let (journal, subjects) = (load.journal(), load.subjects());
    nothing_failed(&load.end().await);
    cluster.all_projected().await;
    let wrong = wrong_rows(&server.client(&database).await, &journal, &subjects).await;
    assert!(wrong.is_empty(), "{} rows: {:#?}", wrong.len(), wrong.first());
}

/// Two processes of one volume and its copy, both there before either writes: both have the same log, and the store tells them apart only
/// when they write.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_serve_at_once_one_stays() {
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    let mut cluster = Cluster::with_room_for_another(|| doubled(common(&url))).await;
    let load = patient_load(&cluster).await;
    more(&load, BETWEEN).await;
    // Until both are there: else the one that is there first moves the store on, and the other sees that its log lacks something.
    load.hold_the_first_node(true);
    more(&load, BETWEEN / 3).await;
    cluster.stop(0).await;
    let copy = copy_of(cluster.settings(0).data());
    let double = doubled(cluster.double_of(0, common(&url))).data_dir(&copy);
    // One right after the other: at the very same time the one that comes to the store first may end before it serves.
    cluster.start_again(0).await;
    let double = double.start().await;
    cluster.envoy.healthy(NODES.len() + 1).await;
    load.hold_the_first_node(false);
    let gone = eventually("one of them to end", || async {
        let (first, second) = tokio::join!(cluster.node(0).get("/livez"), double.get("/livez"));
        (first.is_none() || second.is_none()).then_some((first.is_none(), second.is_none()))
    })
    .await;
    // Whoever is left has the log from here on.
    match gone {
        (true, false) => {
            let (code, said) = cluster.ended(0, FENCED).await;
            assert!(code == Some(FAILED) && said > 0, "{code:?}");
            double.stop().await;
            cluster.change(0, |setup| setup.data_dir(copy));
            cluster.bring_back(0).await;
        }
        (false, true) => {
            let (status, ended) = double.wait().await;
            assert!(status.code() == Some(FAILED) && ended.logged(FENCED) > 0, "{status}");
        }
        both => panic!("one must stay: {both:?}"),
    }
    // What the one that is gone has acknowledged and not projected has ids that the other gives, too. Beyond those none is.
    let journal = load.journal();
    let last_ids = lock(&journal).last_ids();
    eventually("ids beyond those of both", || async {
        let now = lock(&journal).last_ids();
        last_ids.iter().zip(&now).step_by(NODES.len()).all(|(then, now)| now > then).then_some(())
    })
    .await;
    let given_twice = lock(&journal).given_twice();
    more(&load, BETWEEN).await;
    let verdict = load.end_within(Duration::from_secs(1)).await;
    assert!(verdict.failed.is_empty(), "{:?}", verdict.failed.first());
    assert_eq!(verdict.count(Kind::Twice), given_twice, "{:?}", verdict.broken.last());
    only_of_the_doubled(&verdict);
}

/// No promise of another node's subjects is broken: every third subject is the first node's.
fn only_of_the_doubled(verdict: &Verdict) {
    let of_others = |broken: &&Broken| broken.subject.is_some_and(|it| !it.is_multiple_of(NODES.len()));
    let others: Vec<_> = verdict.broken.iter().filter(of_others).collect();
    assert!(others.is_empty(), "{others:#?}");
}

/// The control, and what docs/cluster.md says that nobody can see: each node has a store of its own, and nothing tells the two
/// from each other.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_shared_database_a_double_gives_ids_twice_for_ever() {
    let cluster = Cluster::with_room_for_another(Setup::new).await;
    let load = cluster.load_of(|plan| Plan { unmannerly: true, ..plan }).await;
    more(&load, BETWEEN).await;
    let node = cluster.node(0);
    node.signal(Signal::STOP);
    let copy = copy_of(node.data());
    node.signal(Signal::CONT);
    let double = cluster.double_of(0, Setup::new()).data_dir(copy).start().await;
    cluster.envoy.healthy(NODES.len() + 1).await;
    let mut before = lock(&load.journal()).given_twice();
    for _ in 0..2 {
        more(&load, BETWEEN).await;
        let now = lock(&load.journal()).given_twice();
        assert!(now > before, "the rig did not notice: {now} ids given twice, {before} before");
        before = now;
    }
    let verdict = load.end_within(Duration::from_secs(1)).await;
    only_of_the_doubled(&verdict);
    double.stop().await;
}
