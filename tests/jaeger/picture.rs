//! The whole picture of one publish, and what is wrong with one.

use std::collections::BTreeMap;

use crate::jaeger::Jaeger;
use crate::support::eventually;
use crate::trace::{Place, Span, Trace};

pub const CALL: &str = "broker.Broker/Publish";
pub const STAGES: [&str; 4] = ["admission", "queue", "commit", "answer"];
/// What is done for a message together with others: its span, and the span of the batch that it is linked with.
pub const SHARED: [(&str, &str); 3] = [("commit", "log commit"), ("project", "project batch"), ("deliver", "hand-off")];

/// Jaeger gives whole microseconds: each of five spans may have lost one at either end.
const ROUNDING_US: u64 = 10;

/// A trace, and those that its links lead to.
#[derive(Debug, Clone)]
pub struct Picture {
    pub own: Trace,
    pub linked: BTreeMap<String, Trace>,
}

impl Picture {
    /// Waits until the trace has everything that a publish with a subscriber has.
    pub async fn of(jaeger: &Jaeger, trace: &str) -> Self {
        let names: Vec<&str> = STAGES.into_iter().chain([CALL, "project", "deliver"]).collect();
        let own = jaeger.trace_with(trace, &names).await;
        Self::around(jaeger, own).await
    }

    /// The trace with those that its links lead to, as far as Jaeger gets them.
    pub async fn around(jaeger: &Jaeger, own: Trace) -> Self {
        let mut linked = BTreeMap::new();
        for Place { trace, span } in own.spans.iter().flat_map(|span| &span.links) {
            let found = eventually("what a link leads to", || async {
                let found = jaeger.trace(trace).await?;
                found.span(span).is_some().then_some(found)
            });
            linked.insert(trace.clone(), found.await);
        }
        Self { own, linked }
    }

    /// Every way in which it is not whole; `parent` is the caller's span.
    pub fn problems(&self, parent: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let Some(call) = only(&self.own, CALL, &mut problems) else { return problems };
        expect(call.parent.as_deref() == Some(parent), "the call is not its caller's child", &mut problems);
        let mut sum = 0;
        for name in STAGES {
            let Some(stage) = only(&self.own, name, &mut problems) else { continue };
            expect(stage.parent.as_ref() == Some(&call.id), &format!("{name} is not of the call"), &mut problems);
            sum += stage.length;
        }
        let said = format!("the stages take {sum} us, the call {} us", call.length);
        expect(sum.abs_diff(call.length) <= ROUNDING_US, &said, &mut problems);
        for name in ["project", "deliver"] {
            let Some(span) = only(&self.own, name, &mut problems) else { continue };
            expect(span.parent.as_deref() == Some(parent), &format!("{name} is not of the publish"), &mut problems);
        }
        for (name, batch) in SHARED {
            if let Some(span) = self.own.named(name).next()
                && let Err(problem) = self.batch_of(span, batch)
            {
                problems.push(problem);
            }
        }
        problems
    }

    /// The span of the batch that a span is linked with, there and back.
    fn batch_of(&self, span: &Span, name: &str) -> Result<&Span, String> {
        let [Place { trace, span: id }] = &span.links[..] else {
            return Err(format!("{} has {} links", span.name, span.links.len()));
        };
        let linked = self.linked.get(trace).ok_or_else(|| format!("{}: nothing is behind its link", span.name))?;
        let batch = linked.span(id).filter(|batch| batch.name == name);
        let batch = batch.ok_or_else(|| format!("{} is linked with no {name}", span.name))?;
        let back = Place { trace: self.own.id.clone(), span: span.id.clone() };
        if !batch.links.contains(&back) {
            return Err(format!("{name} has no link to {}", span.name));
        }
        if name == "log commit" && !linked.named("fdatasync").any(|sync| sync.parent.as_ref() == Some(id)) {
            return Err("log commit has no fdatasync".to_owned());
        }
        if name == "project batch" && batch.tag("db.system.name").is_empty() {
            return Err("project batch names no database".to_owned());
        }
        Ok(batch)
    }

    /// As text.
    pub fn show(&self) -> String {
        let mut text = format!("{:<28} {:>9} {:>9}\n", "span", "at ms", "takes ms");
        let tags = |span: &Span| {
            let own = span.tags.iter().filter(|(key, _)| ABOUT.contains(&key.as_str()));
            let own = own.map(|(key, value)| format!("{key}={value}"));
            let links = span.links.iter().map(|link| format!("-> {}", self.name_of(link)));
            own.chain(links).collect::<Vec<_>>().join(" ")
        };
        text += &format!("trace {}\n", self.own.id);
        self.own.lines(&tags).iter().for_each(|line| text += &format!("{line}\n"));
        for trace in self.linked.values() {
            text += &format!("trace {}\n", trace.id);
            trace.lines(&tags).iter().for_each(|line| text += &format!("{line}\n"));
        }
        text
    }

    fn name_of(&self, link: &Place) -> String {
        let trace = if link.trace == self.own.id { Some(&self.own) } else { self.linked.get(&link.trace) };
        let name = trace.and_then(|trace| trace.span(&link.span)).map_or("?", |span| &span.name);
        format!("{name} of {}", &link.trace[..8])
    }
}

/// Tags that are shown.
const ABOUT: [&str; 7] = [
    "rpc.response.status_code",
    "messaging.destination.name",
    "messaging.message.id",
    "messaging.batch.message_count",
    "db.system.name",
    "walcast.outcome",
    "walcast.store.retries",
];

fn expect(holds: bool, problem: &str, problems: &mut Vec<String>) {
    if !holds {
        problems.push(problem.to_owned());
    }
}

fn only<'a>(trace: &'a Trace, name: &str, problems: &mut Vec<String>) -> Option<&'a Span> {
    let found: Vec<&Span> = trace.named(name).collect();
    expect(found.len() == 1, &format!("{} spans {name}", found.len()), problems);
    found.first().copied()
}
