//! How a value is read from text and shown again: sizes, durations, numbers, words.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;

use super::{LogFormat, Secret, StoreKind};

/// What is wrong with a value, as the end of a sentence that begins with it.
pub(super) type Reason = String;

/// A kind of value. What `show` gives, `parse` reads back as the same value.
pub(super) trait Kind {
    /// The type of the field.
    type Value;

    fn parse(&self, text: &str) -> Result<Self::Value, Reason>;

    fn show(&self, value: &Self::Value) -> String;
}

/// A size in bytes such as `64MiB`.
pub(super) struct Bytes<T>(u64, u64, PhantomData<T>);

pub(super) const fn bytes<T>(min: u64, max: u64) -> Bytes<T> {
    Bytes(min, max, PhantomData)
}

/// A whole number.
pub(super) struct Count<T>(u64, u64, PhantomData<T>);

pub(super) const fn count<T>(min: u64, max: u64) -> Count<T> {
    Count(min, max, PhantomData)
}

/// A duration such as `2ms` or `7d`.
pub(super) struct Span(Duration, Duration);

pub(super) const fn span(min: Duration, max: Duration) -> Span {
    Span(min, max)
}

/// A share between 0 and 1.
pub(super) struct Ratio;
/// An IP address and a port.
pub(super) struct Address;
/// A folder.
pub(super) struct Folder;
/// A file; empty for none.
pub(super) struct File;
/// One of the stores.
pub(super) struct Store;
/// A log format.
pub(super) struct Format;
/// Directives of the log filter.
pub(super) struct Filter;
/// Text that is not empty.
pub(super) struct Word;
/// Text; empty for none.
pub(super) struct Text;
/// A text with a password in it; empty for none.
pub(super) struct Hidden;
/// At most this many texts, separated by commas.
pub(super) struct List(pub(super) usize);
/// At most this many names with a value each, `a=1,b=2`; a table in the file.
pub(super) struct Pairs(pub(super) usize);
/// A collector of traces, `http://HOST:PORT`; empty for none.
pub(super) struct Collector;

/// The value in the largest unit that shows it exactly: `64MiB`, `1000B`.
pub(super) fn show_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    // Trailing zero bits in tens: how often 1024 divides it.
    let power = if bytes == 0 { 0 } else { (bytes.trailing_zeros() / 10).min(5) };
    format!("{}{}", bytes >> (10 * power), UNITS[power as usize])
}

fn within<T: PartialOrd>(value: T, min: &T, max: &T, show: impl Fn(&T) -> String) -> Result<T, Reason> {
    if value < *min {
        Err(format!("is below the least value {}", show(min)))
    } else if value > *max {
        Err(format!("is above the greatest value {}", show(max)))
    } else {
        Ok(value)
    }
}

fn narrow<T: TryFrom<u64>>(value: u64) -> Result<T, Reason> {
    T::try_from(value).map_err(|_| "is too large for this machine".to_owned())
}

fn widen<T: Copy + TryInto<u64>>(value: T) -> u64 {
    // Every field is unsigned and at most 64 bits wide.
    value.try_into().unwrap_or(u64::MAX)
}

impl<T: Copy + TryFrom<u64> + TryInto<u64>> Kind for Bytes<T> {
    type Value = T;

    fn parse(&self, text: &str) -> Result<T, Reason> {
        let size: ByteSize = text.parse().map_err(|_| "is not a size in bytes such as 64MiB or 1GiB".to_owned())?;
        narrow(within(size.as_u64(), &self.0, &self.1, |bytes| show_bytes(*bytes))?)
    }

    fn show(&self, value: &T) -> String {
        show_bytes(widen(*value))
    }
}

impl<T: Copy + TryFrom<u64> + TryInto<u64>> Kind for Count<T> {
    type Value = T;

    fn parse(&self, text: &str) -> Result<T, Reason> {
        let number: u64 = text.parse().map_err(|_| "is not a whole number".to_owned())?;
        narrow(within(number, &self.0, &self.1, u64::to_string)?)
    }

    fn show(&self, value: &T) -> String {
        widen(*value).to_string()
    }
}

impl Kind for Span {
    type Value = Duration;

    fn parse(&self, text: &str) -> Result<Duration, Reason> {
        let span =
            humantime::parse_duration(text).map_err(|_| "is not a duration such as 2ms, 30s or 7d".to_owned())?;
        within(span, &self.0, &self.1, |span| self.show(span))
    }

    fn show(&self, value: &Duration) -> String {
        humantime::format_duration(*value).to_string()
    }
}

impl Kind for Ratio {
    type Value = f64;

