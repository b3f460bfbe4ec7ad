//! Every query of every panel, variable and recording rule has data on a broker under load and faults, seen by a real Prometheus.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use walcast::cluster::slot_of;

use crate::api::Rule;
use crate::boards::{self, Query, repository};
use crate::envoy::Plan as EnvoyPlan;
use crate::load::{self, Load};
use crate::places::{self, Seen};
use crate::prometheus::{Plan, Prometheus, Target};
use crate::server::Server;
use crate::support::{Broker, eventually, nodes, programs};
use crate::work::Work;

/// Ten scrapes of the rig, as Grafana's `$__rate_interval` is at least four.
const RATE_INTERVAL: &str = "5s";
/// Longer than the test takes: a query counts if it has data at any time of it.
const WHOLE_TEST: &str = "10m";
/// A fraction of what the load asks for, so that Envoy limits some of it.
const PUBLISHES_PER_SECOND: u32 = 30;

/// A straight line through the last hour may end below 0: others use the disk, too.
const MAY_BE_NEGATIVE: [&str; 1] = ["resources.json: Free in four hours A"];
/// The place of a recording rule. What it records has data; whether a panel of it is above 0 is the panel's matter.
const RECORDED: &str = "recorded";

fn all_queries() -> (usize, Vec<Query>) {
    let boards: Vec<_> = boards::shipped();
    let boards: Vec<_> = boards.iter().map(|(name, board)| boards::queries(name, board, RATE_INTERVAL)).collect();
    let panels = boards.iter().map(|board| board.panels).sum();
    (panels, boards.into_iter().flat_map(|board| board.queries).collect())
}

/// Why a query is as good as dead, and its highest value; no reason if it is alive.
async fn fault(prometheus: &Prometheus, query: &Query) -> (Option<String>, f64) {
    let best = match places::highest(prometheus, &query.expression, WHOLE_TEST).await {
        Err(error) => return (Some(format!("{}: {error}: {}", query.place, query.expression)), f64::NAN),
        Ok(best) => best,
    };
    let Query { place, expression } = query;
    let complain = |what: &str| Some(format!("{place}: {what}: {expression}"));
    let may_be_zero = place.starts_with(RECORDED) || places::exempt(place).is_some();
    let fault = match best {
        None => complain("no data"),
        Some(best) if !best.is_finite() => complain("nothing but NaN or infinity"),
        Some(best) if best < 0.0 && !MAY_BE_NEGATIVE.contains(&&**place) => {
            complain(&format!("never above 0, but {best}"))
        }
        Some(best) if best == 0.0 && !may_be_zero => complain("never above 0"),
        Some(_) => None,
    };
    (fault, best.unwrap_or(f64::NAN))
}

/// The files of rules that are shipped.
fn rules() -> Vec<PathBuf> {
    let all = fs::read_dir(repository("deploy/prometheus")).into_iter().flatten().flatten();
    let named = |file: &PathBuf| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("walcast."));
    all.map(|file| file.path()).filter(named).collect()
}

/// The series that an alert looks at, which must be there while it is silent. That it fires is shown elsewhere.
fn series_of_alert(rule: &Rule) -> impl Iterator<Item = Query> {
    const FAMILIES: [&str; 5] = ["walcast", "method_", "active_", "process_", "envoy_"];
    let words = rule.query.split(|letter: char| !letter.is_alphanumeric() && !"_:".contains(letter));
    let series = words.filter(|word| FAMILIES.iter().any(|family| word.starts_with(family)) && word.len() > 8);
    let query = |word: &str| Query { place: format!("{RECORDED} {}", rule.name), expression: word.to_owned() };
    series.map(query).collect::<Vec<_>>().into_iter()
}

/// Waits until no query has a fault; gives those that still have one, and the highest value of each place.
async fn faults(prometheus: &Prometheus, queries: &[Query]) -> (Vec<String>, BTreeMap<String, f64>) {
    let (mut found, mut best) = (Vec::new(), BTreeMap::new());
    for _ in 0..30 {
        found.clear();
        for query in queries {
            let (fault, highest) = fault(prometheus, query).await;
            found.extend(fault);
            best.insert(query.place.clone(), highest);
        }
        if found.is_empty() {
            break;
        }
        prometheus.scraped(2).await;
    }
    (found, best)
}

/// What the broker says in the faults of this test.
const ANNOUNCED: [&str; 4] =
    ["projection waits for the store", "it is set aside as a dead letter", "store", "the log was not closed in order"];

