//! A node that was set back to a copy of its volume from before it gave slots away asks the others before it serves.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Code, Request};
use walcast::cluster::slot_of;
use walcast::proto::nodes::nodes_client::NodesClient;
use walcast::proto::nodes::{Moves, Step};

use super::moving::{move_slots, owned};
use crate::support::nodes::{copy_of, free_ports};
use crate::support::{Client, Setup, error_reason, eventually, walcast, within_patience};

const SET_BACK: &str = "this node was set back";
const UNHEARD: &str = "serves without having heard from these nodes";

/// A way to a node, which is taken and on which nothing passes until it is open.
struct Gate {
    address: String,
    open: watch::Sender<bool>,
}

impl Gate {
    async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let (open, opened) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let (target, mut opened) = (target.clone(), opened.clone());
                tokio::spawn(async move {
                    opened.wait_for(|open| *open).await.expect("the test goes on");
                    let Ok(mut to) = TcpStream::connect(target).await else { return };
                    // Either side may end it.
                    drop(tokio::io::copy_bidirectional(&mut from, &mut to).await);
                });
            }
        });
        Self { address, open }
    }
}

fn setup(data: &Path, node: &str, nodes: &str, port: u16) -> Setup {
    let setup = Setup::new().set("cluster.node", node).set("cluster.nodes", nodes).set("cluster.owner_timeout", "5m");
    setup.data_dir(data).arg("--listen").arg(format!("127.0.0.1:{port}"))
}

/// A client of a node that may not be ready yet.
async fn client(port: u16) -> Client {
    let address = format!("127.0.0.1:{port}");
    eventually("it takes connections", || Client::try_connect(&address)).await
}

