//! The rules of the house that a machine can check: layers, file heads, sizes, forbidden calls, reasons for dependencies.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn name(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

/// The source without its in-file test modules: what stands behind the first `#[cfg(test)]` on a `mod tests`.
fn without_tests(source: &str) -> &str {
    match source.find("#[cfg(test)]\nmod tests") {
        Some(at) => &source[..at],
        None => source,
    }
}

fn report(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

/// Reads the layer table: rows `| 3 | queue | mail config spool |` of ARCHITECTURE.md.
fn layers() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let section = text.split("## Layers").nth(1).expect("ARCHITECTURE.md has a section Layers");
    let mut table = BTreeMap::new();
    for line in section.lines().take_while(|line| !line.starts_with("## ")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if let [layer, module, imports] = cells[..]
            && layer.parse::<u32>().is_ok()
        {
            let imports = imports.split_whitespace().filter(|word| *word != "—").map(str::to_owned).collect();
            table.insert(module.trim_matches('`').to_owned(), imports);
        }
    }
    table
}

#[test]
fn modules_import_only_from_the_layers_below_them() {
    let layers = layers();
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for path in rust_files("src") {
        let relative = path.strip_prefix(root().join("src")).unwrap();
        let module = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        if module == "lib" || module == "main" {
            continue;
        }
        seen.insert(module.clone());
        let Some(allowed) = layers.get(&module) else {
            problems.push(format!("{}: module {module} is missing in ARCHITECTURE.md's layer table", name(&path)));
            continue;
        };
        let source = fs::read_to_string(&path).unwrap();
        for imported in imports(without_tests(&source)) {
            if imported != module && !allowed.contains(&imported) {
                problems.push(format!("{}: {module} may not import {imported}", name(&path)));
            }
        }
    }
    for module in layers.keys().filter(|module| !seen.contains(*module)) {
        problems.push(format!("ARCHITECTURE.md: the layer table names {module}, which isn't in src/"));
    }
    report(problems);
}

/// The top modules that a source names as `crate::x` or in `use crate::{x::…, y::…}`.
fn imports(source: &str) -> BTreeSet<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = BTreeSet::new();
    for at in source.match_indices("crate::").map(|(at, _)| at) {
        let behind = &source[at + "crate::".len()..];
        if let Some(group) = behind.strip_prefix('{') {
            let mut depth = 0;
            let mut start = true;
            for (at, c) in group.char_indices() {
                if depth == 0 && start && (c.is_alphanumeric() || c == '_') {
                    found.insert(word(&group[at..]));
                    start = false;
                }
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' => start = depth == 0,
                    _ => {}
                }
            }
        } else {
            found.insert(word(behind));
        }
    }
    found
}

#[test]
fn every_file_opens_with_its_job() {
    let mut problems = Vec::new();
    for path in ["src", "tests", "benches", "fuzz"].iter().filter(|f| root().join(f).exists()).flat_map(|f| rust_files(f)) {
        if path.components().any(|part| part.as_os_str() == "target") {
            continue;
        }
        if !fs::read_to_string(&path).unwrap().starts_with("//! ") {
            problems.push(format!("{}: does not open with `//! ` and its job in a sentence", name(&path)));
        }
    }
    report(problems);
}

#[test]
fn files_and_functions_stay_small() {
    let mut problems = Vec::new();
    for path in rust_files("src") {
        let source = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = without_tests(&source).lines().collect();
        if lines.len() > FILE_LINES_MAX && path.file_name().unwrap() != "tests.rs" {
            problems.push(format!("{}: {} lines, at most {FILE_LINES_MAX}", name(&path), lines.len()));
        }
        for (at, length) in functions(&lines) {
            if length > FUNCTION_LINES_MAX {
                problems.push(format!("{}:{}: a function of {length} lines, at most {FUNCTION_LINES_MAX}", name(&path), at + 1));
            }
        }
    }
    report(problems);
}