/// A broker with Postgres at fixed ports: after kill -9 Envoy and Prometheus find it again.
async fn broker(server: &Server, url: &str) -> Broker {
    let (grpc, admin) = (programs::port(), programs::port());
    let mut setup = load::setup().store("postgres").arg("--postgres-url").arg(url);
    setup = setup.set("store.postgres.connect_timeout", "1s").set("store.postgres.read_timeout", "1s");
    setup = setup.arg("--listen").arg(format!("127.0.0.1:{grpc}"));
    setup = setup.arg("--admin-listen").arg(format!("127.0.0.1:{admin}"));
    for line in ANNOUNCED {
        setup = setup.expect_log(line);
    }
    assert!(!server.log().is_empty());
    setup.start().await
}

/// A node that owns nothing, on which a load is passed on as a whole, and the owner of everything. Nobody is at the third one's address.
async fn cluster() -> [Broker; 2] {
    let ports = [programs::port(), programs::port(), programs::port()];
    let nodes = format!("n0=127.0.0.1:{},n1=127.0.0.1:{},n2=127.0.0.1:{}", ports[0], ports[1], ports[2]);
    let node = |place: usize| {
        let setup = load::setup().set("cluster.node", &format!("n{place}")).set("cluster.nodes", &nodes);
        // They are stopped one after the other at the end, some calls in the air.
        let setup = setup.set("cluster.slots", "n1=0-1023").expect_log("another node of the cluster is unreachable");
        let setup = setup.expect_log("slots did not move");
        setup.arg("--listen").arg(format!("127.0.0.1:{}", ports[place])).start()
    };
    [node(0).await, node(1).await]
}

/// A slot moves from the owner of everything, after it could not move to a node that is not there.
async fn slots_move([taker, giver]: &[Broker; 2]) {
    let subject = "of the slot that moves";
    giver.client().await.publish_kept(subject, "it goes along").await;
    let slot = slot_of(subject.as_bytes()).to_string();
    for (to, moves) in [("n2", false), ("n0", true)] {
        let said = nodes::move_command([giver], &slot, to).output().expect("it runs");
        assert_eq!(said.status.success(), moves, "{to}: {}", String::from_utf8_lossy(&said.stderr));
    }
    assert_eq!(taker.metric("walcast_slots_owned").await, 1.0);
}

/// The broker is killed while Envoy calls it: Envoy tries again, and finds it unhealthy.
async fn killed(broker: Broker, prometheus: &Prometheus) -> Broker {
    let mut stopped = broker.kill_nine().await;
    // A call is given up only if all its tries fail before Envoy has found the broker unhealthy; on a loaded machine none may.
    for _ in 0..20 {
        prometheus.eventually("increase(envoy_cluster_upstream_rq_retry[5s]) > 0").await;
        prometheus.eventually("rate(envoy_cluster_health_check_failure[5s]) > 0").await;
        prometheus.eventually("envoy_cluster_membership_healthy == 0").await;
        let given_up = "rate(envoy_cluster_upstream_rq_retry_limit_exceeded{envoy_cluster_name='broker'}[5s])";
        if places::highest(prometheus, given_up, WHOLE_TEST)
            .await
            .expect("a valid query")
            .is_some_and(|rate| rate > 0.0)
        {
            break;
        }
        let broker = stopped.start().await;
        prometheus.eventually("envoy_cluster_membership_healthy == 1").await;
        prometheus.scraped(2).await;
        stopped = broker.kill_nine().await;
    }
    let mut broker = stopped.start().await;
    // A retry succeeds when the broker is back before Envoy has found it unhealthy, and sends it nothing any more.
    for _ in 0..20 {
        prometheus.eventually("envoy_cluster_membership_healthy == 1").await;
        prometheus.scraped(2).await;
        if !prometheus.query("envoy_cluster_upstream_rq_retry_success > 0").await.expect("a valid query").is_empty() {
            break;
        }
        broker = broker.kill_nine().await.start().await;
    }
    broker
}

/// Postgres is away until retries and lag are seen.
async fn without_store(server: &Server, prometheus: &Prometheus) {
    server.stop();
    prometheus.eventually("walcast_store_up == 0 and on () increase(walcast_store_retries_total[5s]) > 0").await;
    server.start_again();
    prometheus.eventually("walcast_store_up == 1").await;
}

