//! The rules of the house that neither the compiler nor clippy holds. `ARCHITECTURE.md` says why
//! they are as they are; here is what they are.
#![allow(missing_docs, clippy::panic, reason = "a test")]

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

const LEAVES: &[&str] = &["id", "time", "report", "context", "hint"];

/// What each room may use besides the leaves; a name with `::` is one item of a room.
/// `main.rs` and `lib.rs` only wire rooms together.
const MAY_USE: &[(&str, &[&str])] = &[
    ("id", &[]),
    ("time", &[]),
    ("report", &[]),
    ("context", &[]),
    ("hint", &[]),
    ("chunker", &[]),
    ("crypto", &[]),
    ("backend", &[]),
    ("repo", &["crypto", "backend"]),
    ("tree", &["chunker", "repo"]),
    (
        "source",
        &[
            "tree::Basis",
            "tree::Change",
            "tree::Changes",
            "tree::Content",
            "tree::EachRun",
            "tree::Key",
            "tree::Place",
            "tree::ReadAt",
            "tree::Reading",
            "tree::Settled",
            "tree::Outcome",
            "tree::Sought",
            "tree::Stream",
            "tree::Value",
            "tree::MAX_KEY",
        ],
    ),
    ("snapshot", &["chunker", "crypto", "backend", "repo", "tree", "source"]),
    ("export", &["chunker", "crypto", "backend", "repo", "tree", "source", "snapshot"]),
    ("mount", &["repo", "tree", "source", "snapshot"]),
    (
        "cli",
        &["chunker", "crypto", "backend", "repo", "tree", "source", "snapshot", "export", "mount"],
    ),
];

/// What only certain files may name, and why.
const ONLY_IN: &[(&str, &[&str], &str)] = &[
    ("clap::", &["cli/"], "the command line is one way to use the library"),
    ("indicatif::", &["cli/"], "progress leaves the library as events"),
    ("sqlx::", &["source/"], "databases are sources"),
    ("tokio::", &["source/", "backend/remote/"], "the core is synchronous"),
    ("std::env", &["cli/"], "a library that reads the environment cannot be reasoned about"),
    ("SystemTime", &["time.rs"], "time comes from the context's clock"),
    ("Instant::now", &["time.rs"], "time comes from the context's clock"),
    ("Timestamp::now", &["time.rs"], "time comes from the context's clock"),
    ("rocksdb::", &["repo/"], "the index is the repository's own business"),
    ("bincode::", &["repo/format/codec.rs"], "one configuration, one limit"),
    ("aws_lc_rs::", &["crypto/"], "whoever seals passes no nonce"),
    ("fastcdc::", &["chunker/"], "cut points are part of the format"),
    ("fuser::", &["mount/"], "a file system is one way to look at snapshots"),
    ("tar::", &["export/"], "never unpack what others wrote"),
    ("pgp::", &["export/package/seal.rs"], "whoever writes a package does not choose its ciphers"),
    ("age::", &["export/package/seal.rs"], "whoever writes a package does not choose its ciphers"),
];

const LINES_PER_FILE: usize = 600;
const RE_EXPORTS: usize = 30;
const LINES_OF_MAIN: usize = 30;

#[test]
fn rooms_use_only_the_rooms_below_them() {
    let mut complaints = Vec::new();
    for file in sources() {
        let Some(room) = file.module.first().filter(|_| !file.is_test) else { continue };
        let Some((_, may_use)) = MAY_USE.iter().find(|(name, _)| name == room) else {
            complaints.push(format!("{}: the room `{room}` has no rule", file.path));
            continue;
        };
        let allowed = |path: &[String]| {
            let target = &path[0];
            let item = path.iter().take(2).cloned().collect::<Vec<_>>().join("::");
            target == room
                || LEAVES.contains(&target.as_str())
                || may_use.iter().any(|name| name == target || *name == item)
        };
        for path in file.paths().iter().filter(|path| !path.is_empty() && !allowed(path)) {
            complaints.push(format!("{} uses {}", file.path, path.join("::")));
        }
    }
    none(&complaints);
}

#[test]
fn what_belongs_to_one_room_is_named_nowhere_else() {
    let mut complaints = Vec::new();
    for file in sources().iter().filter(|file| !file.is_test) {
        for (name, places, reason) in ONLY_IN {
            let allowed = places.iter().any(|place| file.path[4..].starts_with(place));
            if !allowed && mentions(&file.code, name) {
                complaints.push(format!("{} names {name} ({reason})", file.path));
            }
        }
    }
    none(&complaints);
}

