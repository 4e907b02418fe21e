//! Patterns in the syntax of `.gitignore`, with exactly git's meaning (git's `dir.c` and
//! `wildmatch.c` are the reference, `git check-ignore` is the oracle of the test): `!` takes back,
//! a slash anchors, a trailing one is for folders only, `**` is any depth, the last match wins.
//!
//! Crates for this read braces, classes and some places of `**` in another way than git. A pattern
//! without wildcards is looked up in a table; the others become one automaton that reads a path
//! once, however many they are.

use std::collections::HashMap;

use regex::bytes::{RegexSet, RegexSetBuilder};
use rustix::fs::FileType;

use crate::source::files::FilesError;

/// Memory for the automaton of all patterns together, and again for what it remembers at work.
const AUTOMATON: usize = 64 << 20;

/// Whether `A` and `a` are one; letters beyond ASCII are themselves only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Case {
    Matters,
    Ignored,
}

/// A list of patterns, ready to match.
#[derive(Debug, Clone, Default)]
pub(super) struct Ignore {
    rules: Vec<Rule>,
    /// The rules for a name without wildcards, anywhere.
    names: HashMap<Vec<u8>, Vec<usize>>,
    /// The rules for a path without wildcards.
    paths: HashMap<Vec<u8>, Vec<usize>>,
    /// All others, and which rule each is.
    wild: RegexSet,
    wild_rules: Vec<usize>,
}

#[derive(Debug, Clone, Copy)]
struct Rule {
    /// It takes back what a rule before it left out.
    negated: bool,
    only_directories: bool,
}

/// What a path is compared with.
#[derive(Debug, PartialEq, Eq)]
enum Matcher {
    Name(Vec<u8>),
    Path(Vec<u8>),
    Wild(String),
    /// A class without members.
    Nothing,
}

/// The patterns in a file of them, as git reads it: one a line, without comments, empty lines and
/// trailing spaces that no backslash keeps.
pub fn patterns_in(text: &str) -> impl Iterator<Item = &str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    lines.filter(|line| !line.starts_with('#')).map(trim_spaces).filter(|line| !line.is_empty())
}

fn trim_spaces(line: &str) -> &str {
    let trimmed = line.trim_end_matches(' ');
    let backslashes = trimmed.bytes().rev().take_while(|&byte| byte == b'\\').count();
    let escaped = backslashes % 2 == 1 && trimmed.len() < line.len();
    &line[..trimmed.len() + usize::from(escaped)]
}

impl Ignore {
    /// Compiles patterns; among those that match, the last one decides.
    pub(super) fn new<'p>(
        patterns: impl Iterator<Item = (&'p str, Case)>,
    ) -> Result<Self, FilesError> {
        let mut ignore = Self::default();
        let mut wild = Vec::new();
        for (number, (pattern, case)) in patterns.enumerate() {
            let bad = |reason| FilesError::Pattern { pattern: pattern.to_owned(), reason };
            let (rule, matcher) = compile(pattern, case).map_err(|why| bad(why.to_owned()))?;
            ignore.rules.push(rule);
            match matcher {
                Matcher::Name(name) => ignore.names.entry(name).or_default().push(number),
                Matcher::Path(path) => ignore.paths.entry(path).or_default().push(number),
                Matcher::Wild(regex) => {
                    wild.push(regex);
                    ignore.wild_rules.push(number);
                }
                Matcher::Nothing => {}
            }
        }
        let build = RegexSetBuilder::new(&wild)
            .unicode(false)
            .dot_matches_new_line(true)
            .size_limit(AUTOMATON)
            .dfa_size_limit(AUTOMATON)
            .build();
        ignore.wild = build.map_err(|error| FilesError::Pattern {
            pattern: format!("{} patterns", wild.len()),
            reason: error.to_string(),
        })?;
        Ok(ignore)
    }

