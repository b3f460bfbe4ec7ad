//! Every task and thread of the broker, by name: none ends unnoticed.

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::io;

use tokio::sync::oneshot;
use tokio::task::{Id, JoinSet};

/// Why a task ended before it was told to.
pub type TaskError = Box<dyn Error + Send + Sync>;

/// Runs tasks and threads, and tells when one has ended.
#[derive(Debug, Default)]
pub struct Supervisor {
    tasks: JoinSet<Result<(), TaskError>>,
    names: HashMap<Id, &'static str>,
}

/// A task that ended.
#[derive(Debug)]
pub struct End {
    /// Its name.
    pub name: &'static str,
    /// How. A panic is an error too.
    pub result: Result<(), TaskError>,
}

impl Supervisor {
    /// Runs a task.
    pub fn task<E>(&mut self, name: &'static str, task: impl Future<Output = Result<(), E>> + Send + 'static)
    where
        E: Into<TaskError> + 'static,
    {
        let handle = self.tasks.spawn(async { task.await.map_err(Into::into) });
        self.names.insert(handle.id(), name);
    }

    /// Runs a thread of its own, for work that blocks for as long as the broker lives.
    ///
    /// # Errors
    /// What the system says when it gives no thread.
    pub fn thread<E>(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> Result<(), E> + Send + 'static,
    ) -> io::Result<()>
    where
        E: Into<TaskError> + Send + 'static,
    {
        let (ended, end) = oneshot::channel();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Nobody listens only when the process is ending.
            drop(ended.send(work()));
        })?;
        self.task(name, async move {
            match end.await {
                Ok(result) => result.map_err(Into::into),
                Err(_dropped) => Err(TaskError::from("the thread panicked")),
            }
        });
        Ok(())
    }

    /// Waits for the next end; for ever when nothing runs.
    pub async fn next_end(&mut self) -> End {
        match self.tasks.join_next_with_id().await {
            Some(Ok((id, result))) => End { name: self.name(id), result },
            Some(Err(error)) => End { name: self.name(error.id()), result: Err(error.into()) },
            None => std::future::pending().await,
        }
    }

    /// Waits until the tasks of these names have ended.
    pub async fn ended(&mut self, names: &[&'static str]) -> Vec<End> {
        let mut ends = Vec::new();
        while self.names.values().any(|name| names.contains(name)) {
            ends.push(self.next_end().await);
        }
        ends
    }

    fn name(&mut self, id: Id) -> &'static str {
        self.names.remove(&id).unwrap_or("a task")
    }
}

/// The names of what runs.
pub(super) mod tasks {
    pub const ADMIN: &str = "the admin port";
    pub const COMMITTER: &str = "committer";
    pub const RELEASER: &str = "releaser";
    pub const FANOUT: &str = "fan-out";
    pub const READERS: &str = "the readers of history";
    pub const PROJECTOR: &str = "projector";
    pub const INDEXER: &str = "indexer";
    pub const HOUSEKEEPER: &str = "housekeeper";
    pub const TRACES: &str = "the trace exporter";
    pub const LAYOUT: &str = "the exchange of layouts";
    pub const MOVES: &str = "the mover of slots";
    pub const GRPC: &str = "the gRPC server";
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[tokio::test]
    async fn every_end_is_told_by_name_panics_too() {
        let mut supervisor = Supervisor::default();
        supervisor.task("fine", async { Ok::<(), Infallible>(()) });
        supervisor.task("fails", async { Err::<(), TaskError>("no disk".into()) });
        supervisor.thread("thread", || Err::<(), TaskError>("no more".into())).expect("a thread");
        supervisor.thread("panics", || -> Result<(), Infallible> { panic!("a panic of this test") }).expect("a thread");
        let mut ends: Vec<(&str, bool)> = Vec::new();
        for _ in 0..4 {
            let end = supervisor.next_end().await;
            ends.push((end.name, end.result.is_ok()));
        }
        ends.sort_unstable();
        assert_eq!(ends, [("fails", false), ("fine", true), ("panics", false), ("thread", false)]);
    }

    #[tokio::test]
    async fn waits_for_the_named_ones_only() {
        let mut supervisor = Supervisor::default();
        supervisor.task("stays", std::future::pending::<Result<(), Infallible>>());
        supervisor.task("ends", async { Ok::<(), Infallible>(()) });
        let ends = supervisor.ended(&["ends"]).await;
        assert_eq!(ends.iter().map(|end| end.name).collect::<Vec<_>>(), ["ends"]);
    }
}
