//! The dashboards as files: written by `grafana/generate.py`, read back and judged by `grafana/check.py`, and their queries.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

const INSTALL: &str = "run `tests/services/install grafana-sdk`";

/// A query of a panel or of a variable, as Prometheus understands it.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// Dashboard, panel and letter.
    pub place: String,
    /// With Grafana's variables put in.
    pub expression: String,
}

/// A dashboard's queries.
#[derive(Debug, Default)]
pub struct Board {
    /// How many panels it has, rows left out.
    pub panels: usize,
    /// Those of panels and of variables.
    pub queries: Vec<Query>,
}

/// A panel as it is shown.
#[derive(Debug)]
pub struct Shown {
    /// Its title.
    pub title: String,
    /// Grafana's name of its unit.
    pub unit: String,
    /// Expressions with variables put in, and legends.
    pub queries: Vec<(String, String)>,
}

/// A panel of a dashboard of the broker by its title.
pub fn panel(board: &Value, title: &str, rate_interval: &str) -> Shown {
    let panels = board["panels"].as_array().expect("panels");
    let panel = panels.iter().find(|panel| panel["title"] == title && panel["type"] != "row").expect("it is there");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let queries = panel["targets"].as_array().expect("queries").iter();
    let query = |query: &Value| (put_in(&text(&query["expr"]), "walcast", rate_interval), text(&query["legendFormat"]));
    let unit = text(&panel["fieldConfig"]["defaults"]["unit"]);
    Shown { title: title.to_owned(), unit, queries: queries.map(query).collect() }
}

/// Puts values in for Grafana's variables.
fn put_in(text: &str, job: &str, rate_interval: &str) -> String {
    text.replace("$__rate_interval", rate_interval).replace("$job", job).replace("$instance", ".+")
}

/// The folder of a path in the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The dashboards that are shipped.
pub fn shipped() -> Vec<(String, Value)> {
    let mut boards: Vec<_> = fs::read_dir(repository("grafana/dashboards")).expect("a folder").flatten().collect();
    boards.sort_by_key(fs::DirEntry::file_name);
    let read = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path()).expect("a file");
        (entry.file_name().to_string_lossy().into_owned(), serde_json::from_str(&text).expect("JSON"))
    };
    boards.into_iter().map(read).collect()
}

/// The queries of a dashboard. `rate_interval` stands for Grafana's `$__rate_interval`; all instances are chosen.
pub fn queries(name: &str, board: &Value, rate_interval: &str) -> Board {
    // The marker series of Envoy's dashboard has the job of Envoy.
    let job = if board["uid"].as_str().is_some_and(|uid| uid.ends_with("envoy")) { "envoy" } else { "walcast" };
    let put_in = |text: &str| put_in(text, job, rate_interval);
    let mut found = Board::default();
    for panel in board["panels"].as_array().expect("panels").iter().filter(|panel| panel["type"] != "row") {
        found.panels += 1;
        for target in panel["targets"].as_array().expect("queries") {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let place = format!("{name}: {} {}", text(&panel["title"]), text(&target["refId"]));
            found.queries.push(Query { place, expression: put_in(&text(&target["expr"])) });
        }
    }
    for variable in board["templating"]["list"].as_array().expect("variables") {
        // `label_values(SERIES, LABEL)` shows the label's values of these series.
        let Some(query) = variable["query"]["query"].as_str() else { continue };
        let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')).expect("label_values");
        let (series, label) = inner.rsplit_once(", ").expect("a label");
        let place = format!("{name}: variable {}", variable["name"].as_str().unwrap_or_default());
        found.queries.push(Query { place, expression: put_in(&format!("group by ({label}) ({series})")) });
    }
    found
}

fn python(arguments: &[&Path]) -> (bool, String) {
    let python = repository("target/services/venv/bin/python");
    let output = Command::new(&python).args(arguments).env("PYTHONDONTWRITEBYTECODE", "1").output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}; {INSTALL}", python.display()));
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(!said.contains("ModuleNotFoundError"), "{said}{INSTALL}");
    (output.status.success(), said)
}

/// What `grafana/check.py` says about a folder.
fn check(folder: &Path) -> (bool, String) {
    python(&[&repository("grafana/check.py"), folder])
}

