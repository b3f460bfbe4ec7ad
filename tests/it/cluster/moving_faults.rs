//! Moves of slots whose other side does not behave: the test is that node.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::{mpsc, oneshot};
use tonic::{Code, Request, Response, Status, Streaming};
use walcast::event::record::{self, Logged, Record, TakenOver};
use walcast::event::{Expiration, MessageId, clock};
use walcast::proto::nodes::nodes_client::NodesClient;
use walcast::proto::nodes::nodes_server::{Nodes, NodesServer};
use walcast::proto::nodes::{Begin, Done, Moved, Moves, Ready, Records, Step, step};

use super::moving::{owned, short_log};
use super::setups;
use crate::support::nodes::{move_command, subject_of};
use crate::support::{Broker, Setup, error_reason, eventually, within_patience};

const STAYED: &str = "slots did not move";
const UNLEARNT: &str = "what another node knows of slots that moved cannot be learnt";

/// What the first node of three has.
const SLOTS: &str = "0-341";

type Answer = oneshot::Sender<Result<Done, Status>>;

/// A node that answers each step as the test says, and takes down what it is told of moves.
#[derive(Clone)]
struct Scripted {
    steps: mpsc::Sender<(step::Step, Answer)>,
    told: Arc<Mutex<Vec<Moved>>>,
}

#[tonic::async_trait]
impl Nodes for Scripted {
    async fn exchange(&self, request: Request<Moves>) -> Result<Response<Moves>, Status> {
        self.told.lock().expect("not poisoned").extend(request.into_inner().moved);
        Ok(Response::new(Moves::default()))
    }

    type HandOverStream = Pin<Box<dyn Stream<Item = Result<Done, Status>> + Send>>;

    async fn hand_over(&self, request: Request<Streaming<Step>>) -> Result<Response<Self::HandOverStream>, Status> {
        let state = (request.into_inner(), self.steps.clone());
        let answers = futures_util::stream::try_unfold(state, |(mut steps, script)| async move {
            let Some(Step { step: Some(step) }) = steps.message().await? else { return Ok(None) };
            let (answer, answered) = oneshot::channel();
            script.send((step, answer)).await.map_err(|_over| Status::unavailable("the test is over"))?;
            let done: Done = answered.await.map_err(|_over| Status::unavailable("the test is over"))??;
            Ok(Some((done, (steps, script))))
        });
        let answers: Self::HandOverStream = Box::pin(answers);
        Ok(Response::new(answers))
    }
}

/// One real node, and the test in place of the second; nobody is in place of the third.
struct Rig {
    node: Broker,
    digest: String,
    steps: mpsc::Receiver<(step::Step, Answer)>,
    told: Arc<Mutex<Vec<Moved>>>,
}

impl Rig {
    async fn new(common: impl Fn(Setup) -> Setup) -> Self {
        let node = common(setups().remove(0)).start().await;
        let status: serde_json::Value = node.get("/status").await.expect("it answers").json();
        let cluster = &status["cluster"];
        let address: SocketAddr = cluster["nodes"][1]["address"].as_str().expect("text").parse().expect("an address");
        let (script, steps) = mpsc::channel(1);
        let scripted = Scripted { steps: script, told: Arc::default() };
        let told = Arc::clone(&scripted.told);
        tokio::spawn(tonic::transport::Server::builder().add_service(NodesServer::new(scripted)).serve(address));
        let digest = cluster["digest"].as_str().expect("a digest").to_owned();
        Self { node, digest, steps, told }
    }

    /// Moves all slots of the real node to the test's: exit code, and what was said.
    fn give(&self) -> impl Future<Output = (Option<i32>, String)> + use<> {
        let mut command = move_command([&self.node], SLOTS, "n1");
        let output = tokio::task::spawn_blocking(move || command.output().expect("it runs"));
        async {
            let output = within_patience("the end of the move", output).await.expect("it does not panic");
            let said = String::from_utf8([output.stdout, output.stderr].concat()).expect("text");
            (output.status.code(), said)
        }
    }

    async fn next(&mut self) -> (step::Step, Answer) {
        within_patience("a step", self.steps.recv()).await.expect("the node of the test runs")
    }

    /// Lets a move begin.
    async fn begins(&mut self) {
        let (begin, answer) = self.next().await;
        let step::Step::Begin(Begin { slots, store, database }) = begin else { panic!("not the begin: {begin:?}") };
        assert_eq!((&*slots, &*store, &*database), (SLOTS, "embedded", ""));
        answer.send(Ok(Done { one_database: false, frame_bytes_max: 1024 * 1024 })).expect("it waits");
    }

    /// Takes records until the other side says that these were all.
    async fn is_ready(&mut self) -> (Handed, Vec<Moved>, Answer) {
        let mut handed = Handed::default();
        loop {
            match self.next().await {
                (step::Step::Records(Records { records }), answer) => {
                    records.iter().for_each(|record| handed.add(record));
                    answer.send(Ok(Done::default())).expect("it waits");
                }
                (step::Step::Ready(Ready { moved }), answer) => return (handed, moved, answer),
                (step::Step::Begin(_), _) => panic!("a second begin"),
            }
        }
    }