    /// Whether nothing is ever left out.
    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether the path, relative and with slashes, is left out. Nobody asks for what is below a
    /// folder that is.
    pub(super) fn leaves_out(&self, path: &[u8], kind: FileType) -> bool {
        let applies = |rule: &usize| kind.is_dir() || !self.rules[*rule].only_directories;
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
        let last = |rules: Option<&Vec<usize>>| {
            rules.and_then(|rules| rules.iter().rev().copied().find(applies))
        };
        let matches = self.wild.matches(path);
        let wild = matches.iter().map(|wild| self.wild_rules[wild]).rfind(applies);
        let literal = last(self.names.get(name)).max(last(self.paths.get(path)));
        literal.max(wild).is_some_and(|rule| !self.rules[rule].negated)
    }
}

fn compile(pattern: &str, case: Case) -> Result<(Rule, Matcher), &'static str> {
    let rest = pattern.as_bytes();
    let (negated, rest) = rest.strip_prefix(b"!").map_or((false, rest), |rest| (true, rest));
    let (only_directories, rest) =
        rest.strip_suffix(b"/").map_or((false, rest), |rest| (true, rest));
    let rule = Rule { negated, only_directories };
    let anchored = rest.contains(&b'/');
    let rest = rest.strip_prefix(b"/").unwrap_or(rest);
    // As in git, a `**` right behind the literal beginning counts as one at the beginning.
    let special = rest.iter().position(|byte| b"*?[\\".contains(byte)).unwrap_or(rest.len());
    let (literal, wild) = rest.split_at(special);
    let matcher = match (wild, case) {
        ([], Case::Matters) if anchored => Matcher::Path(rest.to_vec()),
        ([], Case::Matters) => Matcher::Name(rest.to_vec()),
        _ => {
            let start = if anchored { "^" } else { "^(?:.*/)?" };
            let mut regex = Translator { regex: start.to_owned(), case, anchored };
            for &byte in literal {
                regex.literal(byte);
            }
            match regex.wild(wild)? {
                Some(()) => Matcher::Wild(regex.regex + "$"),
                None => Matcher::Nothing,
            }
        }
    };
    Ok((rule, matcher))
}

/// Writes a regular expression over bytes.
struct Translator {
    regex: String,
    case: Case,
    /// Whether it is matched with whole paths, and not with names.
    anchored: bool,
}

impl Translator {
    /// The part of a pattern that begins with a wildcard; `None` if it can match nothing.
    fn wild(&mut self, pattern: &[u8]) -> Result<Option<()>, &'static str> {
        let mut at = 0;
        while let Some(&byte) = pattern.get(at) {
            match byte {
                b'*' => at = self.stars(pattern, at),
                b'?' => {
                    self.regex.push_str("[^/]");
                    at += 1;
                }
                b'[' => {
                    let (class, end) = Class::parse(pattern, at + 1, self.case)?;
                    if !class.write(&mut self.regex) {
                        return Ok(None);
                    }
                    at = end;
                }
                b'\\' => {
                    self.literal(*pattern.get(at + 1).ok_or("it ends with a backslash")?);
                    at += 2;
                }
                _ => {
                    self.literal(byte);
                    at += 1;
                }
            }
        }
        Ok(Some(()))
    }

    /// One or more stars; gives the place behind what was translated.
    fn stars(&mut self, pattern: &[u8], start: usize) -> usize {
        let end = start + pattern[start..].iter().take_while(|&&byte| byte == b'*').count();
        let rest = &pattern[end..];
        let after_slash = start == 0 || pattern[start - 1] == b'/';
        let before_slash = rest.is_empty() || rest.starts_with(b"/") || rest.starts_with(b"\\/");
        if end - start < 2 || !self.anchored || !after_slash || !before_slash {
            self.regex.push_str("[^/]*");
        } else if rest.starts_with(b"/") {
            self.regex.push_str("(?:.*/)?");
            return end + 1;
        } else {
            self.regex.push_str(".*");
        }
        end
    }

    fn literal(&mut self, byte: u8) {
        let mut class = Class::default();
        class.add(byte, byte, self.case);
        class.write(&mut self.regex);
    }
}

