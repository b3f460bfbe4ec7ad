//! What an operator does with a shell of the database's own.

use std::time::{Duration, Instant};

use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::deserialize::row::DeserializeRow;
use scylla::statement::unprepared::Statement;
use walcast::projector::cassandra::Config;

/// How long the first connection may take.
const CONNECTED_WITHIN: Duration = Duration::from_secs(60);

/// An operator's connection.
pub async fn operator(config: &Config) -> Session {
    let builder = SessionBuilder::new().known_nodes(&config.nodes).fetch_schema_metadata(false);
    let builder = match (&config.username, &config.password) {
        (Some(username), Some(password)) => builder.user(username, password),
        _ => builder,
    };
    let begun = Instant::now();
    loop {
        // A new node makes its first user some time after it is ready.
        match Session::connect(builder.config.clone()).await {
            Ok(session) => return session,
            Err(error) => assert!(begun.elapsed() < CONNECTED_WITHIN, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Does what `text` says.
pub async fn execute(session: &Session, text: &str) {
    let mut statement = Statement::new(text);
    statement.set_request_timeout(Some(Duration::from_secs(30)));
    statement.set_consistency(scylla::statement::Consistency::One);
    session.query_unpaged(statement, ()).await.map_err(|error| format!("{text}: {error}")).expect("done");
}

/// The rows of a query.
pub async fn query<Columns>(session: &Session, text: &str) -> Vec<Columns>
where
    Columns: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
{
    let mut statement = Statement::new(text);
    statement.set_consistency(scylla::statement::Consistency::One);
    let answer = session.query_unpaged(statement, ()).await.map_err(|error| format!("{text}: {error}")).expect("done");
    let rows = answer.into_rows_result().expect("rows");
    rows.rows::<Columns>().expect("of this type").map(|row| row.expect("whole")).collect()
}
