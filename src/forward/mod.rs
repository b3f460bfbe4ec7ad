//! Calls on other nodes' subjects, passed on to their owners.
//!
//! Owns the connections to the other nodes of the layout, what may be on its way to each of them, who is taken for dead, and
//! the subscriptions on other nodes' subjects.
//! A call goes over one hop: it carries a [`Marker`], and who gets one for a subject that it does not own refuses it. What
//! the owner answers is passed back as it is.
//!
//! Must never: number, log or acknowledge a message, choose an owner (the layout does), or send a publish a second time.
//! A slow or dead owner must hold up calls to it only.

mod framing;
mod link;
mod marker;
mod owner;
mod publish_stream;
mod rollout;
mod subscribe;
mod unary;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::HeaderValue;

pub use framing::{PREFIX_BYTES, framed};
pub use marker::{MARKER, Marker, MarkerError};
pub use owner::{InFlight, Owner, OwnerHealth};
pub use publish_stream::{Outcome, Sending, Sent, StreamEnd, StreamHead, Upstream};
pub use subscribe::{Ask, Config as SubscribeConfig, End, ForwardedSubscription, OWED_AFTER, Refusal, SUBSCRIBED_AT};
pub use unary::{Call, Reply};

use crate::cluster::{NotOwner, Ownership};
use crate::telemetry::metrics::ForwardMetrics;
use rollout::Rollouts;
use subscribe::Subscriptions;

/// How calls are passed on.
#[derive(Debug, Clone)]
pub struct Config {
    /// Calls on their way to one owner, those of streams included (`limits.forward_calls`).
    pub calls_max: usize,
    /// Bytes of requests and answers on their way to and from one owner (`limits.forward_bytes`).
    pub bytes_max: usize,
    /// How long an owner may be silent before its calls fail (`cluster.owner_timeout`).
    pub owner_timeout: Duration,
    /// Longest answer to a unary call in bytes, with its frame.
    pub answer_bytes_max: usize,
    /// How subscriptions are bounded.
    pub subscribe: SubscribeConfig,
}

/// Why an owner did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// It cannot be reached, or was lost. Unless `unsent`, it may have done what it was asked.
    #[error("{reason}")]
    Unavailable {
        /// What happened.
        reason: String,
        /// The owner never saw the call.
        unsent: bool,
        /// When it may be better.
        retry_after: Duration,
    },
    /// As many calls or bytes as are allowed are on their way to it.
    #[error("{what} on their way to it already ({setting})")]
    Busy {
        /// How many of what.
        what: String,
        /// The setting.
        setting: &'static str,
    },
}

/// On what two nodes that take different ones for the owner of a subject will agree in a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WillAgree {
    /// Where slots are that have moved: nodes tell each other.
    OnMoves,
    /// On a layout that is being given to all of them, one after the other.
    OnSettings,
    /// On nothing, before somebody acts.
    Never,
}

/// The way to all other nodes; a clone is the same.
#[derive(Clone)]
pub struct Forward(Arc<Nodes>);

struct Nodes {
    ownership: Ownership,
    /// As the layout has them; none at this node's place.
    owners: Vec<Option<Owner>>,
    /// What calls carry that are passed on.
    marker: Arc<ArcSwap<HeaderValue>>,
    subscriptions: Arc<Subscriptions>,
    rollouts: Rollouts,
}

fn marker_of(ownership: &Ownership) -> HeaderValue {
    HeaderValue::from_str(&Marker::of(ownership).to_string())
        .expect("a node's name has letters, digits, `-`, `.` and `_` only, and the rest are numbers")
}

impl fmt::Debug for Forward {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Forward").field("ownership", &self.0.ownership).finish_non_exhaustive()
    }
}

impl Forward {
    /// To the other nodes of the layout. Nothing is connected before the first call.
    pub fn new(config: &Config, ownership: Ownership, metrics: &ForwardMetrics) -> Self {
        let marker = Arc::new(ArcSwap::from_pointee(marker_of(&ownership)));
        let layout = ownership.layout();
        let owner = |(at, node): (usize, &crate::cluster::Node)| {
            (at != ownership.own()).then(|| Owner::new(config.clone(), node, Arc::clone(&marker), metrics.clone()))
        };
        let owners = layout.nodes().iter().enumerate().map(owner).collect();
        let subscriptions = Subscriptions::new(config.subscribe.clone(), metrics.clone());
        Self(Arc::new(Nodes { ownership, owners, marker, subscriptions, rollouts: Rollouts::default() }))
    }

    /// The owner that a subject has instead of this node; None if this node is.
    pub fn elsewhere(&self, subject: &str) -> Option<(&Owner, NotOwner)> {
        let other = self.0.ownership.check(subject).err()?;
        self.0.owners[other.at].as_ref().map(|owner| (owner, other))
    }

    /// Whether the node of this marker and this one will agree in a moment on who owns what: one of them has not heard yet of slots that
    /// moved, or their settings are being changed one after the other.
    pub fn will_agree(&self, marker: &Marker) -> WillAgree {
        if marker.version.configured == self.layout().version().configured {
            WillAgree::OnMoves
        } else if self.0.rollouts.is_passing(marker, Instant::now()) {
            WillAgree::OnSettings
        } else {
            WillAgree::Never
        }
    }

    /// The layout now.
    pub fn layout(&self) -> Arc<crate::cluster::Layout> {
        self.0.ownership.layout()
    }

    /// What a call carries that is passed on.
    pub fn marker(&self) -> Arc<HeaderValue> {
        self.0.marker.load_full()
    }

    /// The layout has changed: calls that are passed on from now on say so.
    pub fn layout_changed(&self) {
        self.0.marker.store(Arc::new(marker_of(&self.0.ownership)));
    }

    /// Subscribes at the owner of a subject. Once this returns, everything that is published on it is delivered.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn subscribe(&self, owner: &Owner, ask: Ask) -> Result<ForwardedSubscription, Refusal> {
        self.0.subscriptions.subscribe(owner, ask).await
    }

    /// Ends all subscriptions at other nodes, each once it has read what has come for it.
    pub fn close(&self) {
        self.0.subscriptions.close();
    }

    /// The node at this place of the layout has answered another question: it is reachable, whatever its last call found.
    pub fn has_answered(&self, at: usize) {
        if let Some(Some(owner)) = self.0.owners.get(at) {
            owner.reached();
        }
    }

    /// Name of this node.
    pub fn node(&self) -> String {
        self.0.ownership.node()
    }

    /// Bytes of requests and answers on their way to and from all other nodes.
    pub fn bytes_in_flight(&self) -> usize {
        self.0.owners.iter().flatten().map(Owner::bytes_in_flight).sum()
    }

    /// How the node at this place of the layout was found last; None for this one.
    pub fn health(&self, at: usize) -> Option<OwnerHealth> {
        self.0.owners.get(at)?.as_ref().map(Owner::health)
    }
}