/// A set of bytes.
struct Class([bool; 256]);

impl Default for Class {
    fn default() -> Self {
        Self([false; 256])
    }
}

impl Class {
    /// The class whose `[` is before `at`, and the place behind its `]`. A slash is never in it.
    fn parse(pattern: &[u8], mut at: usize, case: Case) -> Result<(Self, usize), &'static str> {
        const OPEN: &str = "its `[` has no `]`";
        let byte = |at: usize| pattern.get(at).copied().ok_or(OPEN);
        let mut class = Self::default();
        let negated = matches!(byte(at)?, b'!' | b'^');
        at += usize::from(negated);
        // What a `-` after it makes a range of.
        let mut previous = None;
        let first = at;
        while at == first || byte(at)? != b']' {
            let mut member = byte(at)?;
            let is_range = |from: &u8| {
                member == b'-' && *from != 0 && pattern.get(at + 1).is_some_and(|&b| b != b']')
            };
            if let Some(from) = previous.take_if(|from| is_range(from)) {
                at += 1;
                at += usize::from(byte(at)? == b'\\');
                class.add(from, byte(at)?, case);
                at += 1;
                continue;
            }
            if member == b'['
                && let Some((name, end)) = named(pattern, at)?
            {
                class.add_named(name, case)?;
                (previous, at) = (None, end);
                continue;
            }
            if member == b'\\' {
                at += 1;
                member = byte(at)?;
            }
            class.add(member, member, case);
            previous = Some(member);
            at += 1;
        }
        if negated {
            class.0.iter_mut().for_each(|member| *member = !*member);
        }
        class.0[usize::from(b'/')] = false;
        Ok((class, at + 1))
    }

    fn add(&mut self, from: u8, to: u8, case: Case) {
        for byte in from..=to {
            self.0[usize::from(byte)] = true;
            if case == Case::Ignored {
                self.0[usize::from(byte.to_ascii_lowercase())] = true;
                self.0[usize::from(byte.to_ascii_uppercase())] = true;
            }
        }
    }

    fn add_named(&mut self, name: &[u8], case: Case) -> Result<(), &'static str> {
        let is_member: fn(&u8) -> bool = match name {
            b"alnum" => u8::is_ascii_alphanumeric,
            b"alpha" => u8::is_ascii_alphabetic,
            b"blank" => |byte| matches!(byte, b' ' | b'\t'),
            b"cntrl" => u8::is_ascii_control,
            b"digit" => u8::is_ascii_digit,
            b"graph" => u8::is_ascii_graphic,
            b"lower" => u8::is_ascii_lowercase,
            b"print" => |byte| matches!(byte, b' '..=b'~'),
            b"punct" => u8::is_ascii_punctuation,
            // With the vertical tab, which Rust does not count.
            b"space" => |byte| matches!(byte, b' ' | 9..=13),
            b"upper" => u8::is_ascii_uppercase,
            b"xdigit" => u8::is_ascii_hexdigit,
            _ => return Err("it has an unknown class in `[:` and `:]`"),
        };
        for byte in (0..=u8::MAX).filter(is_member) {
            self.add(byte, byte, case);
        }
        Ok(())
    }

    /// Appends the class to a regular expression; `false` if it has no members.
    fn write(&self, regex: &mut String) -> bool {
        use std::fmt::Write as _;
        let mut ranges = String::new();
        let mut at = 0;
        while at < 256 {
            let length = self.0[at..].iter().take_while(|member| **member).count();
            if length > 0 {
                // Writing to a string cannot fail.
                let _ = write!(ranges, r"\x{at:02x}-\x{:02x}", at + length - 1);
            }
            at += length + 1;
        }
        let any = !ranges.is_empty();
        if any {
            regex.push('[');
            regex.push_str(&ranges);
            regex.push(']');
        }
        any
    }
}

