//! Log lines: structured, to standard error, so that standard output stays for data.
//!
//! What the lines are is in docs/logs.md; a test compares it with the source.

mod of_call;
mod one_line;
mod throttle;

use std::io::{self, IsTerminal as _};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt};

use self::one_line::Form;
use self::throttle::Throttle;
use super::metrics::LineMetrics;
use super::traces;

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// [`Format::Text`] if standard error is a terminal, else [`Format::Json`].
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging was not set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The directives of the filter cannot be read.
    #[error("the log filter {filter} is not valid: {reason}")]
    Filter {
        /// As it was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// This process logs already.
    #[error("logging is set up twice in this process")]
    AlreadySet,
}

/// What libraries say that we say ourselves, once and in our words: the driver of Cassandra warns of every attempt to connect.
/// Part of every filter, and first in it, so that a filter that names them has its way.
const QUIET: &str = "scylla=off";

/// How often it is looked whether counts of lines that were left out are due.
const SUMMARIZE_EVERY: Duration = Duration::from_secs(1);

/// What is set up, once for the process.
static LOGGING: OnceLock<Logging> = OnceLock::new();

#[derive(Debug)]
struct Logging {
    throttle: Arc<Throttle>,
    text: bool,
}

/// Sets up logging for the process, once. `filter` has the form of `RUST_LOG`, such as `info,walcast::wal=debug`.
///
/// # Errors
/// [`LoggingError`] if the filter is not valid or the process logs already.
pub fn init(format: Format, filter: &str) -> Result<(), LoggingError> {
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}"))
        .map_err(|reason| LoggingError::Filter { filter: filter.to_owned(), reason: reason.to_string() })?;
    let is_terminal = io::stderr().is_terminal();
    let form = match format {
        Format::Json => Form::Json,
        Format::Auto if !is_terminal => Form::Json,
        Format::Auto | Format::Text if is_terminal && !colours_are_unwanted() => Form::Coloured,
        Format::Auto | Format::Text => Form::Plain,
    };
    let throttle = Arc::new(Throttle::default());
    let lines = lines(form, filter, Arc::clone(&throttle), io::stderr);
    tracing_subscriber::registry().with(lines).try_init().map_err(|_| LoggingError::AlreadySet)?;
    let summaries = Arc::clone(&throttle);
    LOGGING.get_or_init(|| Logging { throttle, text: form != Form::Json });
    // It ends with the process. Without it lines are left out all the same, and counted at the end.
    let name = "log-summaries".to_owned();
    drop(thread::Builder::new().name(name).spawn(move || {
        loop {
            thread::sleep(SUMMARIZE_EVERY);
            summaries.summarize();
        }
    }));
    Ok(())
}

/// Writes what is still to be said about lines that were left out. For the end of the process.
pub fn finish() {
    if let Some(logging) = LOGGING.get() {
        logging.throttle.finish();
    }
}

/// Whether lines are written for people.
pub fn is_text() -> bool {
    LOGGING.get().is_some_and(|logging| logging.text)
}

/// As <https://no-color.org> has it: set, and not to nothing.
fn colours_are_unwanted() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Whoever writes the lines. The spans that a line is in are part of it, and with them the id of its trace. The library writes
/// no colours: their control sequences could not be told from those of somebody who wants to forge a line.
fn lines<W>(form: Form, filter: EnvFilter, throttle: Arc<Throttle>, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(writer).with_ansi(false);
    match form {
        Form::Plain | Form::Coloured => {
            Box::new(lines.map_event_format(|format| Kept { format, form, throttle }).with_filter(filter))
        }
        Form::Json => {
            let lines = lines.json().flatten_event(true);
            Box::new(lines.map_event_format(|format| Kept { format, form, throttle }).with_filter(filter))
        }
    }
}

/// Where lines are counted. A static, as the lines of a process are.
static COUNTERS: OnceLock<LineMetrics> = OnceLock::new();

/// Counts the lines of level WARN and ERROR that are written from now on, and those of every level that are left out. The
/// first node of a process has them.
pub fn count_lines(counters: &LineMetrics) {
    COUNTERS.get_or_init(|| counters.clone());
}

fn count(level: Level, written: bool) {
    let Some(counters) = COUNTERS.get() else { return };
    match (level, written) {
        (Level::ERROR, true) => counters.errors.inc(),
        (Level::WARN, true) => counters.warnings.inc(),
        (Level::ERROR, false) => counters.suppressed_errors.inc(),
        (Level::WARN, false) => counters.suppressed_warnings.inc(),
        (Level::INFO, false) => counters.suppressed_infos.inc(),
        _ => {}
    }
}

/// Formats the lines that are not left out, with the traces that they belong to, and counts them. Not a filter of tracing-subscriber (0.3): one that refuses
/// an event goes on refusing those that follow.
struct Kept<F> {
    format: F,
    form: Form,
    throttle: Arc<Throttle>,
}