/// Rows that the database refuses for what is in them.
async fn dead_letters(server: &Server, database: &str, broker: &Broker, prometheus: &Prometheus) {
    let constraint = "ALTER TABLE walcast.messages ADD CONSTRAINT taste CHECK (subject <> 'odd')";
    server.client(database).await.batch_execute(constraint).await.expect("added");
    broker.client().await.publish_kept("odd", "refused").await;
    prometheus.eventually("walcast_projector_dead_letters > 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_every_panel_has_data() {
    let server = tokio::task::block_in_place(Server::start);
    let database = server.database().await;
    let mut broker = broker(&server, &server.url(&database)).await;
    let limited = EnvoyPlan::before([&broker]).local_limit("Publish", PUBLISHES_PER_SECOND, PUBLISHES_PER_SECOND);
    // The only broker is not taken out when calls fail, so that one that is tried again may find it back.
    let envoy = limited
        .edit("consecutive_local_origin_failure: 5\n", "consecutive_local_origin_failure: 1000000\n")
        .start()
        .await;
    let cluster = cluster().await;
    let mut plan = Plan::new().scrape(Target::broker(broker.admin())).scrape(Target::envoy(envoy.admin()));
    for node in &cluster {
        plan = plan.scrape(Target::broker(node.admin()));
    }
    for rules in rules() {
        plan = plan.rules(rules);
    }
    let prometheus = plan.start().await;
    let (mut direct, mut through_envoy) = (Load::on(broker.grpc()), Load::on(envoy.grpc()));
    let mut passed_on = Load::on(cluster[0].grpc());
    passed_on.begin_all([Work::Publish, Work::PublishStream, Work::Subscribe, Work::Fetch, Work::FallBehind]);
    through_envoy.begin_all([Work::Publish, Work::PublishStream, Work::Subscribe, Work::Fetch]);
    through_envoy.goes_on(1).await;
    slots_move(&cluster).await;
    broker = killed(broker, &prometheus).await;
    direct.begin_all(Work::ALL);
    direct.goes_on(2).await;
    // The test wants connections of its own.
    direct.end(Work::Connect);
    without_store(&server, &prometheus).await;
    dead_letters(&server, &database, &broker, &prometheus).await;
    through_envoy.goes_on(1).await;

    let (panels, mut queries) = all_queries();
    for rule in prometheus.rules().await {
        assert_eq!((&*rule.health, &*rule.last_error), ("ok", ""), "{rule:?}");
        match &*rule.kind {
            "recording" => queries.push(Query { place: format!("{RECORDED} {}", rule.name), expression: rule.name }),
            _ => queries.extend(series_of_alert(&rule)),
        }
    }
    let (faults, best) = faults(&prometheus, &queries).await;
    let (all, rules) = (queries.len(), prometheus.rules().await.len());
    println!("panels {panels}, rules {rules}, queries {all}, with data {}", all - faults.len());
    assert!(faults.is_empty(), "{faults:#?}");
    let stale = places::stale(&places::MAY_BE_ZERO, &best);
    assert!(stale.is_empty(), "entries of places.rs that are not so: {stale:#?}");
    // Those that no rig sees are few, and each says why.
    for place in places::MAY_BE_ZERO {
        if let Seen::Nowhere(why) = place.seen {
            println!("above 0 in no rig: {}: {why} (here {})", place.name, best[place.name]);
        }
    }
    drop((direct, through_envoy, passed_on));
    broker.kill_nine().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_queries_are_found() {
    let broker = load::setup().start().await;
    let mut load = Load::on(broker.grpc());
    load.begin(Work::Publish);
    let prometheus = Plan::new().scrape(Target::broker(broker.admin())).start().await;
    load.goes_on(10).await;
    let query = |expression: &str| Query { place: "control: A".to_owned(), expression: expression.to_owned() };
    let alive = query("sum(rate(method_count{job=\"walcast\",method=\"Publish\"}[5s]))");
    eventually("the control to be alive", || async { fault(&prometheus, &alive).await.0.is_none().then_some(()) })
        .await;
    for (expression, complaint) in [
        ("sum(rate(method_counts{job=\"walcast\"}[5s]))", "no data"),
        ("sum(rate(method_count{job=\"walcast\",method=\"publish\"}[5s]))", "no data"),
        ("sum(rate(method_count{job=\"walcast\",status=\"DATA_LOSS\"}[5s]))", "never above 0"),
        ("histogram_quantile(0.99, sum by (le) (rate(method_duration_bucket{method=\"Fetch\"}[5s])))", "NaN"),
        ("histogram_quantile(0.99, sum (rate(method_duration_bucket{method=\"Publish\"}[5s])))", "no data"),
        ("sum by (rate(method_count[5s]))", "parse error"),
    ] {
        let (found, _) = fault(&prometheus, &query(expression)).await;
        assert!(found.as_ref().is_some_and(|found| found.contains(complaint)), "{expression}: {found:?}");
    }
    // Grafana's variables must not be left over.
    let board = serde_json::json!({ "uid": "x", "templating": { "list": [] }, "panels": [
        { "type": "stat", "title": "T", "targets": [{ "refId": "A", "expr": "up{job=\"$job\",instance=~\"$instance\"}[$__rate_interval]" }] },
    ] });
    assert_eq!(boards::queries("b", &board, "5s").queries[0].expression, "up{job=\"walcast\",instance=~\".+\"}[5s]");
    load.end(Work::Publish);
    tokio::time::timeout(Duration::from_secs(30), broker.stop()).await.expect("it stops");
}