#[test]
fn files_are_short() {
    let complaints: Vec<String> = sources()
        .iter()
        .filter(|file| !file.is_test)
        .map(|file| (file, file.code.lines().filter(|line| !line.trim().is_empty()).count()))
        .filter(|(_, lines)| *lines > LINES_PER_FILE)
        .map(|(file, lines)| format!("{} has {lines} lines of code", file.path))
        .collect();
    none(&complaints);
}

/// Clippy holds the limit (`clippy.toml`) and finds an unjustified exception; here nobody may ask
/// for one.
#[test]
fn functions_are_short_without_exception() {
    let complaints: Vec<String> = sources()
        .iter()
        .filter(|file| !file.is_test && file.code.contains("clippy::too_many_lines"))
        .map(|file| format!("{} excuses a long function", file.path))
        .collect();
    none(&complaints);
}

#[test]
fn every_file_is_part_of_the_program() {
    let files = sources();
    let modules: HashSet<Vec<String>> = files.iter().flat_map(Source::children).collect();
    let complaints: Vec<String> = files
        .iter()
        .filter(|file| !file.module.is_empty() && !modules.contains(&file.module))
        .map(|file| format!("no module names {}", file.path))
        .collect();
    none(&complaints);
}

#[test]
fn nothing_is_left_open() {
    let open = ["todo!(", "unimplemented!(", concat!("FIX", "ME"), concat!("XX", "X"), "#[ignore"];
    let mut complaints = Vec::new();
    for path in ["src", "tests", "benches"].iter().flat_map(|folder| files_below(folder, "rs")) {
        if path.ends_with("tests/tidy.rs") {
            continue;
        }
        let text = read(&path);
        for mark in open.iter().filter(|mark| text.contains(**mark)) {
            complaints.push(format!("{} has {mark}", shown(&path)));
        }
    }
    none(&complaints);
}

#[test]
fn the_front_door_is_small() {
    let lines = read(&root().join("src/main.rs")).lines().count();
    assert!(lines <= LINES_OF_MAIN, "main.rs has {lines} lines");
    let lib = Source::read(&root().join("src/lib.rs"));
    let exports = lib.code.matches("pub use ").count();
    assert!(exports <= RE_EXPORTS, "lib.rs has {exports} re-exports");
}

#[test]
fn every_dependency_is_used() {
    let manifest: toml::Table = read(&root().join("Cargo.toml")).parse().expect("a manifest");
    let dependencies = manifest["dependencies"].as_table().expect("dependencies");
    let files = sources();
    let complaints: Vec<String> = dependencies
        .keys()
        .filter(|name| {
            let name = name.replace('-', "_");
            !files.iter().any(|file| !file.is_test && mentions(&file.code, &format!("{name}::")))
        })
        .map(|name| format!("Cargo.toml asks for {name}, which nothing uses"))
        .collect();
    none(&complaints);
}

#[test]
fn documents_link_to_what_exists() {
    let mut complaints = Vec::new();
    for path in documents() {
        let text = read(&path);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let folder = path.parent().expect("a file is in a folder");
            if !folder.join(target).exists() {
                complaints.push(format!("{} links to {target}", shown(&path)));
            }
        }
    }
    none(&complaints);
}

/// The rules would hold nothing if the reading below were wrong.
#[test]
fn the_failures_are_proven_by_tests_that_exist() {
    let table = read(&root().join("docs/FAILURES.md"));
    let mut complaints = Vec::new();
    let mut numbers = 0;
    for row in table.lines().filter(|line| line.starts_with("| ") && line.ends_with(" |")) {
        numbers += 1;
        let Some((_, path)) = row.split_once("](../") else { continue };
        let path = path.split(')').next().unwrap_or_default();
        let name = row.split('`').nth(1).unwrap_or_default();
        if !read(&root().join(path)).contains(&format!("fn {name}(")) {
            complaints.push(format!("docs/FAILURES.md: {path} has no test {name}"));
        }
    }
    assert_eq!(numbers, 45, "44 failures below one line of headings");
    none(&complaints);
}

