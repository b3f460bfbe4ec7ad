//! A trace as Jaeger's query API gives it.

use std::collections::BTreeMap;

use serde_json::Value;

/// A span of a trace: the ids of both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub trace: String,
    pub span: String,
}

/// One span. Times are in microseconds.
#[derive(Debug, Clone)]
pub struct Span {
    pub id: String,
    pub name: String,
    /// Of the process that it comes from.
    pub service: String,
    pub begin: u64,
    pub length: u64,
    /// The span that it is a child of.
    pub parent: Option<String>,
    pub links: Vec<Place>,
    pub tags: BTreeMap<String, String>,
}

/// One trace.
#[derive(Debug, Clone)]
pub struct Trace {
    pub id: String,
    pub spans: Vec<Span>,
    /// The tags of the processes that its spans come from, each once.
    pub processes: Vec<BTreeMap<String, String>>,
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn tags(value: &Value) -> BTreeMap<String, String> {
    let all = value.as_array().into_iter().flatten();
    all.map(|tag| (text(&tag["key"]), text(&tag["value"]))).collect()
}

impl Span {
    fn read(value: &Value, processes: &Value) -> Self {
        let references = || value["references"].as_array().into_iter().flatten();
        let of_kind = |kind: &'static str| references().filter(move |reference| reference["refType"] == kind);
        let place = |value: &Value| Place { trace: text(&value["traceID"]), span: text(&value["spanID"]) };
        Self {
            id: text(&value["spanID"]),
            name: text(&value["operationName"]),
            service: text(&processes[text(&value["processID"])]["serviceName"]),
            begin: value["startTime"].as_u64().expect("microseconds"),
            length: value["duration"].as_u64().expect("microseconds"),
            parent: of_kind("CHILD_OF").map(|reference| text(&reference["spanID"])).next(),
            links: of_kind("FOLLOWS_FROM").map(place).collect(),
            tags: tags(&value["tags"]),
        }
    }

    /// A tag's value; empty if it has none.
    pub fn tag(&self, key: &str) -> &str {
        self.tags.get(key).map_or("", String::as_str)
    }
}

impl Trace {
    /// From an element of the API's `data`.
    pub fn read(value: &Value) -> Self {
        let spans = value["spans"].as_array().into_iter().flatten();
        let spans = spans.map(|span| Span::read(span, &value["processes"])).collect();
        let processes = value["processes"].as_object().into_iter().flatten();
        Self {
            id: text(&value["traceID"]),
            spans,
            processes: processes.map(|(_, process)| tags(&process["tags"])).collect(),
        }
    }

    /// Its spans of this name.
    pub fn named(&self, name: &str) -> impl Iterator<Item = &Span> {
        self.spans.iter().filter(move |span| span.name == name)
    }

    /// Its only span of this name.
    pub fn only(&self, name: &str) -> &Span {
        let mut found = self.named(name);
        match (found.next(), found.next()) {
            (Some(span), None) => span,
            other => panic!("one span {name} is expected: {other:?} of {self:#?}"),
        }
    }

    /// The span of this id.
    pub fn span(&self, id: &str) -> Option<&Span> {
        self.spans.iter().find(|span| span.id == id)
    }

    /// Its spans as lines: children below their parent, in the order of their begin, with `about` behind each.
    pub fn lines(&self, about: &dyn Fn(&Span) -> String) -> Vec<String> {
        let mut lines = Vec::new();
        let first = self.spans.iter().map(|span| span.begin).min().unwrap_or(0);
        let is_root = |span: &Span| span.parent.as_ref().is_none_or(|parent| self.span(parent).is_none());
        self.add_lines(&is_root, 0, first, about, &mut lines);
        lines
    }

    fn add_lines(
        &self,
        which: &dyn Fn(&Span) -> bool,
        depth: usize,
        first: u64,
        about: &dyn Fn(&Span) -> String,
        lines: &mut Vec<String>,
    ) {
        let mut chosen: Vec<&Span> = self.spans.iter().filter(|span| which(span)).collect();
        // Of those that begin together the longer one first.
        chosen.sort_by_key(|span| (span.begin, std::cmp::Reverse(span.length)));
        for span in chosen {
            let name = format!("{}{}", "  ".repeat(depth), span.name);
            let (at, length) = (milliseconds(span.begin - first), milliseconds(span.length));
            lines.push(format!("{name:<28} {at:>9} {length:>9}  {}", about(span)).trim_end().to_owned());
            self.add_lines(&|other| other.parent.as_ref() == Some(&span.id), depth + 1, first, about, lines);
        }
    }
}

fn milliseconds(microseconds: u64) -> String {
    format!("{}.{:03}", microseconds / 1_000, microseconds % 1_000)
}
