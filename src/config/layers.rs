//! From defaults, file, environment and flags to one [`Effective`] configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use config::builder::DefaultState;
use config::{ConfigBuilder, FileFormat, Format as _, Map, Source, Value, ValueKind};

use super::keys::{ENV_PREFIX, KEYS, Key, find};
use super::{ConfigError, Settings, rules};

/// Variables with the prefix that are options of the command line and no settings.
const NOT_SETTINGS: &[&str] = &[
    "WALCAST_CONFIG",
    "WALCAST_SERVER",
    "WALCAST_ADMIN",
    // Of a build that misbehaves on purpose; any other refuses to start with it.
    #[cfg(feature = "fault-controls")]
    "WALCAST_FAULT_CONTROL",
    #[cfg(feature = "fault-controls")]
    "WALCAST_CRASH_POINT",
];

/// How alike two names must be for one to be suggested for the other, 0 to 1.
const LIKENESS_MIN: f64 = 0.7;

const DEFAULT_ORIGIN: &str = "default";

/// What the operator gave, each layer overriding the ones before it.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    /// The TOML file.
    pub file: Option<PathBuf>,
    /// Environment variables; those without the prefix `WALCAST_` are passed over.
    pub environment: BTreeMap<String, String>,
    /// Keys and values of the flags of `serve`.
    pub flags: Vec<(&'static str, String)>,
}

/// A valid configuration that knows where each value came from.
#[derive(Debug, Clone)]
pub struct Effective {
    /// The values.
    pub settings: Settings,
    origins: BTreeMap<&'static str, String>,
}

/// One setting as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Entry {
    /// Its name, sections separated by dots.
    pub key: &'static str,
    /// Its value without passwords; empty for none.
    pub value: String,
    /// `default`, `file PATH`, `env VARIABLE` or `flag --NAME`.
    pub origin: String,
}

impl fmt::Display for Entry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} = {} ({})", self.key, self.value, self.origin)
    }
}

impl Effective {
    /// Every setting, in the order of the documentation.
    pub fn entries(&self) -> Vec<Entry> {
        let entry = |key: &Key| Entry {
            key: key.name,
            value: (key.show)(&self.settings),
            origin: origin_of(&self.origins, key.name),
        };
        KEYS.iter().map(entry).collect()
    }
}

impl Settings {
    /// Every setting with its value, without passwords; empty for none.
    pub fn entries(&self) -> Vec<(&'static str, String)> {
        KEYS.iter().map(|key| (key.name, (key.show)(self))).collect()
    }

    /// Checks every bound and every rule between settings, as [`load`] does.
    ///
    /// # Errors
    /// [`ConfigError::Value`] or [`ConfigError::Conflict`] for the first that does not hold.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut scratch = self.clone();
        for key in KEYS {
            let value = (key.show)(self);
            (key.set)(&mut scratch, &value).map_err(|reason| refused(key, &value, DEFAULT_ORIGIN, reason))?;
        }
        check_rules(self, &BTreeMap::new())
    }
}

/// Settings that are a table in the file, with keys that operators choose.
const TABLES: [&str; 2] = ["cluster.nodes", "cluster.slots"];

/// Builds the configuration.
///
/// # Errors
/// [`ConfigError`] names the first key, value and place that cannot be taken.
pub fn load(layers: &Layers) -> Result<Effective, ConfigError> {
    let merged = ConfigBuilder::<DefaultState>::default()
        .add_source(file_layer(layers.file.as_deref())?)
        .add_source(environment_layer(&layers.environment)?)
        .add_source(flags_layer(&layers.flags))
        .build()
        .and_then(|config| config.collect())
        .map_err(|error| ConfigError::Layers { reason: one_line(&error.to_string()) })?;
    let mut settings = Settings::default();
    let mut origins = BTreeMap::new();
    for (name, value) in flatten(merged) {
        let origin = value.origin().unwrap_or(DEFAULT_ORIGIN).to_owned();
        let key = find(&name).ok_or_else(|| unknown_key(&name, &origin))?;
        let text = text_of(key, value, &origin)?;
        (key.set)(&mut settings, &text).map_err(|reason| refused(key, &text, &origin, reason))?;
        origins.insert(key.name, origin);
    }
    check_rules(&settings, &origins)?;
    Ok(Effective { settings, origins })
}

