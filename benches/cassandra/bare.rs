//! Inserts without anything around them.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::Consistency;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlTimestamp;
use walcast::projector::Row;
use walcast::projector::cassandra::Config;

/// A connection of the same kind as the store's, and its statement.
pub struct Bare {
    session: Session,
    insert: PreparedStatement,
    in_flight: usize,
}

impl Bare {
    /// Connects to where the store is, whose tables are there.
    pub async fn connect(config: &Config) -> Self {
        let profile = ExecutionProfile::builder()
            .consistency(Consistency::LocalQuorum)
            .request_timeout(Some(Duration::from_secs(60)))
            .build();
        let session = SessionBuilder::new()
            .known_nodes(&config.nodes)
            .default_execution_profile_handle(profile.into_handle())
            .build()
            .await
            .expect("connects");
        let text = format!(
            "INSERT INTO {}.messages (subject, bucket, id, published_at, published_at_micros, expiration_seconds, \
             expires_at, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?) USING TTL ? AND TIMESTAMP ?",
            config.keyspace
        );
        let insert = session.prepare(text).await.expect("prepared");
        Self { session, insert, in_flight: config.in_flight }
    }

    /// Inserts the rows.
    pub async fn insert(&self, rows: &[Row]) {
        let inserts = rows.iter().map(|row| async move {
            let micros = row.published_at.as_micros();
            let published_at = CqlTimestamp(micros / 1_000);
            let values = (
                row.subject.as_str(),
                row.id.to_wire() / 4_096,
                row.id.to_wire(),
                published_at,
                0i16,
                3_600,
                published_at,
                &*row.body,
                7_200,
                micros,
            );
            self.session.execute_unpaged(&self.insert, values).await.map(drop)
        });
        stream::iter(inserts).buffer_unordered(self.in_flight).try_collect::<()>().await.expect("inserted");
    }
}
