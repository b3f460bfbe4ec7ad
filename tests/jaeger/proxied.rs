//! A call through a real Envoy with the configuration that is shipped: its span stands between the caller's and the broker's.

use crate::envoy::Plan;
use crate::jaeger::shared;
use crate::joined::{caller, publish};
use crate::picture::CALL;
use crate::support::Client;

#[tokio::test(flavor = "multi_thread")]
async fn a_span_of_envoy_is_the_parent_of_the_brokers_call() {
    let jaeger = shared();
    let broker = jaeger.setup("0").start().await;
    let envoy = Plan::before([&broker]).collector(jaeger.otlp()).start().await;
    let client = Client::connect(envoy.grpc()).await;
    let (unsampled, silent, _) = caller("00");
    publish(&client, "proxied", &unsampled).await;
    let (sampled, trace, span) = caller("01");
    publish(&client, "proxied", &sampled).await;
    let trace = jaeger.trace_with_process(&trace, &[CALL], "envoy").await;
    let call = trace.only(CALL);
    let between = trace.spans.iter().find(|span| Some(&span.id) == call.parent.as_ref());
    let between = between.unwrap_or_else(|| panic!("the parent of the call is not there: {trace:#?}"));
    assert_eq!((between.service.as_str(), between.parent.as_deref()), ("envoy", Some(span.as_str())), "{trace:#?}");
    assert!(between.length >= call.length && call.service == "walcast", "{trace:#?}");
    // Later than what follows it is in Jaeger, so it would be there.
    assert!(jaeger.trace(&silent).await.is_none(), "its caller did not want it traced");
    broker.stop().await;
}
