//! The marker of a call that was passed on: who did, and by which layout.

use std::fmt;
use std::str::FromStr;

use crate::cluster::{Layout, LayoutVersion, Ownership};

/// The metadata that a call carries from one node to another.
pub const MARKER: &str = "walcast-forwarded";

/// Who passed a call on, and by which layout. In metadata: `NODE;VERSION;DIGEST`, the digest in 16 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// Name of the node.
    pub node: String,
    /// Version of its layout.
    pub version: LayoutVersion,
    /// [`Layout::digest`].
    pub digest: u64,
}

/// A marker that does not read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("metadata {MARKER} is not NODE;VERSION;DIGEST")]
pub struct MarkerError;

impl Marker {
    /// Of calls that this node passes on.
    pub fn of(ownership: &Ownership) -> Self {
        let layout = ownership.layout();
        Self { node: ownership.node(), version: layout.version(), digest: layout.digest() }
    }

    /// Whether its node was configured with another layout of the same version. The two must then not work together: each may take the
    /// other's subjects for its own. What has moved since may be known to one of them only.
    pub fn contradicts(&self, layout: &Layout) -> bool {
        self.version.configured == layout.version().configured && self.digest != layout.digest()
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{};{};{:016x}", self.node, self.version, self.digest)
    }
}

impl FromStr for Marker {
    type Err = MarkerError;

    fn from_str(text: &str) -> Result<Self, MarkerError> {
        let mut parts = text.split(';');
        let (node, version, digest) = (parts.next(), parts.next(), parts.next());
        let (Some(node), Some(version), Some(digest), None) = (node, version, digest, parts.next()) else {
            return Err(MarkerError);
        };
        let version = version.parse().map_err(|_| MarkerError)?;
        let digest = u64::from_str_radix(digest, 16).map_err(|_| MarkerError)?;
        Ok(Self { node: node.to_owned(), version, digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_reads_as_it_is_written() {
        let version = LayoutVersion { configured: 3, moves: 0 };
        let marker = Marker { node: "walcast-0".to_owned(), version, digest: 0xabc };
        assert_eq!(marker.to_string(), "walcast-0;3;0000000000000abc");
        assert_eq!(marker.to_string().parse().as_ref(), Ok(&marker));
        let moved = Marker { version: LayoutVersion { moves: 12, ..version }, ..marker };
        assert_eq!(moved.to_string(), "walcast-0;3.12;0000000000000abc");
        assert_eq!(moved.to_string().parse(), Ok(moved));
        for text in ["", "a", "a;1", "a;1;x", "a;-1;0", "a;1;0;0", "a;1.;0", "a;1.2.3;0"] {
            assert_eq!(text.parse::<Marker>(), Err(MarkerError), "{text}");
        }
    }

    #[test]
    fn only_another_layout_of_the_same_version_contradicts() {
        let nodes = [("a".to_owned(), "h:1".to_owned()), ("b".to_owned(), "h:2".to_owned())].into();
        let layout = Layout::new(3, &nodes, &std::collections::BTreeMap::new()).expect("a layout");
        let version = |configured| LayoutVersion { configured, moves: 0 };
        let marker = |configured, digest| Marker { node: "a".to_owned(), version: version(configured), digest };
        assert!(!marker(3, layout.digest()).contradicts(&layout));
        assert!(marker(3, 0).contradicts(&layout));
        assert!(!marker(2, 0).contradicts(&layout), "a layout is changed node by node");
    }
}
