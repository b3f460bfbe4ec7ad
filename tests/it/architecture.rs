//! The tree is the architecture: imports run downwards, files stay small, fsync has one home.
//!
//! Rooms import downwards only: cli -> broker -> api -> fetch, transfer -> index, ingest, delivery, projector -> wal -> event.
//! Siblings do not import each other; config and telemetry import only event.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file up to its tests.
const LINES_MAX: usize = 600;

/// Each room with the rooms it may import; every room may import itself.
const MAY_IMPORT: [(&str, &[&str]); 16] = [
    ("event", &["proto"]),
    ("proto", &["event", "api"]),
    ("config", &["event"]),
    ("telemetry", &["event"]),
    ("wal", &["event", "telemetry"]),
    ("index", &["event", "telemetry", "wal"]),
    ("cluster", &["event", "telemetry", "wal"]),
    ("forward", &["event", "telemetry", "proto", "cluster", "delivery"]),
    ("ingest", &["event", "telemetry", "wal"]),
    ("delivery", &["event", "telemetry", "wal"]),
    ("projector", &["event", "telemetry", "wal"]),
    ("fetch", &["event", "telemetry", "wal", "index", "ingest", "delivery", "projector"]),
    (
        "transfer",
        &["event", "telemetry", "proto", "wal", "cluster", "forward", "index", "ingest", "delivery", "projector"],
    ),
    (
        "api",
        &[
            "event",
            "telemetry",
            "config",
            "proto",
            "wal",
            "cluster",
            "forward",
            "ingest",
            "delivery",
            "projector",
            "fetch",
            "transfer",
        ],
    ),
    (
        "broker",
        &[
            "event",
            "telemetry",
            "config",
            "proto",
            "wal",
            "cluster",
            "forward",
            "index",
            "ingest",
            "delivery",
            "projector",
            "fetch",
            "transfer",
            "api",
        ],
    ),
    (
        "cli",
        &[
            "event",
            "telemetry",
            "config",
            "proto",
            "wal",
            "cluster",
            "forward",
            "index",
            "ingest",
            "delivery",
            "projector",
            "fetch",
            "api",
            "broker",
        ],
    ),
];

/// Words that no finished file has.
const FORBIDDEN: [&str; 5] = ["dbg!(", "todo!(", "unimplemented!(", "FIXME", "#[ignore"];

/// What asks the disk to make something durable.
const SYNC_CALLS: [&str; 5] = ["fdatasync", "sync_data", "sync_all", "fsync(", "syncfs"];

/// The crash-safe files of the rooms that keep something of their own beside the log: (path, why).
const MAY_SYNC: [(&str, &str); 3] = [
    ("wal", "the log"),
    ("projector/embedded", "the embedded store commits rows and cursor durably, through its database"),
    ("ingest/checkpoint", "the high-water marks of subjects outlive the segments they came from"),
];

/// A source file as the rules see it.
#[derive(Debug)]
struct Source {
    /// Below `src/`, with `/`.
    path: String,
    text: String,
}

impl Source {
    fn room(&self) -> &str {
        self.path.split('/').next().expect("a path").trim_end_matches(".rs")
    }

    /// The lines before the tests, numbered from 1; none of a file that is all tests.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let only_tests = self.path.contains("/tests/") || self.path.ends_with("/tests.rs");
        let tests = self.text.find("\n#[cfg(test)]\nmod ").unwrap_or(self.text.len());
        self.text[..if only_tests { 0 } else { tests }].lines().zip(1..).map(|(line, number)| (number, line))
    }

    /// The same without comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines().filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

fn sources(root: &Path) -> Vec<Source> {
    let mut folders = vec![root.to_owned()];
    let mut files: Vec<PathBuf> = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    let below = |file: &Path| file.strip_prefix(root).expect("below").to_string_lossy().replace('\\', "/");
    files.iter().map(|file| Source { path: below(file), text: fs::read_to_string(file).expect("UTF-8") }).collect()
}

/// The rooms that code names by `crate::room` or in `use crate::{a, b::c}`.
fn named_rooms(code: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for (start, _) in code.match_indices("crate::") {
        let rest = code[start..].split_once("::").expect("it matched").1;
        match rest.strip_prefix('{') {
            Some(list) => rooms.extend(top_level_names(list)),
            None => rooms.push(first_name(rest)),
        }
    }
    rooms.retain(|room| !room.is_empty());
    rooms
}

fn first_name(path: &str) -> String {
    path.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

/// The first names of `a::b, c::{d, e}}`, up to the brace that closes the list.
fn top_level_names(list: &str) -> Vec<String> {
    let mut depth = 0_usize;
    let mut names = vec![String::new()];
    for letter in list.chars() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(String::new()),
            _ if depth == 0 => names.last_mut().expect("never empty").push(letter),
            _ => {}
        }
    }
    names.iter().map(|name| first_name(name.trim())).collect()
}

/// Every breach, as `path:line: what`.
fn breaches(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        if !["lib", "main"].contains(&source.room()) {
            found.extend(upward_imports(source));
        }
        found.extend(forbidden_words(source));
        found.extend(stray_syncs(source));
        let lines = source.lines().count();
        if lines > LINES_MAX {
            found.push(format!("{}: {lines} lines before its tests, more than {LINES_MAX}", source.path));
        }
    }
    found
}