#[test]
fn paths_are_found_wherever_they_stand() {
    let text = r##"
        //! crate::comment
        use crate::id::{self, hex, KeyId as Id};
        use crate::{time, tree::{Change, Key,},};
        /* crate::block /* crate::nested */ */
        const TEXT: &str = "crate::string"; const RAW: &str = r#"crate::"raw"#;
        fn f<'a>(x: &'a u8) -> char { super::sibling::<u8>(x); '"' }
        mod inner { use super::super::two_up; }
        #[cfg(test)]
        mod tests { use crate::only::tests; }
        fn last() -> crate::hint::Failure {}
    "##;
    let file = Source::parse("src/room/file.rs", text);
    let found: BTreeSet<String> = file.paths().iter().map(|path| path.join("::")).collect();
    let expected = [
        "hint::Failure",
        "id",
        "id::KeyId",
        "id::hex",
        "room::sibling",
        "room::two_up",
        "time",
        "tree::Change",
        "tree::Key",
    ];
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

/// A file of the program.
struct Source {
    /// From the top of the project.
    path: String,
    /// The text without comments, contents of strings, and tests; lines stay where they are.
    code: String,
    /// Which module it is.
    module: Vec<String>,
    /// Whether only tests see it.
    is_test: bool,
    /// Modules in other files that only tests see.
    test_children: Vec<Vec<String>>,
}

impl Source {
    fn read(path: &Path) -> Self {
        Self::parse(&shown(path), &read(path))
    }

    fn parse(path: &str, text: &str) -> Self {
        let inside = path.trim_start_matches("src/").trim_end_matches(".rs");
        let mut module: Vec<String> = inside.split('/').map(str::to_owned).collect();
        if module.last().is_some_and(|name| ["mod", "lib", "main"].contains(&name.as_str())) {
            module.pop();
        }
        let (code, tests) = without_tests(&without_comments(text));
        let test_children = tests.into_iter().map(|name| child(&module, name)).collect();
        Self { path: path.to_owned(), code, module, is_test: false, test_children }
    }

    /// The modules that it says are in files of their own.
    fn children(&self) -> Vec<Vec<String>> {
        let declared = words(&self.code, "mod").filter_map(|(_, rest)| {
            let (name, rest) = identifier(rest);
            rest.starts_with(';').then(|| child(&self.module, name.to_owned()))
        });
        declared.chain(self.test_children.iter().cloned()).collect()
    }

    /// Everything of the crate that it names: paths that begin with `crate` or `super`, from the
    /// root of the crate.
    fn paths(&self) -> Vec<Vec<String>> {
        let mut found = Vec::new();
        for (at, rest) in words(&self.code, "crate") {
            if !self.code[..at].ends_with('$') {
                path_tree(rest, &[], &mut found);
            }
        }
        for (at, mut rest) in words(&self.code, "super") {
            if self.code[..at].trim_end().ends_with("::") {
                continue;
            }
            let mut base = self.module_at(at);
            base.pop();
            while let Some(further) = rest.trim_start().strip_prefix("::")
                && let Some(after) = further.trim_start().strip_prefix("super")
            {
                base.pop();
                rest = after;
            }
            path_tree(rest, &base, &mut found);
        }
        found
    }

    /// The module that a place in the file belongs to, with modules that stand within it.
    fn module_at(&self, at: usize) -> Vec<String> {
        let mut module = self.module.clone();
        for (start, rest) in words(&self.code, "mod").take_while(|(start, _)| *start < at) {
            let (name, body) = identifier(rest);
            if body.starts_with('{') {
                let begin = self.code.len() - body.len();
                if at < begin + block_length(body) && start < at {
                    module.push(name.to_owned());
                }
            }
        }
        module
    }
}

fn child(module: &[String], name: String) -> Vec<String> {
    module.iter().cloned().chain([name]).collect()
}