    async fn nodes(&self) -> NodesClient<tonic::transport::Channel> {
        NodesClient::connect(format!("http://{}", self.node.grpc())).await.expect("it connects")
    }

    /// A request of the test's node.
    fn by_n1<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("walcast-forwarded", format!("n1;1;{}", self.digest).parse().expect("ASCII"));
        request
    }

    /// Tells the real node of a move; gives what it knows then.
    async fn tell(&self, moved: Moved) -> Result<Vec<Moved>, Status> {
        let told = self.nodes().await.exchange(self.by_n1(Moves { moved: vec![moved] })).await?;
        Ok(told.into_inner().moved)
    }

    /// Hands over to the real node: the first answer that is none.
    async fn hand_over(&self, steps: Vec<step::Step>) -> Option<Status> {
        let count = steps.len();
        let steps: Vec<_> = steps.into_iter().map(|step| Step { step: Some(step) }).collect();
        let request = self.by_n1(tokio_stream::iter(steps));
        let mut answers = self.nodes().await.hand_over(request).await.expect("it begins").into_inner();
        for _ in 0..count {
            match answers.message().await {
                Ok(answer) => drop(answer.expect("one for each")),
                Err(status) => return Some(status),
            }
        }
        None
    }
}

/// What was handed over.
#[derive(Debug, Default)]
struct Handed {
    messages: Vec<(String, u32)>,
    marks: Vec<(String, u32)>,
}

impl Handed {
    fn add(&mut self, bytes: &[u8]) {
        match record::decode(bytes).expect("a record") {
            Logged::Message(Record { subject, id, .. }) => self.messages.push((subject.to_owned(), id.get())),
            Logged::TakenOver(TakenOver::Marks(marks)) => {
                self.marks.extend(marks.iter().map(|(subject, id)| (subject.to_owned(), id.get())));
            }
            Logged::TakenOver(TakenOver::Keys(_)) => {}
            Logged::Lost => panic!("nothing was lost"),
        }
    }

    fn ids(&self, subject: &str) -> Vec<u32> {
        self.messages.iter().filter(|(of, _)| of == subject).map(|(_, id)| *id).collect()
    }
}

fn moved(to: &str, number: u32) -> Moved {
    Moved { slots: SLOTS.to_owned(), to: to.to_owned(), number }
}

fn message(subject: &str, id: u32) -> Bytes {
    let record = Record {
        subject,
        id: MessageId::new(id).expect("an id"),
        published_at: clock::now(),
        expiration: Expiration::from_wire(3_600).expect("not negative"),
        idempotency_key: None,
        traceparent: None,
        body: b"of another node",
    };
    let mut bytes = Vec::new();
    record::encode(&record, &mut bytes).expect("it encodes");
    bytes.into()
}

fn begin(slots: &str) -> step::Step {
    step::Step::Begin(Begin { slots: slots.to_owned(), store: "embedded".to_owned(), database: String::new() })
}

fn records(records: Vec<Bytes>) -> step::Step {
    step::Step::Records(Records { records })
}

/// Nothing is given before the other side says that it has everything, what was acknowledged meanwhile included; and slots that come
/// back are served again.
#[tokio::test(flavor = "multi_thread")]
async fn slots_stay_until_the_other_node_has_everything() {
    let mut rig = Rig::new(|setup| setup.expect_log(STAYED).expect_log(UNLEARNT)).await;
    let (client, subject) = (rig.node.client().await, subject_of(0, 44));
    assert_eq!(client.publish_kept(&subject, "before").await, 1);
    let giving = rig.give();
    rig.begins().await;
    let (first, answer) = rig.next().await;
    assert!(matches!(first, step::Step::Records(_)), "{first:?}");
    // Its place in the log is behind what is being copied.
    for id in 2..=5 {
        assert_eq!(client.publish_kept(&subject, "meanwhile").await, id);
    }
    answer.send(Ok(Done::default())).expect("it waits");
    let (handed, ready, answer) = rig.is_ready().await;
    assert_eq!(ready, [moved("n1", 1)]);
    assert_eq!((handed.ids(&subject), handed.marks), (vec![2, 3, 4, 5], vec![(subject.clone(), 1)]));
    let closed = client.publish(&subject, "too late", 60).await.expect_err("closed");
    assert_eq!((closed.code(), &*error_reason(&closed)), (Code::Unavailable, "SLOT_MOVING"));
    assert_eq!(*rig.told.lock().expect("not poisoned"), [], "nothing is given");
    answer.send(Err(Status::failed_precondition("not today"))).expect("it waits");
    let (code, said) = giving.await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("slots 0-341 of n0: node n1 does not take the slots: not today"), "{said}");
    assert_eq!(owned(std::slice::from_ref(&rig.node)).await, [SLOTS]);
    assert_eq!(client.publish_kept(&subject, "open again").await, 6);
    assert_eq!(*rig.told.lock().expect("not poisoned"), []);
    // Once more, and it is taken.
    let giving = rig.give();
    rig.begins().await;
    let (handed, _, answer) = rig.is_ready().await;
    assert_eq!(handed.ids(&subject), [1, 2, 3, 4, 5, 6]);
    answer.send(Ok(Done::default())).expect("it waits");
    let (code, said) = giving.await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(owned(std::slice::from_ref(&rig.node)).await, [""]);
    assert_eq!(rig.told.lock().expect("not poisoned").first(), Some(&moved("n1", 1)));
    // And back. Not before it has everything.
    let refused = rig.tell(moved("n0", 2)).await.expect_err("it has nothing of what came since");
    assert!(refused.message().contains("which was not given their data"), "{refused}");
    let back = vec![begin(SLOTS), records(vec![message(&subject, 6), message(&subject, 7)])];
    assert_eq!(rig.hand_over(back.clone()).await.map(|status| status.code()), None);
    rig.tell(moved("n0", 2)).await.expect_err("it was not said that this is all");
    let ready = step::Step::Ready(Ready { moved: vec![moved("n0", 2)] });
    let back = [back, vec![ready]].concat();
    eventually("the first hand-over to be over", || async {
        rig.hand_over(back.clone()).await.is_none().then_some(())
    })
    .await;
    assert_eq!(owned(std::slice::from_ref(&rig.node)).await, [""], "ready is not owner");
    assert_eq!(rig.tell(moved("n0", 2)).await.expect("ready"), [moved("n0", 2)]);
    assert_eq!(client.fetch_body(&subject, 7).await, "of another node");
    assert_eq!(client.publish_kept(&subject, "home").await, 8);
}