/// Start and length of each function: from its `fn` line to the closing brace in the same column (rustfmt sees to that).
fn functions(lines: &[&str]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let head = trimmed.split('(').next().unwrap_or("");
        if !(head.starts_with("fn ") || head.contains(" fn ")) || trimmed.starts_with("//") || line.ends_with(';') {
            continue;
        }
        let indent = line.len() - trimmed.len();
        let close = format!("{}}}", " ".repeat(indent));
        if let Some(end) = lines[at..].iter().position(|l| *l == close) {
            found.push((at, end + 1));
        }
    }
    found
}

#[test]
fn only_the_seams_touch_clock_disk_and_network() {
    let forbidden = [
        "SystemTime::now",
        "Instant::now",
        "std::fs::",
        "tokio::fs",
        "TcpStream::",
        "TcpListener::",
        "UdpSocket",
        "thread::sleep",
        "getrandom::",
    ];
    // Each exception with its reason. Read as: file prefix, what it may name.
    let exceptions = [
        ("src/system/", "", "the seams themselves"),
        ("src/config/", "std::fs::", "configuration is read before there is a System"),
        ("src/cli/", "std::fs::", "the command line is at the rim"),
        ("src/spool/index/sled", "std::fs::", "sled brings its own disk access"),
    ];
    let mut problems = Vec::new();
    let is_test = |path: &Path| path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests");
    for path in rust_files("src").into_iter().filter(|path| !is_test(path)) {
        let source = fs::read_to_string(&path).unwrap();
        for (at, line) in without_tests(&source).lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            for word in forbidden.iter().filter(|word| code.contains(**word)) {
                let excused =
                    exceptions.iter().any(|(prefix, what, _)| name(&path).starts_with(prefix) && word.starts_with(what));
                if !excused {
                    problems.push(format!("{}:{}: {word} outside `system`", name(&path), at + 1));
                }
            }
        }
    }
    report(problems);
}

#[test]
fn nothing_is_left_half_done() {
    for file in ["CHANGELOG.md", "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let marks = text.lines().filter(|line| line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> "));
        assert_eq!(marks.count(), 0, "{file} has a merge that nobody ended");
    }
    let words = ["TODO", "FIXME", "XXX", "todo!(", "unimplemented!(", "dbg!("];
    let mut problems = Vec::new();
    for path in rust_files("src") {
        for (at, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            if words.iter().any(|word| line.contains(word)) {
                problems.push(format!("{}:{}: {}", name(&path), at + 1, line.trim()));
            }
        }
    }
    report(problems);
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let mut problems = Vec::new();
    let mut inside = false;
    let mut before = "";
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]");
        } else if inside && line.contains('=') && !line.starts_with('#') && !before.starts_with("# ") {
            problems.push(format!("Cargo.toml: no reason above `{line}`"));
        }
        before = line;
    }
    report(problems);
}

#[test]
fn the_tests_wait_for_facts_not_for_time() {
    let mut problems = Vec::new();
    for path in rust_files("tests").into_iter().chain(rust_files("src")) {
        if path.ends_with("tidy.rs") {
            continue;
        }
        for (at, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            if line.contains("thread::sleep(") || line.contains("#[ignore") {
                problems.push(format!("{}:{}: {}", name(&path), at + 1, line.trim()));
            }
        }
    }
    report(problems);
}

#[test]
fn what_the_map_of_stories_names_is_there() {
    let map = fs::read_to_string(root().join("tests/stories/README.md")).unwrap();
    let names: Vec<(&str, &str)> = map.split('`').filter_map(|part| part.split_once("::")).collect();
    let mut problems = Vec::new();
    for (file, test) in &names {
        let path = match file.strip_prefix("sim/") {
            Some(file) => format!("tests/sim/{file}.rs"),
            None => format!("tests/stories/{file}.rs"),
        };
        let source = fs::read_to_string(root().join(&path)).unwrap_or_default();
        if !source.contains(&format!("#[test]\nfn {test}() {{")) {
            problems.push(format!("tests/stories/README.md: {path} has no test {test}"));
        }
    }
    assert!(names.len() > 50, "{} names", names.len());
    report(problems);
}
