//! What must hold between settings.

use super::values::show_bytes;
use super::{Settings, StoreKind};
use crate::event::limits::RECORD_HEAD_BYTES_MAX;

/// What a segment holds besides its largest frame: its header and the frame's own, rounded up to pages.
const SEGMENT_OVERHEAD_BYTES: u64 = 8 * 1024;

/// One segment is written while the next is prepared.
const SEGMENTS_MIN: u64 = 2;

/// Two keys that do not fit each other.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub key: &'static str,
    pub other_key: &'static str,
    pub rule: String,
}

fn violation(key: &'static str, other_key: &'static str, rule: String) -> Result<(), Violation> {
    Err(Violation { key, other_key, rule })
}

/// The first rule that does not hold.
pub(super) fn check(settings: &Settings) -> Result<(), Violation> {
    let largest_record = (RECORD_HEAD_BYTES_MAX + settings.limits.body_bytes) as u64;
    log_rules(settings, largest_record)?;
    memory_rules(settings, largest_record)?;
    store_rules(settings)?;
    cluster_rules(settings)?;
    if settings.listen == settings.admin_listen && settings.listen.port() != 0 {
        return violation("admin_listen", "listen", "two ports are needed, one for clients, one for operators".into());
    }
    Ok(())
}

fn log_rules(settings: &Settings, largest_record: u64) -> Result<(), Violation> {
    let log = &settings.log;
    let segment_min = largest_record + SEGMENT_OVERHEAD_BYTES;
    if log.segment_bytes < segment_min {
        let rule = format!("a segment must hold a message with the largest body, {}", show_bytes(segment_min));
        return violation("log.segment_bytes", "limits.body_bytes", rule);
    }
    let log_min = SEGMENTS_MIN * log.segment_bytes;
    if log.max_bytes < log_min {
        let rule = format!("the log needs room for {SEGMENTS_MIN} segments, {}", show_bytes(log_min));
        return violation("log.max_bytes", "log.segment_bytes", rule);
    }
    if log.keep_bytes > log.max_bytes - log_min {
        let rule = format!(
            "what is kept for replay and {SEGMENTS_MIN} segments must fit, so at most {} can be kept",
            show_bytes(log.max_bytes - log_min)
        );
        return violation("log.keep_bytes", "log.max_bytes", rule);
    }
    Ok(())
}

fn memory_rules(settings: &Settings, largest_record: u64) -> Result<(), Violation> {
    let limits = &settings.limits;
    for (key, value) in [
        ("limits.request_bytes", limits.request_bytes),
        ("limits.answer_bytes", limits.answer_bytes),
        ("limits.in_flight_bytes", limits.in_flight_bytes),
        ("limits.hot_tail_bytes", limits.hot_tail_bytes),
        ("limits.subscriber_bytes", limits.subscriber_bytes),
    ] {
        if (value as u64) < largest_record {
            let rule = format!("it must hold a message with the largest body, {}", show_bytes(largest_record));
            return violation(key, "limits.body_bytes", rule);
        }
    }
    if limits.delivery_bytes < limits.subscriber_bytes {
        let rule = "all subscribers together cannot be allowed less than one of them".to_owned();
        return violation("limits.delivery_bytes", "limits.subscriber_bytes", rule);
    }
    Ok(())
}

fn store_rules(settings: &Settings) -> Result<(), Violation> {
    if settings.store.kind != StoreKind::Postgres {
        return Ok(());
    }
    let rule = match &settings.store.postgres.url {
        None => "Postgres needs a URL, such as postgres://USER@HOST:5432/DATABASE?sslmode=verify-full",
        Some(url) if !["postgres://", "postgresql://"].iter().any(|scheme| url.expose().starts_with(scheme)) => {
            "the URL must begin with postgres://"
        }
        Some(_) => return Ok(()),
    };
    violation("store.postgres.url", "store.kind", rule.to_owned())
}

fn cluster_rules(settings: &Settings) -> Result<(), Violation> {
    let cluster = &settings.cluster;
    let alone = cluster.nodes.is_empty();
    let (key, rule) = match &cluster.node {
        Some(node) if alone || !cluster.nodes.contains_key(node) => {
            ("cluster.node", "the nodes must name this one with its address")
        }
        None if !alone => ("cluster.node", "a cluster has nodes, and each must be told which one it is"),
        None if !cluster.slots.is_empty() => ("cluster.slots", "slots are given to nodes, and there are none"),
        _ => return Ok(()),
    };
    violation(key, "cluster.nodes", rule.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(change: impl FnOnce(&mut Settings)) -> Option<(&'static str, &'static str)> {
        let mut settings = Settings::default();
        change(&mut settings);
        check(&settings).err().map(|violation| (violation.key, violation.other_key))
    }

    #[test]
    fn the_defaults_fit_each_other() {
        assert_eq!(check(&Settings::default()), Ok(()));
    }

    #[test]
    fn each_rule_names_the_two_keys() {
        let segment = broken(|settings| settings.log.segment_bytes = 1 << 20);
        assert_eq!(segment, Some(("log.segment_bytes", "limits.body_bytes")));
        let space = broken(|settings| settings.log.max_bytes = 100 << 20);
        assert_eq!(space, Some(("log.max_bytes", "log.segment_bytes")));
        let kept = broken(|settings| settings.log.keep_bytes = 10 << 30);
        assert_eq!(kept, Some(("log.keep_bytes", "log.max_bytes")));
        let subscriber = broken(|settings| settings.limits.subscriber_bytes = 64 << 10);
        assert_eq!(subscriber, Some(("limits.subscriber_bytes", "limits.body_bytes")));
        let tail = broken(|settings| settings.limits.hot_tail_bytes = 1 << 20);
        assert_eq!(tail, Some(("limits.hot_tail_bytes", "limits.body_bytes")));
        let flight = broken(|settings| settings.limits.in_flight_bytes = 1 << 20);
        assert_eq!(flight, Some(("limits.in_flight_bytes", "limits.body_bytes")));
        let all = broken(|settings| settings.limits.delivery_bytes = 4 << 20);
        assert_eq!(all, Some(("limits.delivery_bytes", "limits.subscriber_bytes")));
        let ports = broken(|settings| settings.admin_listen = settings.listen);
        assert_eq!(ports, Some(("admin_listen", "listen")));
        let missing = broken(|settings| settings.store.kind = StoreKind::Postgres);
        assert_eq!(missing, Some(("store.postgres.url", "store.kind")));
        let nodes = || std::collections::BTreeMap::from([("a".to_owned(), "h:1".to_owned())]);
        let stranger = broken(|settings| {
            settings.cluster.node = Some("b".to_owned());
            settings.cluster.nodes = nodes();
        });
        assert_eq!(stranger, Some(("cluster.node", "cluster.nodes")));
        let nameless = broken(|settings| settings.cluster.nodes = nodes());
        assert_eq!(nameless, Some(("cluster.node", "cluster.nodes")));
        let other = broken(|settings| {
            settings.store.kind = StoreKind::Postgres;
            settings.store.postgres.url = Some(crate::config::Secret::new("mysql://db/walcast"));
        });
        assert_eq!(other, Some(("store.postgres.url", "store.kind")));
    }

    #[test]
    fn any_free_port_may_be_asked_for_twice() {
        let twice = broken(|settings| {
            settings.listen.set_port(0);
            settings.admin_listen.set_port(0);
        });
        assert_eq!(twice, None);
    }
}