/// The name in a `[:name:]` at `at`, and the place behind it; `None` where it is a plain `[`.
fn named(pattern: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, &'static str> {
    let Some(rest) = pattern[at..].strip_prefix(b"[:") else { return Ok(None) };
    let end = rest.iter().position(|&byte| byte == b']').ok_or("its `[` has no `]`")?;
    Ok(rest[..end].strip_suffix(b":").map(|name| (name, at + 2 + end + 1)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::path::Path;
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    fn ignore(patterns: &[&str], case: Case) -> Ignore {
        Ignore::new(patterns.iter().map(|pattern| (*pattern, case))).unwrap()
    }

    /// What git leaves out of the paths in a folder.
    fn git(folder: &Path, patterns: &str, paths: &[String], case: Case) -> Vec<bool> {
        for name in [".git/objects", ".git/refs", ".git/info"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        let write = |name: &str, text: &str| {
            fs::File::create(folder.join(name)).unwrap().write_all(text.as_bytes()).unwrap();
        };
        write(".git/HEAD", "ref: refs/heads/main\n");
        write(".git/info/exclude", patterns);
        let mut git = Command::new("git");
        git.arg("-C").arg(folder).arg("-c");
        git.arg(format!("core.ignorecase={}", case == Case::Ignored));
        git.args(["check-ignore", "-z", "-v", "-n", "--no-index", "--stdin"]);
        // Nobody's configuration but ours.
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        git.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = git.spawn().expect("git is installed");
        let input = paths.join("\0") + "\0";
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let fields: Vec<&str> = output.split('\0').collect();
        let answers: Vec<bool> = fields
            .chunks_exact(4)
            .map(|answer| !answer[2].is_empty() && !answer[2].starts_with('!'))
            .collect();
        assert_eq!(answers.len(), paths.len());
        answers
    }

    /// Makes files and, for paths that end with a slash, folders; gives those that could be made.
    fn make(folder: &Path, paths: Vec<String>) -> Vec<(String, FileType)> {
        let mut made = Vec::new();
        for path in paths {
            let name = path.trim_end_matches('/');
            let full = folder.join(name);
            let parent = full.parent().unwrap();
            if fs::create_dir_all(parent).is_err() || full.exists() {
                continue;
            }
            if path.ends_with('/') {
                fs::create_dir(&full).unwrap();
            } else {
                fs::File::create(&full).unwrap();
            }
            made.push((name.to_owned(), kind(&path)));
        }
        made
    }

    fn kind(path: &str) -> FileType {
        if path.ends_with('/') { FileType::Directory } else { FileType::RegularFile }
    }

    /// What a walk would leave out, which does not enter what it leaves out.
    fn ours(ignore: &Ignore, path: &str, kind: FileType) -> bool {
        let mut above = path.match_indices('/').map(|(end, _)| &path[..end]);
        above.any(|folder| ignore.leaves_out(folder.as_bytes(), FileType::Directory))
            || ignore.leaves_out(path.as_bytes(), kind)
    }

    fn pattern() -> impl Strategy<Value = String> {
        let part = prop::sample::select(vec![
            "a",
            "b",
            "ab",
            ".",
            "*",
            "**",
            "?",
            "/",
            "/",
            "**/",
            "/**",
            "/**/",
            "[ab]",
            "[!a]",
            "[^b/]",
            "[a-c]",
            "[]a]",
            "[a-]",
            "[[:alpha:]]",
            "[[:punct:]b]",
            "\\a",
            "\\*",
            "{a,b}",
            " ",
            "a b",
            "[\\]]",
            "é",
            "[:a]",
            "[[:]",
            "#",
            "+",
        ]);
        let prefix = prop::sample::select(vec!["", "", "", "!", "/", "!/", "\\!", "\\#"]);
        let suffix = prop::sample::select(vec!["", "", "/", "  ", "\\ "]);
        (prefix, prop::collection::vec(part, 1..5), suffix)
            .prop_map(|(prefix, parts, suffix)| format!("{prefix}{}{suffix}", parts.concat()))
    }

    fn path() -> impl Strategy<Value = String> {
        let name = prop::sample::select(vec![
            "a", "b", "ab", "aab", "c", ".a", "*", "a b", "a ", "é", "!a", "#a", "]", "[", "-",
            "{a,b}", "+",
        ]);
        let end = prop::sample::select(vec!["", "/"]);
        (prop::collection::vec(name, 1..4), end)
            .prop_map(|(names, end)| format!("{}{end}", names.join("/")))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn every_pattern_means_what_it_means_to_git(
            patterns in prop::collection::vec(pattern(), 1..5),
            paths in prop::collection::vec(path(), 1..40),
            case in prop::sample::select(vec![Case::Matters, Case::Ignored]),
        ) {
            let text = patterns.join("\n");
            let lines: Vec<&str> = patterns_in(&text).collect();
            // What we refuse matches nothing in git.
            let valid: Vec<&str> =
                lines.into_iter().filter(|line| compile(line, case).is_ok()).collect();
            let mut paths = paths;
            if case == Case::Ignored {
                paths = paths.iter().map(|path| path.to_uppercase()).collect();
            }
            let folder = tempfile::tempdir().unwrap();
            let made = make(folder.path(), paths);
            let names: Vec<String> = made.iter().map(|(path, _)| path.clone()).collect();
            let ignore = ignore(&valid, case);
            let answers = git(folder.path(), &text, &names, case);
            for ((path, kind), git) in made.iter().zip(answers) {
                let ours = ours(&ignore, path, *kind);
                prop_assert_eq!(ours, git, "{} with {:?}", path, patterns);
            }
        }
    }

    #[test]
    fn the_last_match_wins_and_nothing_below_an_excluded_folder_comes_back() {
        let patterns = ["*.log", "!keep.log", "build/", "!build/x", "/only-here", "logs/**/old"];
        let ignore = ignore(&patterns, Case::Matters);
        let out = |path: &str| ours(&ignore, path.trim_end_matches('/'), kind(path));
        assert!(out("x.log") && out("a/b/x.log") && !out("keep.log") && !out("a/keep.log"));
        assert!(out("build/") && !out("build") && out("build/x"));
        assert!(out("only-here") && !out("a/only-here"));
        assert!(out("logs/old") && out("logs/1/2/old") && !out("old"));
    }

    #[test]
    fn two_stars_in_a_pattern_of_names_do_not_reach_into_folders() {
        let ignore = ignore(&["+**", "!**/"], Case::Matters);
        let out = |path: &str| ours(&ignore, path.trim_end_matches('/'), kind(path));
        assert!(out("+a") && !out("+a/") && !out("+a/b"));
    }

    #[test]
    fn what_cannot_be_a_pattern_is_named() {
        for bad in ["[a", "a\\", "[[:nothing:]]", "[a-"] {
            let error = Ignore::new([(bad, Case::Matters)].into_iter()).unwrap_err();
            assert!(error.to_string().contains(&format!("`{bad}`")), "{error}");
        }
    }

    #[test]
    fn a_list_of_thousands_of_patterns_is_matched_at_once() {
        let patterns: Vec<String> = (0..20_000)
            .map(|i| format!("/d{i}/file{i}"))
            .chain((0..500).map(|i| format!("*.{i}")))
            .collect();
        let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
        let ignore = ignore(&patterns, Case::Matters);
        for i in (0..20_000).step_by(7) {
            assert!(ignore.leaves_out(format!("d{i}/file{i}").as_bytes(), FileType::RegularFile));
            assert!(
                !ignore.leaves_out(format!("d{i}/file{}", i + 1).as_bytes(), FileType::RegularFile)
            );
        }
        assert!(
            ignore.leaves_out(b"x.499", FileType::RegularFile)
                && !ignore.leaves_out(b"x.500", FileType::RegularFile)
        );
    }
}