#[test]
fn the_dashboards_are_what_their_code_writes() {
    let folder = TempDir::new().expect("a folder");
    let (written, said) = python(&[&repository("grafana/generate.py"), folder.path()]);
    assert!(written, "{said}");
    let names = |folder: &Path| {
        let mut names: Vec<_> = fs::read_dir(folder).expect("a folder").flatten().map(|at| at.file_name()).collect();
        names.sort();
        names
    };
    let shipped = repository("grafana/dashboards");
    assert_eq!(names(folder.path()), names(&shipped));
    for name in names(&shipped) {
        let read = |folder: &Path| fs::read(folder.join(&name)).expect("a file");
        assert!(read(folder.path()) == read(&shipped), "{name:?} is not what `grafana/generate.py` writes: run it");
    }
}

#[test]
fn the_dashboards_are_in_order() {
    let (good, said) = check(&repository("grafana/dashboards"));
    assert!(good, "{said}");
    assert_eq!(said.trim(), "6 dashboards are in order");
}

/// The thresholds of a panel.
fn steps(board: &mut Value, panel: usize) -> &mut Vec<Value> {
    board["panels"][panel]["fieldConfig"]["defaults"]["thresholds"]["steps"].as_array_mut().expect("steps")
}

/// What is done to a dashboard, and the complaint that must follow.
type Control = (fn(&mut Value), &'static str);

#[test]
fn every_kind_of_disorder_is_found() {
    const CONTROLS: [Control; 17] = [
        (
            |board| drop(board["panels"][1]["fieldConfig"]["defaults"].as_object_mut().map(|unit| unit.remove("unit"))),
            "has no unit",
        ),
        (|board| board["panels"][1]["fieldConfig"]["defaults"]["unit"] = "secs".into(), "unknown unit secs"),
        (|board| board["panels"][1]["description"] = "".into(), "has no description"),
        // A single step, which is what a panel without thresholds has, is none.
        (|board| steps(board, 1).truncate(1), "panel 'Brokers up' has no thresholds and no reason"),
        (
            |board| board["panels"][2]["description"] = "X. Normal: 0. No thresholds: .".into(),
            "panel 'Published' has no thresholds and no reason",
        ),
        (
            |board| board["panels"][1]["description"] = "X. Normal: 0.".into(),
            "does not say where its thresholds come from",
        ),
        (
            |board| {
                let words = "X. Normal: 0. Thresholds: ours, or so. No thresholds: not at all.";
                board["panels"][1]["description"] = words.into();
            },
            "has thresholds and says that it has none",
        ),
        (
            |board| board["panels"][1]["description"] = "X. Normal: 0. Thresholds: WalcastOdd.".into(),
            "an alert WalcastOdd that is not there",
        ),
        (|board| board["panels"][1]["title"] = "".into(), "has no title"),
        (|board| board["panels"][1]["id"] = board["panels"][2]["id"].clone(), "two panels with id"),
        (|board| board["panels"][1]["datasource"]["uid"] = "prod".into(), "has a fixed datasource prod"),
        (
            |board| board["panels"][1]["targets"][0]["datasource"]["uid"] = "prod".into(),
            "has a query A that does not use",
        ),
        (
            |board| board["panels"][1]["targets"][0]["expr"] = "up{job=\"$jop\"}".into(),
            "a variable $jop that is not there",
        ),
        (|board| board["panels"][1]["targets"][0]["expr"] = "up".into(), "does not heed $instance"),
        (|board| board["panels"][1]["colour"] = "red".into(), "fields that Grafana does not know"),
        (|board| board["panels"][1]["gridPos"]["x"] = board["panels"][2]["gridPos"]["x"].clone(), "lies on"),
        (|board| board["uid"] = "walcast-stores".into(), "two dashboards have uid walcast-stores"),
    ];
    for (spoil, complaint) in CONTROLS {
        let folder = TempDir::new().expect("a folder");
        for (name, mut board) in shipped() {
            if name == "overview.json" {
                spoil(&mut board);
            }
            fs::write(folder.path().join(name), board.to_string()).expect("the folder is ours");
        }
        let (good, said) = check(folder.path());
        assert!(!good && said.contains(complaint), "{complaint}: {said}");
    }
}