impl<S, N, F> FormatEvent<S, N> for Kept<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let level = *event.metadata().level();
        let passes = self.throttle.passes(event);
        count(level, passes);
        if !passes {
            return Ok(());
        }
        let mut line = String::new();
        self.format.format_event(context, Writer::new(&mut line), event)?;
        let has_own = event.metadata().fields().field("trace_id").is_some();
        if let Some(id) = traces::current_trace_id().filter(|_| !has_own) {
            of_call::add_trace_id(self.form, &mut line, &id)?;
        }
        writer.write_str(&self.form.line(level, &line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_filter_is_named() {
        let refused = init(Format::Auto, "walcast=loud").err().map(|error| error.to_string());
        assert!(refused.is_some_and(|text| text.starts_with("the log filter walcast=loud is not valid")));
    }

    /// Where a test reads what was written.
    #[derive(Clone, Default)]
    struct Buffer(Arc<parking_lot::Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written while this runs, and at the end.
    fn written(form: Form, log: impl FnOnce()) -> String {
        let throttle = Arc::new(Throttle::default());
        let buffer = Buffer::default();
        let to = buffer.clone();
        let lines = lines(form, EnvFilter::new("debug"), Arc::clone(&throttle), move || to.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            log();
            throttle.finish();
        });
        let bytes = buffer.0.lock().clone();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn nothing_that_is_logged_can_forge_a_line_or_a_field() {
        let evil = "s\n2026-01-01T00:00:00Z ERROR walcast: forged\r\u{1b}[2J\u{9b}31m\u{7f}\" level=\"ERROR";
        for form in [Form::Plain, Form::Coloured, Form::Json] {
            let lines = written(form, || {
                tracing::debug!(subject = evil, "as a text");
                tracing::debug!(subject = %evil, "as it displays itself");
                tracing::debug!("in the message: {evil}");
                tracing::debug!(error = &io::Error::other(evil) as &dyn std::error::Error, "as an error");
                tracing::info_span!("a span", subject = %evil).in_scope(|| tracing::debug!("in a span"));
            });
            assert_eq!(lines.lines().count(), 5, "{lines}");
            for line in lines.lines() {
                // Two colours begin and end, before anything that was logged.
                let sequences = line.matches('\u{1b}').count();
                assert_eq!(sequences, if form == Form::Coloured { 4 } else { 0 }, "{line:?}");
                let behind = line.rsplit_once("\u{1b}[0m").map_or(line, |(_, behind)| behind);
                assert!(!behind.contains(char::is_control), "{line:?}");
                match form {
                    Form::Plain => assert!(line.contains(" DEBUG ") && !line.starts_with("2026-01-01"), "{line}"),
                    Form::Coloured => assert!(line.contains("\u{1b}[34mDEBUG\u{1b}[0m "), "{line:?}"),
                    Form::Json => {
                        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
                        assert_eq!(line["level"], "DEBUG");
                    }
                }
            }
        }
    }

    #[test]
    fn a_line_has_the_trace_id_of_its_span_or_its_own() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        for form in [Form::Coloured, Form::Json] {
            let lines = written(form, || {
                tracing::info_span!("publish", trace_id = id).in_scope(|| tracing::info!("in a span"));
                tracing::info!(trace_id = id, "by itself");
                tracing::info!("without");
            });
            let with_id: Vec<bool> = lines.lines().map(|line| line.contains(id)).collect();
            assert_eq!(with_id, [true, true, false], "{lines}");
        }
    }

    #[test]
    fn a_line_of_a_traced_call_has_its_trace_id_once() {
        let (id, own) = ("4bf92f3577b34da6a3ce929d0e0e4736", "0af7651916cd43dd8448eb211c80319c");
        let call = traces::tests::sampled_call(id);
        for form in [Form::Plain, Form::Json] {
            let lines = written(form, || {
                tracing::warn!("before");
                let entered = call.enter();
                tracing::warn!(error = "}", "within");
                tracing::error!(trace_id = own, "with its own");
                drop(entered);
                tracing::warn!("after");
            });
            let lines: Vec<&str> = lines.lines().collect();
            let with = |id: &str| lines.iter().map(|line| line.matches(id).count()).collect::<Vec<_>>();
            assert_eq!((with(id), with(own)), (vec![0, 1, 0, 0], vec![0, 0, 1, 0]), "{lines:?}");
            match form {
                Form::Plain | Form::Coloured => assert!(lines[1].ends_with(&format!(" trace_id={id}")), "{}", lines[1]),
                Form::Json => {
                    let line: serde_json::Value = serde_json::from_str(lines[1]).expect("JSON");
                    assert_eq!((&line["trace_id"], &line["error"]), (&id.into(), &"}".into()));
                }
            }
        }
    }

    #[test]
    fn a_line_that_repeats_is_left_out_and_a_debug_line_is_not() {
        let lines = written(Form::Plain, || {
            for number in 0..100 {
                tracing::warn!(number, "the same");
                tracing::debug!(number, "for who asks");
            }
        });
        let count = |part: &str| lines.lines().filter(|line| line.contains(part)).count();
        // The tenth and one: the count tells what the others were.
        assert_eq!((count("the same"), count("for who asks")), (11, 100));
        let last = lines.lines().last().unwrap_or_default();
        assert!(
            last.contains("WARN") && last.contains("90 more like it in 1 s") && last.contains("the same"),
            "{last}"
        );
    }
}
