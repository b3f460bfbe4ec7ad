//! Slots that move under load, and nodes that are killed meanwhile.

use std::process::Output;
use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;

use crate::days::{BETWEEN, kept, nothing_failed};
use crate::load::more;
use crate::rig::Cluster;
use crate::server::Server;
use crate::shared;
use crate::support::nodes::{NODES, move_command};
use crate::support::{Broker, Setup, eventually, from_env};
use tokio::task::block_in_place;

/// The longest pause of a slot that a move may make.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What a node says of a move when the other one dies.
const STAYED: &str = "slots did not move";
const UNTOLD: &str = "the new owner of slots does not answer";

fn common() -> Setup {
    Setup::new().expect_log(STAYED).expect_log(UNTOLD)
}

/// `walcast cluster move`, which runs until it ends.
fn run(nodes: &[&Broker], slots: &str, to: &str) -> impl Future<Output = Output> + Send + use<> {
    let mut command = move_command(nodes.iter().copied(), slots, to);
    command.arg("--json");
    async { tokio::task::spawn_blocking(move || command.output().expect("it runs")).await.expect("it does not panic") }
}

/// Moves slots, and gives the pauses that the nodes report.
async fn move_slots(cluster: &Cluster, slots: &str, to: &str) -> Vec<Duration> {
    let output = run(&cluster.up().collect::<Vec<_>>(), slots, to).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let moves = said.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    moves.map(|moved| Duration::from_secs_f64(moved["pause_seconds"].as_f64().expect("a number"))).collect()
}

