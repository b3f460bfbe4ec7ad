//! The suite that every store passes.

use async_trait::async_trait;
use walcast::projector::conformance::{self, Harness};

use crate::harness::{Node, Place, shared};

/// An empty keyspace for each check.
pub struct Keyspaces<'a>(pub &'a Node);

#[async_trait]
impl Harness for Keyspaces<'_> {
    async fn create(&self) -> Result<Box<dyn conformance::Place>, String> {
        Ok(Box::new(Place::on(self.0)))
    }
}

#[tokio::test]
async fn conforms() {
    assert_eq!(conformance::failures(&Keyspaces(shared())).await, []);
}