/// Rows of a store are handed over by two who wait for each other.
#[tokio::test(flavor = "multi_thread")]
async fn a_taker_that_gives_up_while_rows_come_ends_the_move() {
    let mut rig = Rig::new(|setup| short_log(setup).expect_log(STAYED)).await;
    let client = rig.node.client().await;
    let filler = subject_of(0, 45);
    // A part for each.
    for number in 100..120 {
        client.publish_kept(&subject_of(0, number), "old").await;
    }
    eventually("the log to be trimmed", || async {
        client.publish_kept(&filler, vec![0; 4_096]).await;
        (rig.node.position("trimmed").await > 20.0).then_some(())
    })
    .await;
    let giving = rig.give();
    rig.begins().await;
    let (_, answer) = rig.next().await;
    answer.send(Err(Status::resource_exhausted("its disk is full"))).expect("it waits");
    let (code, said) = giving.await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("its disk is full"), "{said}");
    // The next one can begin.
    let giving = rig.give();
    rig.begins().await;
    let (handed, _, answer) = rig.is_ready().await;
    assert!((100..120).all(|number| handed.ids(&subject_of(0, number)) == [1]), "{:?}", handed.messages);
    answer.send(Ok(Done::default())).expect("it waits");
    assert_eq!(giving.await.0, Some(0));
}

/// A node that was set back hears in the middle of a move that the slots are another's: it must not count them up further.
#[tokio::test(flavor = "multi_thread")]
async fn slots_that_were_lost_meanwhile_are_not_given() {
    let set_back = "this node was set back";
    let mut rig = Rig::new(|setup| setup.expect_log(STAYED).expect_log(set_back)).await;
    rig.node.client().await.publish_kept(&subject_of(0, 46), "x").await;
    let giving = rig.give();
    rig.begins().await;
    let (_, _, answer) = rig.is_ready().await;
    assert_eq!(rig.tell(moved("n2", 1)).await.expect("it has no better word"), [moved("n2", 1)]);
    answer.send(Ok(Done::default())).expect("it waits");
    let (code, said) = giving.await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("slots 0-341 are not of this node"), "{said}");
    let known = rig.nodes().await.exchange(rig.by_n1(Moves::default())).await.expect("it answers");
    assert_eq!(known.into_inner().moved, [moved("n2", 1)]);
}

/// A move that was given up leaves copies, with which a node starts.
#[tokio::test(flavor = "multi_thread")]
async fn copies_of_a_move_that_was_given_up_are_no_reason_not_to_start() {
    let rig = Rig::new(|setup| setup).await;
    let foreign = subject_of(1, 47);
    let copies = vec![begin("342-682"), records(vec![message(&foreign, 1)])];
    assert_eq!(rig.hand_over(copies).await.map(|status| status.message().to_owned()), None);
    let node = rig.node.kill_nine().await.start().await;
    assert_eq!(owned(std::slice::from_ref(&node)).await, [SLOTS]);
}

/// A node that stops waits for no other one's next step.
#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_that_stands_still_holds_up_no_stop() {
    let rig = Rig::new(|setup| setup).await;
    let (steps, sent) = mpsc::channel(1);
    steps.send(Step { step: Some(begin("342-682")) }).await.expect("it is read");
    let request = rig.by_n1(tokio_stream::wrappers::ReceiverStream::new(sent));
    let mut answers = rig.nodes().await.hand_over(request).await.expect("it begins").into_inner();
    assert!(answers.message().await.expect("the slots are of this node").is_some());
    let stopped = rig.node.stop().await;
    assert_eq!(stopped.logged("the grace period is over"), 0);
    let status = answers.message().await.expect_err("it ends");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    drop(steps);
}