/// Adds the paths that `rest` goes on with after its first word, groups resolved.
fn path_tree<'a>(rest: &'a str, base: &[String], found: &mut Vec<Vec<String>>) -> &'a str {
    let Some(next) = rest.trim_start().strip_prefix("::").map(str::trim_start) else {
        found.push(base.to_vec());
        return rest;
    };
    if let Some(mut group) = next.strip_prefix('{') {
        loop {
            let (name, after) = identifier(group);
            group = match name {
                // The end of a list, after its last comma.
                "" if !after.starts_with('*') => after,
                "" | "self" => {
                    found.push(base.to_vec());
                    after
                }
                _ => path_tree(after, &child(base, name.to_owned()), found),
            };
            // What follows a name in a group (`as x`, `*`) says nothing about where it leads.
            let end = group.find([',', '}']).unwrap_or(group.len());
            let closed = !group[end..].starts_with(',');
            group = group.get(end + 1..).unwrap_or_default();
            if closed {
                return group;
            }
        }
    }
    match identifier(next) {
        ("", _) => {
            found.push(base.to_vec());
            next
        }
        (name, after) => path_tree(after, &child(base, name.to_owned()), found),
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where a word stands as a whole, with what follows it.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    code.match_indices(word).filter_map(move |(at, _)| {
        let rest = &code[at + word.len()..];
        let whole = !code[..at].ends_with(is_word) && !rest.starts_with(is_word);
        whole.then_some((at, rest))
    })
}

/// Whether a name stands there and is not the end of a longer one.
fn mentions(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| !code[..at].ends_with(is_word))
}

/// The word at the start and what follows it, white space around it dropped.
fn identifier(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let end = text.find(|c| !is_word(c)).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// The length of what begins with `{`, up to the brace that closes it.
fn block_length(text: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

/// Spaces instead of comments and of what stands in strings and characters.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let after_word = out.ends_with(is_word);
        let skipped = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => comment_length(rest),
            '"' => string_length(rest),
            'r' if !after_word => raw_string_length(rest),
            '\'' => character_length(rest),
            _ => 0,
        };
        let (gone, kept) = rest.split_at(skipped);
        out.extend(gone.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = kept;
        if skipped == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

fn comment_length(text: &str) -> usize {
    let mut depth = 0_usize;
    for (at, _) in text.char_indices() {
        if text[at..].starts_with("/*") {
            depth += 1;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            if depth == 0 {
                return at + 2;
            }
        }
    }
    text.len()
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn raw_string_length(text: &str) -> usize {
    let hashes = text[1..].len() - text[1..].trim_start_matches('#').len();
    if !text[1 + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let body = 2 + hashes;
    text[body..].find(&end).map_or(text.len(), |at| body + at + end.len())
}

/// Zero for a lifetime.
fn character_length(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), _) => text[2..].find('\'').map_or(0, |at| {
            // '\'' has one more.
            if at == 0 { 4 } else { at + 3 }
        }),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 0,
    }
}

/// Spaces instead of what only tests see; and the modules in other files that only tests see.
fn without_tests(code: &str) -> (String, Vec<String>) {
    const MARK: &str = "#[cfg(test)]";
    let (mut out, mut modules) = (String::with_capacity(code.len()), Vec::new());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        let (before, item) = rest.split_at(at);
        let end = item.find(['{', ';']).map_or(item.len(), |end| match &item[end..=end] {
            "{" => end + block_length(&item[end..]),
            _ => end + 1,
        });
        let (gone, after) = item.split_at(end);
        if let Some((_, name)) = words(gone, "mod").next()
            && gone.ends_with(';')
        {
            modules.push(identifier(name).0.to_owned());
        }
        out.push_str(before);
        out.extend(gone.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = after;
    }
    out.push_str(rest);
    (out, modules)
}

fn sources() -> Vec<Source> {
    let mut files: Vec<Source> =
        files_below("src", "rs").iter().map(|path| Source::read(path)).collect();
    let index: HashMap<Vec<String>, usize> =
        files.iter().enumerate().map(|(at, file)| (file.module.clone(), at)).collect();
    let mut tests: Vec<Vec<String>> =
        files.iter().flat_map(|file| file.test_children.clone()).collect();
    while let Some(module) = tests.pop() {
        if let Some(at) = index.get(&module) {
            files[*at].is_test = true;
            tests.extend(files[*at].children());
        }
    }
    assert!(files.len() > 50, "the sources are not where they are looked for");
    files
}

fn documents() -> Vec<PathBuf> {
    let top = fs::read_dir(root()).expect("the project").map(|entry| entry.expect("an entry"));
    let top =
        top.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "md"));
    let below = ["docs", "benches", "examples"].iter().flat_map(|folder| files_below(folder, "md"));
    top.chain(below).collect()
}

fn files_below(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.expect("an entry").path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn none(complaints: &[String]) {
    let sorted: BTreeSet<&String> = complaints.iter().collect();
    let list: Vec<&str> = sorted.iter().map(|complaint| complaint.as_str()).collect();
    assert!(list.is_empty(), "\n{}\n", list.join("\n"));
}