/// Keys with dots, and values that carry their origin.
#[derive(Debug, Clone, Default)]
struct Layer(Map<String, Value>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

fn file_layer(path: Option<&Path>) -> Result<Layer, ConfigError> {
    let Some(path) = path else { return Ok(Layer::default()) };
    let text =
        std::fs::read_to_string(path).map_err(|reason| ConfigError::Unreadable { path: path.to_owned(), reason })?;
    let origin = format!("file {}", path.display());
    let table = FileFormat::Toml
        .parse(Some(&origin), &text)
        .map_err(|error| ConfigError::Malformed { path: path.to_owned(), reason: one_line(&error.to_string()) })?;
    let flat = flatten(table);
    // Checked before the layers are merged: a later layer could hide a wrong name.
    if let Some((name, _)) = flat.iter().find(|(name, _)| find(name).is_none()) {
        return Err(unknown_key(name, &origin));
    }
    Ok(Layer(flat.into_iter().collect()))
}

fn environment_layer(environment: &BTreeMap<String, String>) -> Result<Layer, ConfigError> {
    let mut layer = Layer::default();
    for (variable, value) in environment {
        if !variable.starts_with(ENV_PREFIX) || NOT_SETTINGS.contains(&variable.as_str()) {
            continue;
        }
        let Some(key) = KEYS.iter().find(|key| key.variable() == *variable) else {
            if is_service_link(variable, value) {
                continue;
            }
            let known: Vec<_> = KEYS.iter().map(Key::variable).collect();
            let hint = hint(variable, known.iter().map(String::as_str));
            return Err(ConfigError::UnknownKey { name: variable.clone(), origin: "environment".into(), hint });
        };
        layer.0.insert(key.name.to_owned(), Value::new(Some(&format!("env {variable}")), value.as_str()));
    }
    Ok(layer)
}

/// Whether Kubernetes made the variable for a Service whose name begins with `walcast`: it puts the addresses of every
/// Service of a namespace into the environment of its pods (`enableServiceLinks`), as Docker's links did.
fn is_service_link(variable: &str, value: &str) -> bool {
    let is_address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let of_port = |rest: &str| {
        let parts: Vec<&str> = rest.split('_').collect();
        let [port, protocol, ..] = parts[..] else { return false };
        let known = ["TCP", "UDP", "SCTP"].contains(&protocol) && port.parse::<u16>().is_ok();
        known && (is_address || matches!(parts[2..], ["PROTO" | "PORT" | "ADDR"]))
    };
    variable.ends_with("_SERVICE_HOST")
        || (variable.ends_with("_SERVICE_PORT") || variable.contains("_SERVICE_PORT_")) && value.parse::<u16>().is_ok()
        || variable.ends_with("_PORT") && is_address
        || variable.rsplit_once("_PORT_").is_some_and(|(_, rest)| of_port(rest))
        || variable.split_once("_PORT_").is_some_and(|(_, rest)| of_port(rest))
}

fn flags_layer(flags: &[(&'static str, String)]) -> Layer {
    let value = |(name, value): &(&'static str, String)| {
        let flag = find(name).and_then(|key| key.flag).unwrap_or(name);
        ((*name).to_owned(), Value::new(Some(&format!("flag {flag}")), value.as_str()))
    };
    Layer(flags.iter().map(value).collect())
}

/// Leaves of a tree of tables with their full names, sorted. An empty section has none.
fn flatten(table: Map<String, Value>) -> BTreeMap<String, Value> {
    let mut leaves = BTreeMap::new();
    let mut open: Vec<(String, Value)> = table.into_iter().collect();
    while let Some((name, value)) = open.pop() {
        // A key of the table itself, such as `store`, may not be confused with its section.
        if let ValueKind::Table(section) = value.kind.clone()
            && !TABLES.contains(&name.as_str())
        {
            open.extend(section.into_iter().map(|(key, value)| (format!("{name}.{key}"), value)));
        } else {
            leaves.insert(name, value);
        }
    }
    leaves
}

fn text_of(key: &'static Key, value: Value, origin: &str) -> Result<String, ConfigError> {
    let wrong = |shape: &str| {
        let reason = format!("is {shape}; a single value is needed");
        refused(key, "[...]", origin, reason)
    };
    match value.kind {
        ValueKind::Array(items) => {
            // Only lists may be arrays; their text form is separated by commas.
            if key.name != "store.cassandra.nodes" {
                return Err(wrong("a list"));
            }
            let items: Result<Vec<_>, _> = items.into_iter().map(Value::into_string).collect();
            items.map(|items| items.join(",")).map_err(|_| wrong("a list of lists"))
        }
        ValueKind::Table(pairs) if TABLES.contains(&key.name) => {
            let pair = |(name, value): (String, Value)| value.into_string().map(|value| format!("{name}={value}"));
            let mut pairs =
                pairs.into_iter().map(pair).collect::<Result<Vec<_>, _>>().map_err(|_| wrong("a table of lists"))?;
            pairs.sort();
            Ok(pairs.join(","))
        }
        ValueKind::Nil => Err(wrong("empty")),
        _ => value.into_string().map_err(|_| wrong("not text")),
    }
}

fn check_rules(settings: &Settings, origins: &BTreeMap<&'static str, String>) -> Result<(), ConfigError> {
    let entry = |name: &'static str| {
        let value = find(name).map(|key| (key.show)(settings)).unwrap_or_default();
        Box::new(Entry { key: name, value, origin: origin_of(origins, name) })
    };
    rules::check(settings).map_err(|violation| ConfigError::Conflict {
        setting: entry(violation.key),
        other: entry(violation.other_key),
        rule: violation.rule,
    })
}

fn origin_of(origins: &BTreeMap<&'static str, String>, name: &str) -> String {
    origins.get(name).map_or_else(|| DEFAULT_ORIGIN.to_owned(), String::clone)
}

fn refused(key: &'static Key, value: &str, origin: &str, reason: String) -> ConfigError {
    let setting = Entry { key: key.name, value: key.shown(value), origin: origin.to_owned() };
    ConfigError::Value { setting: Box::new(setting), reason }
}

fn unknown_key(name: &str, origin: &str) -> ConfigError {
    let section = format!("{name}.");
    let hint = if KEYS.iter().any(|key| key.name.starts_with(&section)) {
        let keys: Vec<_> = KEYS.iter().filter(|key| key.name.starts_with(&section)).map(|key| key.name).collect();
        format!("it is a section with the keys {}", keys.join(", "))
    } else {
        hint(name, KEYS.iter().map(|key| key.name))
    };
    ConfigError::UnknownKey { name: name.to_owned(), origin: origin.to_owned(), hint }
}

fn hint<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let folded = name.to_lowercase();
    // Besides the whole name, its last part counts: the section is often what was forgotten.
    let likeness = |known: &str| {
        let folded_known = known.to_lowercase();
        let tail = folded_known.rsplit(['.']).next().unwrap_or_default();
        strsim::jaro_winkler(&folded, &folded_known).max(strsim::normalized_levenshtein(&folded, tail))
    };
    known
        .map(|known| (likeness(known), known))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map_or_else(
            || "`walcast config print` lists all settings".to_owned(),
            |(_, known)| format!("did you mean {known}?"),
        )
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
