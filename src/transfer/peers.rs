//! Connections to other nodes for what they say to each other of slots. Rare, so that one of each is made when it is wanted.

use std::fmt;
use std::time::Duration;

use http::HeaderValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::learn::Asked;
use crate::cluster::Layout;
use crate::forward::{Forward, MARKER};
use crate::proto::nodes::nodes_client::NodesClient;

/// What a message has beside its records.
const OVERHEAD_BYTES: usize = 64 * 1024;

/// The other nodes.
pub(super) struct Peers {
    /// As the layout has them; none at this node's place, nor for an address that is none.
    channels: Vec<Option<Channel>>,
    forward: Forward,
    message_bytes_max: usize,
    pub timeout: Duration,
}

impl fmt::Debug for Peers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Peers").finish_non_exhaustive()
    }
}

impl Peers {
    pub fn new(layout: &Layout, forward: &Forward, timeout: Duration, frame_bytes_max: usize) -> Self {
        let own = forward.node();
        let channel = |node: &crate::cluster::Node| {
            let endpoint = Endpoint::from_shared(format!("http://{}", node.address)).ok()?;
            let endpoint = endpoint
                .connect_timeout(timeout)
                // One that is gone without a word is noticed as one that serves calls is.
                .http2_keep_alive_interval(timeout / 2)
                .keep_alive_timeout(timeout / 2)
                .keep_alive_while_idle(false);
            (node.name != own).then(|| endpoint.connect_lazy())
        };
        Self {
            channels: layout.nodes().iter().map(channel).collect(),
            forward: forward.clone(),
            message_bytes_max: frame_bytes_max + OVERHEAD_BYTES,
            timeout,
        }
    }

    /// The places of the other nodes.
    pub fn all(&self) -> impl Iterator<Item = usize> {
        self.channels.iter().enumerate().filter(|(_, channel)| channel.is_some()).map(|(at, _)| at)
    }

    /// Before the first question to any of them. Who cannot be asked stays silent, this node too.
    pub fn unasked(&self) -> Vec<Asked> {
        self.channels.iter().map(|channel| channel.as_ref().map_or(Asked::Silent, |_| Asked::NotYet)).collect()
    }

    /// A client of the node at this place.
    pub fn client(&self, at: usize) -> Result<NodesClient<Channel>, Status> {
        let channel = self.channels.get(at).cloned().flatten();
        let channel = channel.ok_or_else(|| Status::unavailable("its address cannot be connected to"))?;
        Ok(NodesClient::new(channel)
            .max_decoding_message_size(self.message_bytes_max)
            .max_encoding_message_size(self.message_bytes_max))
    }

    /// A request with this node's marker.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let marker = HeaderValue::clone(&self.forward.marker());
        if let Ok(marker) = marker.to_str().unwrap_or_default().parse() {
            request.metadata_mut().insert(MARKER, marker);
        }
        request
    }
}