fn upward_imports(source: &Source) -> Vec<String> {
    let room = source.room();
    let Some((_, allowed)) = MAY_IMPORT.iter().find(|(known, _)| *known == room) else {
        return vec![format!("{}: the room {room} is not in the list of rooms", source.path)];
    };
    // A list may run over lines; only its first line tells where it begins.
    let code: Vec<(usize, &str)> = source.code().collect();
    let text = code.iter().map(|(_, line)| *line).collect::<Vec<_>>().join("\n");
    let is_room = |name: &str| MAY_IMPORT.iter().any(|(known, _)| *known == name);
    let mut named = named_rooms(&text);
    named.sort();
    named.dedup();
    named
        .into_iter()
        .filter(|name| is_room(name) && name != room && !allowed.contains(&name.as_str()))
        .map(|name| {
            let line = code.iter().find(|(_, line)| line.contains(&name)).map_or(0, |(number, _)| *number);
            format!("{}:{line}: {room} imports {name}", source.path)
        })
        .collect()
}

fn forbidden_words(source: &Source) -> Vec<String> {
    let words = |(number, line): (usize, &str)| {
        let path = source.path.clone();
        let hits: Vec<_> = FORBIDDEN.iter().filter(|word| line.contains(**word)).collect();
        hits.into_iter().map(move |word| format!("{path}:{number}: {word}")).collect::<Vec<_>>()
    };
    source.text.lines().zip(1..).map(|(line, number)| (number, line)).flat_map(words).collect()
}

fn stray_syncs(source: &Source) -> Vec<String> {
    if MAY_SYNC.iter().any(|(path, _)| source.path.starts_with(path)) {
        return Vec::new();
    }
    source
        .code()
        // What is said in a text is not done.
        .filter(|(_, line)| line.split('"').step_by(2).any(|code| SYNC_CALLS.iter().any(|call| code.contains(call))))
        .map(|(number, line)| format!("{}:{number}: asks for durability outside the log: {}", source.path, line.trim()))
        .collect()
}

#[test]
fn imports_run_downwards_files_are_small_and_only_the_log_syncs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let sources = sources(&root);
    assert!(sources.len() > 10, "the sources are there");
    let breaches = breaches(&sources);
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn the_median_file_is_at_most_200_lines() {
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let mut lengths: Vec<usize> =
        sources.iter().map(|source| source.lines().count()).filter(|lines| *lines > 0).collect();
    lengths.sort_unstable();
    assert!(lengths[lengths.len() / 2] <= 200, "{lengths:?}");
}

#[test]
fn every_breach_is_noticed() {
    let long = "// a line\n".repeat(LINES_MAX + 1);
    let cases = [
        ("wal/reader.rs", "use crate::ingest::Publisher;", "wal imports ingest"),
        (
            "delivery/fanout.rs",
            "use crate::{\n    event::{Subject, Message},\n    projector::Store,\n};",
            "delivery imports projector",
        ),
        ("ingest/queue.rs", "fn f() { crate::delivery::wake() }", "ingest imports delivery"),
        ("config/mod.rs", "use crate::wal::Options;", "config imports wal"),
        ("event/mod.rs", "use crate::wal::Sequence;", "event imports wal"),
        ("api/service.rs", "use crate::cli::Args;", "api imports cli"),
        ("newroom/mod.rs", "", "not in the list of rooms"),
        ("wal/mod.rs", "fn f() { todo!() }", "todo!("),
        ("wal/mod.rs", "fn f() { dbg!(1); }", "dbg!("),
        ("api/mod.rs", "fn f(file: File) { file.sync_all() }", "outside the log"),
        ("delivery/mod.rs", "fn f(file: File) { rustix::fs::fdatasync(file) }", "outside the log"),
        ("wal/long.rs", long.as_str(), "more than 600"),
    ];
    for (path, text, expected) in cases {
        let source = Source { path: path.to_owned(), text: text.to_owned() };
        let found = breaches(&[source]);
        assert!(found.len() == 1 && found[0].contains(expected), "{path}: {expected:?} in {found:?}");
    }
}

#[test]
fn what_is_allowed_is_not_a_breach() {
    let cases = [
        ("ingest/committer.rs", "use crate::wal::{Log, LogError};\nuse crate::event::Sequence;"),
        ("ingest/committer.rs", "// crate::delivery gets it from the broker\n/// See [`crate::api`].\nfn f() {}"),
        ("wal/file.rs", "fn f(file: File) { file.sync_data() }"),
        ("telemetry/metrics.rs", "const HELP: &str = \"Seconds of an fdatasync.\";"),
        ("config/tests.rs", "use crate::wal::Log;"),
        ("cli/serve.rs", "use crate::broker::Broker;"),
        ("delivery/ring.rs", "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    use crate::ingest::Publisher;\n}"),
    ];
    for (path, text) in cases {
        let source = Source { path: path.to_owned(), text: text.to_owned() };
        assert_eq!(breaches(&[source]), Vec::<String>::new(), "{path}");
    }
}