/// Who owns which slots, once all nodes say the same; every slot has exactly one owner that says so of itself.
async fn owners(cluster: &Cluster) -> Vec<String> {
    eventually("all nodes to know the same layout", || async {
        let mut said = Vec::new();
        for node in cluster.up() {
            let status: Value = node.get("/status").await?.json();
            let all = status["cluster"]["nodes"].as_array()?.clone();
            said.push(all.iter().map(|node| node["slots"].as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()?);
        }
        (said.len() == NODES.len() && said.iter().all(|others| *others == said[0])).then(|| said.remove(0))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_the_slots_move_under_load() {
    let cluster = Cluster::of(common).await;
    let load = cluster.load().await;
    more(&load, BETWEEN).await;
    let mut pauses = Vec::new();
    // Three nodes become two: what n1 has goes to both of the others. And three again.
    for (slots, to) in [("342-500", "n0"), ("501-682", "n2"), ("0-511", "n1"), ("683-1023", "n1"), ("0-1023", "n0")] {
        pauses.extend(move_slots(&cluster, slots, to).await);
        more(&load, BETWEEN).await;
    }
    assert_eq!(owners(&cluster).await, ["0-1023", "", ""]);
    pauses.extend(move_slots(&cluster, "342-682", "n1").await);
    pauses.extend(move_slots(&cluster, "683-1023", "n2").await);
    more(&load, BETWEEN).await;
    assert_eq!(owners(&cluster).await, ["0-341", "342-682", "683-1023"]);
    let verdict = load.end().await;
    nothing_failed(&verdict);
    pauses.sort_unstable();
    println!("{} moves under load, pauses of slots {pauses:?}", pauses.len());
    let longest = pauses.last().copied().unwrap_or_default();
    assert!(longest < PAUSE_MAX, "{pauses:?}");
}

/// A node is killed at any moment of a move, in turn the one that gives and the one that gets.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_in_a_move_leaves_one_owner_and_everything() {
    let seed = from_env("WALCAST_SEED", 1);
    println!("WALCAST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::of(common).await;
    let load = cluster.load().await;
    let (mut moved, mut stayed) = (0, 0);
    for round in 0..from_env("WALCAST_MOVES", 6) as usize {
        more(&load, BETWEEN / 3).await;
        let before = owners(&cluster).await;
        // All of one node's slots to another.
        let from = before.iter().position(|slots| !slots.is_empty()).expect("an owner");
        let to = (from + 1 + round % 2) % NODES.len();
        let moving = tokio::spawn(run(&cluster.up().collect::<Vec<_>>(), &before[from], NODES[to]));
        let wait = Duration::from_millis(random.random_range(0..500));
        tokio::time::sleep(wait).await;
        let killed = if round % 2 == 0 { from } else { to };
        cluster.kill(killed).await;
        cluster.bring_back(killed).await;
        let status = moving.await.expect("it does not panic").status;
        let after = owners(&cluster).await;
        let is_moved = after[from].is_empty();
        assert!(is_moved || after == before, "in part: {before:?}, then {after:?}");
        println!(
            "round {round}: {} killed after {wait:?}, {status}, {}",
            NODES[killed],
            if is_moved { "moved" } else { "stayed" }
        );
        if is_moved { moved += 1 } else { stayed += 1 }
    }
    println!("{moved} moved, {stayed} stayed");
    // With a kill a second a publish may meet four of them in its four tries.
    kept(&load.end().await);
}

/// The node that gets slots freezes: the other one takes publishes again in time, and keeps them.
#[tokio::test(flavor = "multi_thread")]
async fn a_taker_that_freezes_holds_up_nobody_for_long() {
    use rustix::process::Signal;
    let cluster = Cluster::of(common).await;
    let load = cluster.load_of(|plan| crate::load::Plan { unmannerly: true, rate: plan.rate / 2, ..plan }).await;
    more(&load, BETWEEN).await;
    let before = owners(&cluster).await;
    let begun = Instant::now();
    cluster.node(1).signal(Signal::STOP);
    // The frozen one cannot be asked for its status.
    let output = run(&[cluster.node(0)], "0-341", "n1");
    let (output, ()) = tokio::join!(output, async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        cluster.node(1).signal(Signal::CONT);
    });
    println!("a frozen taker: the move ended after {:?}", begun.elapsed());
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    more(&load, BETWEEN).await;
    assert_eq!(owners(&cluster).await, before);
    kept(&load.end().await);
}

/// Slots of nodes that share a database move while it is down, and every row is there in the end.
#[tokio::test(flavor = "multi_thread")]
async fn slots_move_while_their_database_is_down() {
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    let common = || shared::common(&url).expect_log(shared::STALLED).expect_log(STAYED).expect_log(UNTOLD);
    let mut cluster = Cluster::of(common).await;
    let load = cluster.load().await;
    more(&load, BETWEEN).await;
    // While it is there: what the store has and the log has not need not be copied.
    let mut pauses = move_slots(&cluster, "0-200", "n1").await;
    more(&load, BETWEEN).await;
    block_in_place(|| server.kill_nine());
    pauses.extend(move_slots(&cluster, "201-341", "n2").await);
    pauses.extend(move_slots(&cluster, "342-400", "n0").await);
    more(&load, BETWEEN).await;
    // Who starts meanwhile knows by itself whose they are.
    for place in [2, 0] {
        cluster.kill(place).await;
        cluster.bring_back(place).await;
    }
    more(&load, BETWEEN).await;
    block_in_place(|| server.start_again());
    more(&load, BETWEEN).await;
    assert_eq!(owners(&cluster).await, ["342-400", "0-200+401-682", "201-341+683-1023"]);
    let (journal, subjects) = (load.journal(), load.subjects());
    nothing_failed(&load.end().await);
    cluster.all_projected().await;
    // Who got slots and who gave them have told the database by now, in whatever order; a start of each is let in.
    for place in 0..NODES.len() {
        cluster.stop(place).await;
        cluster.bring_back(place).await;
    }
    let admin = server.client(&database).await;
    let wrong = shared::wrong_rows(&admin, &journal, &subjects).await;
    assert!(wrong.is_empty(), "{} rows: {:#?}", wrong.len(), wrong.first());
    println!("pauses of slots {pauses:?}");
}