    fn parse(&self, text: &str) -> Result<f64, Reason> {
        match text.parse::<f64>() {
            Ok(ratio) if ratio.is_finite() => within(ratio, &0.0, &1.0, f64::to_string),
            _ => Err("is not a number from 0 to 1".to_owned()),
        }
    }

    fn show(&self, value: &f64) -> String {
        value.to_string()
    }
}

impl Kind for Address {
    type Value = SocketAddr;

    fn parse(&self, text: &str) -> Result<SocketAddr, Reason> {
        text.parse().map_err(|_| "is not an IP address with a port such as 127.0.0.1:50051 or 0.0.0.0:50051".to_owned())
    }

    fn show(&self, value: &SocketAddr) -> String {
        value.to_string()
    }
}

impl Kind for Folder {
    type Value = PathBuf;

    fn parse(&self, text: &str) -> Result<PathBuf, Reason> {
        if text.is_empty() { Err("is empty; it must name a folder".to_owned()) } else { Ok(PathBuf::from(text)) }
    }

    fn show(&self, value: &PathBuf) -> String {
        value.display().to_string()
    }
}

impl Kind for File {
    type Value = Option<PathBuf>;

    fn parse(&self, text: &str) -> Result<Option<PathBuf>, Reason> {
        Ok((!text.is_empty()).then(|| PathBuf::from(text)))
    }

    fn show(&self, value: &Option<PathBuf>) -> String {
        value.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
    }
}

impl Kind for Store {
    type Value = StoreKind;

    fn parse(&self, text: &str) -> Result<StoreKind, Reason> {
        match text {
            "embedded" => Ok(StoreKind::Embedded),
            "postgres" => Ok(StoreKind::Postgres),
            "cassandra" | "scylla" => Ok(StoreKind::Cassandra),
            "none" => Ok(StoreKind::None),
            _ => Err("is not a kind of store: use embedded, postgres, cassandra or none".to_owned()),
        }
    }

    fn show(&self, value: &StoreKind) -> String {
        value.name().to_owned()
    }
}

impl Kind for Format {
    type Value = LogFormat;

    fn parse(&self, text: &str) -> Result<LogFormat, Reason> {
        [LogFormat::Auto, LogFormat::Text, LogFormat::Json]
            .into_iter()
            .find(|format| format.name() == text)
            .ok_or_else(|| "is not a log format: use auto, text or json".to_owned())
    }

    fn show(&self, value: &LogFormat) -> String {
        value.name().to_owned()
    }
}

impl Kind for Filter {
    type Value = String;

    fn parse(&self, text: &str) -> Result<String, Reason> {
        match tracing_subscriber::EnvFilter::try_new(text) {
            Ok(_) if !text.trim().is_empty() => Ok(text.to_owned()),
            _ => Err("is not a log filter such as info or info,walcast::wal=debug".to_owned()),
        }
    }

    fn show(&self, value: &String) -> String {
        value.clone()
    }
}

impl Kind for Word {
    type Value = String;

    fn parse(&self, text: &str) -> Result<String, Reason> {
        if text.is_empty() { Err("is empty".to_owned()) } else { Ok(text.to_owned()) }
    }

    fn show(&self, value: &String) -> String {
        value.clone()
    }
}

impl Kind for Text {
    type Value = Option<String>;

    fn parse(&self, text: &str) -> Result<Option<String>, Reason> {
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }

    fn show(&self, value: &Option<String>) -> String {
        value.clone().unwrap_or_default()
    }
}

impl Kind for Hidden {
    type Value = Option<Secret>;

    fn parse(&self, text: &str) -> Result<Option<Secret>, Reason> {
        Ok(if text.is_empty() { None } else { Some(Secret::new(text)) })
    }

    fn show(&self, value: &Option<Secret>) -> String {
        value.as_ref().map(Secret::redacted).unwrap_or_default()
    }
}

impl Kind for List {
    type Value = Vec<String>;

    fn parse(&self, text: &str) -> Result<Vec<String>, Reason> {
        let items: Vec<String> =
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect();
        if items.len() > self.0 {
            return Err(format!("has {} entries, at most {} are taken", items.len(), self.0));
        }
        Ok(items)
    }

    fn show(&self, value: &Vec<String>) -> String {
        value.join(",")
    }
}

impl Kind for Pairs {
    type Value = BTreeMap<String, String>;

    fn parse(&self, text: &str) -> Result<BTreeMap<String, String>, Reason> {
        let mut pairs = BTreeMap::new();
        for item in List(self.0).parse(text)? {
            let (name, value) = item.split_once('=').ok_or_else(|| "is not a list such as a=1,b=2".to_owned())?;
            if pairs.insert(name.trim().to_owned(), value.trim().to_owned()).is_some() {
                return Err(format!("names {name} twice"));
            }
        }
        Ok(pairs)
    }

