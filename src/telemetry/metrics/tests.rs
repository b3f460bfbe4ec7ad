use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Series names with their kind and labels, as they are exported.
fn exported() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let families = Metrics::new("test").registry.gather();
    let described = families.iter().map(|family| {
        let labels = family.get_metric().iter().flat_map(|metric| metric.get_label());
        let labels = labels.map(|label| label.name().to_owned()).collect();
        (family.name().to_owned(), (format!("{:?}", family.get_field_type()).to_lowercase(), labels))
    });
    described.collect()
}

/// The same as docs/metrics.md has it: rows of the form "| `name{label,...}` | kind | unit | meaning | alert |".
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let text = include_str!("../../../docs/metrics.md");
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 5, "name, kind, unit, meaning, alert: {line}");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "an empty cell: {line}");
        let series = cells[0].trim_matches('`');
        let (name, labels) = series.trim_end_matches('}').split_once('{').unwrap_or((series, ""));
        let labels = labels.split(',').filter(|label| !label.is_empty()).map(str::to_owned).collect();
        let before = rows.insert(name.to_owned(), (cells[1].to_owned(), labels));
        assert_eq!(before, None, "{name} is documented twice");
    }
    rows
}

#[test]
fn every_series_is_documented_and_every_documented_series_exists() {
    assert_eq!(exported(), documented());
}

#[test]
fn two_nodes_in_one_process_do_not_share_values() {
    let (one, other) = (Metrics::new("1"), Metrics::new("2"));
    one.delivery.active_subscribers.inc();
    one.ingest.rejected(Rejection::LogFull);
    one.fetch.answered(Source::NeverPublished);
    one.api.refused(Refusal::Handshake);
    one.projector.projected.set(7);
    let text = one.render();
    for line in [
        "active_subscribers 1",
        "walcast_publishes_rejected_total{reason=\"log_full\"} 1",
        "walcast_fetches_total{source=\"never_published\"} 1",
        "walcast_connections_refused_total{reason=\"handshake\"} 1",
        "walcast_position{position=\"projected\"} 7",
        "walcast_build_info{version=\"1\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(other.render().lines().any(|found| found == "active_subscribers 0"));
}

#[test]
fn the_number_of_series_is_bounded() {
    let text = Metrics::new("test").render();
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    // Room for a counter or two beyond what docs/metrics.md names: a histogram more is worth a thought.
    assert!(series <= 560, "{series} series");
}