/// What other nodes may ask of one that does not serve yet.
async fn is_asked(port: u16, digest: &str) {
    let channel = Channel::from_shared(format!("http://127.0.0.1:{port}")).expect("an address").connect_lazy();
    let mut node = NodesClient::new(channel);
    let marker = format!("n1;1;{digest}");
    let mut question = Request::new(Moves::default());
    question.metadata_mut().insert("walcast-forwarded", marker.parse().expect("ASCII"));
    let said = within_patience("an answer", node.exchange(question)).await.expect("nodes that start ask each other");
    assert_eq!(said.into_inner().moved, [], "it was set back");
    let mut steps = Request::new(tokio_stream::iter(Vec::<Step>::new()));
    steps.metadata_mut().insert("walcast-forwarded", marker.parse().expect("ASCII"));
    let refused = within_patience("an answer", node.hand_over(steps)).await.expect_err("not yet");
    assert_eq!((refused.code(), &*error_reason(&refused)), (Code::Unavailable, "NOT_SERVING"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_set_back_never_serves_what_it_gave_away() {
    let (ports, folder) = (free_ports(4), tempfile::tempdir().expect("a folder"));
    let data = |node: &str| -> PathBuf { folder.path().join(node) };
    let gate = Gate::to(format!("127.0.0.1:{}", ports[1])).await;
    // The second one cannot reach the first: it hears of nothing that it does not ask for.
    let of_n1 = format!("n0=127.0.0.1:{},n1=127.0.0.1:{}", ports[2], ports[1]);
    let of_n0 = format!("n0=127.0.0.1:{},n1={}", ports[0], gate.address);
    let n1 = setup(&data("n1"), "n1", &of_n1, ports[1]).start().await;
    let n0 = setup(&data("n0"), "n0", &of_n0, ports[0]).start().await;
    let subject = (0..).map(|at| format!("back-{at}")).find(|name| slot_of(name.as_bytes()).number() < 512);
    let subject = subject.expect("one of many");
    let before = n0.client().await;
    for id in 1..=3 {
        assert_eq!(before.publish_kept(&subject, "before").await, id);
    }
    let stopped = n0.stop().await;
    assert_eq!(stopped.logged(UNHEARD), 0);
    let copy = copy_of(stopped.data());
    let mut nodes = vec![stopped.start().await, n1];
    let (code, said) = move_slots(&nodes, "0-511", "n1");
    assert_eq!(code, Some(0), "{said}");
    for id in 4..=5 {
        assert_eq!(nodes[1].client().await.publish_kept(&subject, "since").await, id);
    }
    nodes.remove(0).stop().await;
    let status: serde_json::Value = nodes[0].get("/status").await.expect("it answers").json();
    let digest = status["cluster"]["digest"].as_str().expect("a digest");

    gate.open.send_replace(false);
    let admin = format!("127.0.0.1:{}", ports[3]);
    let set_back = setup(&copy, "n0", &of_n0, ports[0]).expect_log(SET_BACK).arg("--admin-listen").arg(&admin);
    let starting = tokio::spawn(set_back.start());
    let asker = client(ports[0]).await;
    for _ in 0..20 {
        let refused = within_patience("an answer", asker.publish(&subject, "a second 4", 3_600)).await;
        let refused = refused.expect_err("it may be another's");
        assert_eq!((refused.code(), &*error_reason(&refused)), (Code::Unavailable, "NOT_SERVING"));
    }
    is_asked(ports[0], digest).await;
    // Nor may it give them away once more.
    let arguments = ["cluster", "move", "--slots", "0-511", "--to", "n1", "--admin", &format!("http://{admin}")];
    let given = walcast(&arguments).output().expect("it runs");
    let said = String::from_utf8_lossy(&given.stderr);
    assert!(given.status.code() == Some(5) && said.contains("not ready yet"), "{given:?}");
    assert!(!starting.is_finished());
    gate.open.send_replace(true);
    let n0 = within_patience("its start", starting).await.expect("it starts");
    assert_eq!(owned(std::slice::from_ref(&n0)).await, [""]);
    assert_eq!(asker.publish_kept(&subject, "passed on").await, 6);
    assert_eq!(n0.stop().await.logged(UNHEARD), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hears_nothing_serves_all_the_same() {
    let (ports, folder) = (free_ports(2), tempfile::tempdir().expect("a folder"));
    let gate = Gate::to(format!("127.0.0.1:{}", ports[1])).await;
    gate.open.send_replace(false);
    let nodes = |n1: &str| format!("n0=127.0.0.1:{},n1={n1}", ports[0]);
    // Nobody else: it waits for nobody.
    let alone = setup(&folder.path().join("alone"), "n0", &format!("n0=127.0.0.1:{}", ports[0]), ports[0]);
    assert_eq!(alone.start().await.stop().await.logged(UNHEARD), 0);
    // A node that is not there says so itself, and is not waited for.
    let data = folder.path().join("n0");
    let gone = setup(&data, "n0", &nodes(&format!("127.0.0.1:{}", ports[1])), ports[0]);
    assert_eq!(gone.start().await.stop().await.logged(UNHEARD), 1);
    // One that says nothing is waited for.
    let begun = Instant::now();
    let silent = setup(&data, "n0", &nodes(&gate.address), ports[0]).set("cluster.owner_timeout", "500ms");
    let node = silent.start().await;
    assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
    assert_eq!(node.stop().await.logged(UNHEARD), 1);
    // And a stop does not wait for it.
    let silent = setup(&data, "n0", &nodes(&gate.address), ports[0]);
    let mut starting = silent.command().stderr(Stdio::null()).spawn().expect("it can be run");
    let asker = client(ports[0]).await;
    let refused = within_patience("an answer", asker.publish("s", "x", 60)).await.expect_err("it asks the other one");
    assert_eq!(error_reason(&refused), "NOT_SERVING");
    kill_process(Pid::from_child(&starting), Signal::TERM).expect("it runs");
    let ended = || std::future::ready(starting.try_wait().expect("it was started"));
    assert_eq!(eventually("its end", ended).await.code(), Some(0));
}