    fn show(&self, value: &BTreeMap<String, String>) -> String {
        value.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
    }
}

impl Kind for Collector {
    type Value = Option<String>;

    fn parse(&self, text: &str) -> Result<Option<String>, Reason> {
        if text.is_empty() {
            return Ok(None);
        }
        if cfg!(feature = "no-telemetry") {
            return Err("cannot be served: this build is for measuring and has neither metrics nor traces".to_owned());
        }
        let uri = text.parse::<http::Uri>().ok();
        if uri.as_ref().and_then(http::Uri::scheme_str) == Some("https") {
            return Err("begins with https, and TLS is not spoken here: use a collector on this machine".to_owned());
        }
        let plain = uri.filter(|uri| {
            let user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
            uri.scheme_str() == Some("http")
                && uri.port_u16().is_some()
                && uri.path() == "/"
                && uri.query().is_none()
                && !user
        });
        plain.ok_or_else(|| "is not a collector such as http://127.0.0.1:4317 (OTLP over gRPC)".to_owned())?;
        Ok(Some(text.to_owned()))
    }

    fn show(&self, value: &Option<String>) -> String {
        value.clone().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_units_and_shown_exactly() {
        let kind = bytes::<u64>(1, 1 << 40);
        for (text, value, shown) in [
            ("64MiB", 64 << 20, "64MiB"),
            ("1 GiB", 1 << 30, "1GiB"),
            ("1500", 1500, "1500B"),
            ("1.5KiB", 1536, "1536B"),
            ("1MB", 1_000_000, "1000000B"),
        ] {
            assert_eq!(kind.parse(text), Ok(value));
            assert_eq!(kind.show(&value), shown);
            assert_eq!(kind.parse(shown), Ok(value));
        }
        for text in ["", "-1", "lots", "64 parsecs", "1e3"] {
            assert!(kind.parse(text).is_err_and(|reason| reason.contains("64MiB")), "{text}");
        }
        assert_eq!(kind.parse("0"), Err("is below the least value 1B".to_owned()));
        assert_eq!(kind.parse("2TiB"), Err("is above the greatest value 1TiB".to_owned()));
    }

    #[test]
    fn durations_are_read_in_units_and_shown_exactly() {
        let kind = span(Duration::from_millis(2), Duration::from_secs(7 * 86_400));
        for text in ["2ms", "7d", "1h 30m", "250us 3s"] {
            let value = kind.parse(text).expect("a duration in bounds");
            assert_eq!(kind.parse(&kind.show(&value)), Ok(value));
        }
        assert!(kind.parse("1us").is_err_and(|reason| reason.contains("2ms")));
        assert!(kind.parse("8d").is_err_and(|reason| reason.contains("7days")));
        assert!(kind.parse("2").is_err_and(|reason| reason.contains("duration")));
    }

    #[test]
    fn numbers_keep_their_bounds() {
        let kind = count::<u32>(1, u64::from(u32::MAX));
        assert_eq!(kind.parse("7"), Ok(7));
        assert!(kind.parse("0").is_err());
        assert!(kind.parse("4294967296").is_err());
        assert!(kind.parse("1.5").is_err());
        assert_eq!(Ratio.parse("0.25"), Ok(0.25));
        for text in ["-0.1", "1.1", "NaN", "inf", "x"] {
            assert!(Ratio.parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn stores_of_the_next_version_are_known_words() {
        assert!(
            Store.parse("sqlite").is_err_and(|reason| reason.contains("use embedded, postgres, cassandra or none"))
        );
        for word in ["cassandra", "scylla"] {
            assert_eq!(Store.parse(word), Ok(StoreKind::Cassandra));
        }
        assert_eq!(Store.parse("none"), Ok(StoreKind::None));
        assert_eq!(Store.parse("postgres"), Ok(StoreKind::Postgres));
    }

    #[test]
    fn pairs_name_each_name_once() {
        let pairs = Pairs(2).parse("b=h:2, a=h:1").expect("pairs");
        assert_eq!(Pairs(2).show(&pairs), "a=h:1,b=h:2");
        assert!(Pairs(2).parse("a=h:1,a=h:2").is_err_and(|reason| reason.contains("names a twice")));
        assert!(Pairs(2).parse("a").is_err());
        assert!(Pairs(2).parse("a=1,b=2,c=3").is_err());
    }

    #[test]
    fn lists_are_separated_by_commas() {
        assert_eq!(List(2).parse("a:1, b:2"), Ok(vec!["a:1".to_owned(), "b:2".to_owned()]));
        assert_eq!(List(2).parse(""), Ok(Vec::new()));
        assert!(List(2).parse("a,b,c").is_err());
    }
}
