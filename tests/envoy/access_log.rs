//! The access log: JSON whatever clients send, with what an operator asks of it.

use serde_json::{Value, json};
use tonic::Request;
use walcast::proto::client::PublishRequest;

use crate::envoy::Plan;
use crate::support::{Broker, Client, eventually, raw};

fn line<'a>(log: &'a [Value], key: &str, value: &str) -> Option<&'a Value> {
    log.iter().find(|line| line[key] == value)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_is_json_and_says_who_called_what_and_what_became_of_it() {
    const CALLS: usize = 2_000;
    let broker = Broker::start().await;
    let envoy = Plan::before([&broker]).local_limit("PublishStream", 1, 1).start().await;
    let client = Client::connect(envoy.grpc()).await;
    for _ in 0..CALLS {
        client.publish("s", "x", 0).await.expect("published");
    }
    let mut request = Request::new(PublishRequest::default());
    request.metadata_mut().insert("user-agent", "\",\"client\":\"10.0.0.1".parse().expect("a value"));
    client.publish_request(request).await.expect_err("a subject is needed");
    let hostile_path = "/broker.Broker/%22,%22client%22:%2210.0.0.1".to_owned();
    raw::unary_at(client.channel(), hostile_path.clone(), "").await.expect_err("no such method");
    raw::unary_at(client.channel(), "/other.Service/Call".to_owned(), "").await.expect_err("no such service");
    drop(client.publish_stream().await);
    client.try_publish_stream().await.expect_err("one a second");
    let log = eventually("the lines", || async {
        let log = envoy.access_log();
        (line(&log, "grpc_status", "RESOURCE_EXHAUSTED").is_some()).then_some(log)
    })
    .await;
    let refused = line(&log, "grpc_status", "INVALID_ARGUMENT").expect("errors are logged");
    assert_eq!((&refused["method"], &refused["client"]), (&json!("/broker.Broker/Publish"), &json!("127.0.0.1")));
    assert_eq!((&refused["broker"], &refused["http_status"]), (&json!(broker.grpc()), &json!(200)));
    assert_eq!((&refused["tries"], &refused["flags"]), (&json!(1), &json!("-")), "{refused}");
    assert!(refused["trace_id"].as_str().is_some_and(|id| id.len() == 32), "{refused}");
    assert!(line(&log, "method", &hostile_path).is_some_and(|line| line["grpc_status"] == "UNIMPLEMENTED"));
    let unknown = line(&log, "method", "/other.Service/Call").expect("errors are logged");
    assert_eq!(
        (&unknown["grpc_status"], &unknown["broker"]),
        (&json!("UNIMPLEMENTED"), &Value::Null),
        "no broker was asked"
    );
    let limited = line(&log, "grpc_status", "RESOURCE_EXHAUSTED").expect("it is there");
    assert_eq!((&limited["flags"], &limited["broker"]), (&json!("RL"), &Value::Null), "{limited}");
    // One in a hundred of those that are well, so that a log is no copy of the traffic.
    let sampled = log.iter().filter(|line| line["grpc_status"] == "OK").count();
    println!("{sampled} of {CALLS} good calls are logged");
    assert!(sampled > 0 && sampled < CALLS / 20, "{sampled}");
}
