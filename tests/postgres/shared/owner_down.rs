//! Fetch at another node while the owner is down.

use std::time::{Duration, Instant};

use tonic::Code;

use super::brokers::common;
use crate::server::Server;
use crate::support::nodes::{self, Nodes};
use crate::support::{error_reason, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_is_certain_of_is_answered_by_any_node() {
    let server = Server::start();
    let database = server.database().await;
    let mut setups = Nodes::new().setups(|| common(&server.url(&database)));
    setups[0] = setups[0].clone().expect_log("another node of the cluster is unreachable");
    let mut brokers = nodes::start_all(setups).await;
    let subject = nodes::subject_of(1, 0);
    let (other, owner) = (brokers[0].client().await, brokers[1].client().await);
    assert_eq!(owner.publish_kept(&subject, "kept").await, 1);
    assert_eq!(owner.publish(&subject, "soon expired", 1).await.expect("published"), 2);
    assert_eq!(owner.publish(&subject, "not kept", 0).await.expect("published"), 3);
    brokers[1].all_projected().await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let asked = |id| {
        let (other, subject) = (other.clone(), subject.clone());
        async move {
            match other.fetch(&subject, id).await {
                Ok(message) => (Code::Ok, String::from_utf8_lossy(&message.body).into_owned()),
                Err(status) => (status.code(), error_reason(&status)),
            }
        }
    };
    let certain = [
        (1, (Code::Ok, "kept".to_owned())),
        (2, (Code::InvalidArgument, "EXPIRED".to_owned())),
        (3, (Code::InvalidArgument, "EXPIRED".to_owned())),
    ];
    for (id, expected) in &certain {
        assert_eq!(asked(*id).await, *expected, "by its owner");
    }
    assert_eq!(asked(4).await, (Code::InvalidArgument, "NEVER_PUBLISHED".to_owned()), "by its owner");
    let killed = brokers.remove(1).kill_nine().await;
    for (id, expected) in &certain {
        let begun = Instant::now();
        assert_eq!(asked(*id).await, *expected, "by the store");
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
    // It may have been given and not be projected.
    assert_eq!(asked(4).await, (Code::Unavailable, "OWNER_UNAVAILABLE".to_owned()));
    assert!(brokers[0].metric("walcast_fetches_total{source=\"store\"}").await >= 1.0);
    let owner = killed.start().await;
    eventually("the owner to answer again", || async { (asked(4).await.1 == "NEVER_PUBLISHED").then_some(()) }).await;
    drop(owner);
}
