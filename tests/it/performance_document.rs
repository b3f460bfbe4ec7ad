//! `docs/performance.md` is what `make performance` writes: each block has a writer among its parts, each plot is there and is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands between `begin` and `end`, wherever it does.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> Vec<&'a str> {
    text.split(begin).skip(1).map(|rest| rest.split(end).next().unwrap_or_default()).collect()
}

/// The parts of `make performance`.
fn parts() -> Vec<String> {
    let script = text(&root().join("benches/performance.sh"));
    let every = between(&script, "every=\"", "\"").first().map(|words| words.split(' ').map(str::to_owned).collect());
    every.expect("the script names its parts")
}

/// Which part writes a block.
fn writers() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for part in parts() {
        let files = fs::read_dir(root().join("benches").join(&part)).expect("a folder of each part").flatten();
        for file in files.filter(|file| file.path().extension().is_some_and(|extension| extension == "rs")) {
            for block in between(&text(&file.path()), ".put(\"", "\"") {
                let other = found.insert(block.to_owned(), part.clone());
                assert_eq!(other, None, "{part} and another part write the block {block}");
            }
        }
    }
    found
}

fn plots() -> BTreeSet<String> {
    let files = fs::read_dir(root().join("docs/performance")).expect("a folder of plots").flatten();
    files.map(|file| file.file_name().to_string_lossy().into_owned()).collect()
}

/// One sentence for each thing that is wrong with a page.
fn problems(page: &str, writers: &BTreeMap<String, String>, plots: &BTreeSet<String>) -> Vec<String> {
    const END: &str = ": end -->";
    let mut found = Vec::new();
    let blocks: Vec<&str> =
        between(page, "<!-- ", ": written by a command -->").into_iter().filter(|name| !name.contains(END)).collect();
    for block in &blocks {
        let begin = format!("<!-- {block}: written by a command -->");
        let whole = between(page, &begin, &format!("<!-- {block}{END}"));
        if !page.contains(&format!("<!-- {block}{END}")) || whole.iter().any(|text| !text.contains("|---|")) {
            found.push(format!("the block {block} has no end or no table"));
        }
        if !writers.contains_key(*block) {
            found.push(format!("nobody writes the block {block}"));
        }
    }
    found.extend(writers.keys().filter(|name| !blocks.contains(&name.as_str())).map(|name| format!("no block {name}")));
    let shown: BTreeSet<String> = between(page, "](performance/", ")").into_iter().map(str::to_owned).collect();
    found.extend(shown.symmetric_difference(plots).map(|plot| format!("{plot} is only shown, or only there")));
    let unmeasured = ["From a quick run", "not yet measured", "; 1 rounds of"];
    found.extend(unmeasured.iter().filter(|text| page.contains(**text)).map(|text| format!("a block has: {text}")));
    found
}

#[test]
fn every_block_has_a_writer_and_every_plot_is_there() {
    let page = text(&root().join("docs/performance.md"));
    assert_eq!(problems(&page, &writers(), &plots()), Vec::<String>::new());
}

#[test]
fn what_is_wrong_with_a_page_is_found() {
    let writers = BTreeMap::from([("a".to_owned(), "x".to_owned())]);
    let plots = BTreeSet::from(["a.svg".to_owned()]);
    let good = "<!-- a: written by a command -->\n|---|\n<!-- a: end -->\n![p](performance/a.svg)";
    assert_eq!(problems(good, &writers, &plots), Vec::<String>::new());
    for (wrong, says) in [
        (good.replace("a: end", "b: end"), "the block a has no end or no table"),
        (good.replace("|---|", ""), "the block a has no end or no table"),
        (good.replace("a.svg", "b.svg"), "a.svg is only shown, or only there"),
        (good.replace("<!-- a:", "<!-- b:"), "nobody writes the block b"),
        (good.replace("<!-- a:", "<!-- b:"), "no block a"),
        (format!("{good} From a quick run"), "a block has: From a quick run"),
        (format!("{good} not yet measured"), "a block has: not yet measured"),
    ] {
        assert!(problems(&wrong, &writers, &plots).iter().any(|found| found == says), "{says}: {wrong}");
    }
}

#[test]
fn every_part_has_a_block() {
    let writers = writers();
    for part in parts() {
        assert!(writers.values().any(|of| *of == part), "{part} writes nothing");
    }
}
