//! Which files of a directory belong to a source: all but the excluded ones, or those that
//! match a list of patterns.

use std::path::Path;

use globset::{Candidate, GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};

use super::{FilesError, FilesOptions};

/// What becomes of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    /// It is an entry of the source, if it is of the right type.
    pub(super) itself: bool,
    /// What is below it may be, if it is a directory.
    pub(super) below: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Selection {
    /// Everything but what matches.
    Except { excluded: GlobSet, one_file_system: bool },
    /// Only regular files that match one of the patterns.
    Only(Vec<Pattern>),
}

impl Selection {
    /// Everything but what matches one of the globs. A glob without a slash is for names anywhere,
    /// another for paths below the root; a directory that matches is left out with all below it.
    pub(super) fn except(options: &FilesOptions) -> Result<Self, FilesError> {
        let mut set = GlobSetBuilder::new();
        for glob in &options.exclude {
            let path = glob.trim_end_matches('/');
            let anchored = match path.strip_prefix('/') {
                Some(path) => path.to_owned(),
                None if path.contains('/') => path.to_owned(),
                None => format!("**/{path}"),
            };
            set.add(compile(&anchored, glob)?.glob().clone());
        }
        let error = |source| FilesError::Pattern { pattern: options.exclude.join(" "), source };
        let excluded = set.build().map_err(error)?;
        Ok(Self::Except { excluded, one_file_system: options.one_file_system })
    }

    /// Only what matches one of the patterns, each relative to the root.
    pub(super) fn only(patterns: &[String]) -> Result<Self, FilesError> {
        patterns
            .iter()
            .map(|pattern| Pattern::new(pattern))
            .collect::<Result<_, _>>()
            .map(Self::Only)
    }

    /// What becomes of the path, which is relative and has slashes; notes patterns that match.
    pub(super) fn wanted(&self, path: &[u8], matched: &mut [bool]) -> Wanted {
        match self {
            Self::Except { excluded, .. } => {
                let wanted = excluded.is_empty()
                    || !excluded.is_match_candidate(&Candidate::from_bytes(path));
                Wanted { itself: wanted, below: wanted }
            }
            Self::Only(patterns) => {
                let names: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
                let mut wanted = Wanted { itself: false, below: false };
                for (pattern, matched) in patterns.iter().zip(matched) {
                    if covers(&pattern.steps, &names) {
                        (wanted.itself, *matched) = (true, true);
                    }
                    wanted.below |= leads_to(&pattern.steps, &names);
                }
                wanted
            }
        }
    }

    /// Whether what is mounted below the root is left out.
    pub(super) fn one_file_system(&self) -> bool {
        matches!(self, Self::Except { one_file_system: true, .. })
    }

    /// The patterns that files must match; empty where everything is wanted.
    pub(super) fn patterns(&self) -> &[Pattern] {
        match self {
            Self::Except { .. } => &[],
            Self::Only(patterns) => patterns,
        }
    }
}

/// A glob taken apart at its slashes, so that a walk need enter only directories that can hold a
/// match.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    text: String,
    steps: Vec<Step>,
}

#[derive(Debug, Clone)]
enum Step {
    /// Exactly this name.
    Name(Vec<u8>),
    /// One name that matches.
    Glob(GlobMatcher),
    /// Any number of names, none included.
    AnyDepth,
}

impl Pattern {
    fn new(text: &str) -> Result<Self, FilesError> {
        let step = |name: &str| match name {
            "**" => Ok(Step::AnyDepth),
            _ if is_glob(name) => compile(name, text).map(Step::Glob),
            _ => Ok(Step::Name(name.as_bytes().to_vec())),
        };
        let steps = text.split('/').map(step).collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), steps })
    }

    /// The pattern as it was written, relative to the root.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether it names one file, which then must be there.
    pub(super) fn is_literal(&self) -> bool {
        self.steps.iter().all(|step| matches!(step, Step::Name(_)))
    }
}

/// Takes absolute patterns apart: the deepest directory above all that they can match, and each
/// pattern relative to it.
pub(super) fn common_base(patterns: &[String]) -> Result<(String, Vec<String>), FilesError> {
    let mut split = Vec::with_capacity(patterns.len());
    for pattern in patterns {
        let names: Vec<&str> =
            pattern.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
        let relative = !Path::new(pattern).is_absolute();
        if relative || names.is_empty() || names.contains(&"..") {
            return Err(FilesError::PatternPath { pattern: pattern.clone() });
        }
        split.push(names);
    }
    let literal = |names: &[&str]| {
        let directories = names.len() - 1;
        names.iter().take(directories).take_while(|name| !is_glob(name)).count()
    };
    let mut base = split.first().map_or(0, |names| literal(names));
    for names in &split {
        let shared = names.iter().zip(&split[0]).take_while(|(a, b)| a == b).count();
        base = base.min(shared).min(literal(names));
    }
    let prefix = split.first().map_or_else(String::new, |names| names[..base].join("/"));
    let relative = split.iter().map(|names| names[base..].join("/")).collect();
    Ok((format!("/{prefix}"), relative))
}

fn is_glob(name: &str) -> bool {
    name.contains(['*', '?', '[', '{', '\\'])
}

fn compile(glob: &str, written: &str) -> Result<GlobMatcher, FilesError> {
    GlobBuilder::new(glob)
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .map(|glob| glob.compile_matcher())
        .map_err(|source| FilesError::Pattern { pattern: written.to_owned(), source })
}

impl Step {
    fn matches(&self, name: &[u8]) -> bool {
        match self {
            Self::Name(wanted) => wanted == name,
            Self::Glob(glob) => glob.is_match_candidate(&Candidate::from_bytes(name)),
            Self::AnyDepth => false,
        }
    }
}

/// Whether the steps match the whole path.
fn covers(steps: &[Step], names: &[&[u8]]) -> bool {
    match (steps, names) {
        ([], []) => true,
        ([Step::AnyDepth, rest @ ..], _) => {
            covers(rest, names)
                || names.split_first().is_some_and(|(_, below)| covers(steps, below))
        }
        ([step, steps @ ..], [name, names @ ..]) => step.matches(name) && covers(steps, names),
        _ => false,
    }
}

/// Whether something below the path can match the steps.
fn leads_to(steps: &[Step], names: &[&[u8]]) -> bool {
    match (steps, names) {
        ([], _) => false,
        ([Step::AnyDepth, ..], _) | (_, []) => true,
        ([step, steps @ ..], [name, names @ ..]) => step.matches(name) && leads_to(steps, names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn except(globs: &[&str]) -> Result<Selection, FilesError> {
        Selection::except(&FilesOptions { exclude: strings(globs), ..FilesOptions::default() })
    }

    #[test]
    fn the_base_is_the_deepest_directory_above_all_patterns() {
        let base = |patterns: &[&str]| {
            let (base, relative) = common_base(&strings(patterns)).unwrap();
            (base, relative.join(" "))
        };
        assert_eq!(
            base(&["/app/.env", "/app/edms/settings/*.py"]),
            ("/app".into(), ".env edms/settings/*.py".into())
        );
        assert_eq!(base(&["/etc/a", "/srv/b"]), ("/".into(), "etc/a srv/b".into()));
        assert_eq!(base(&["/app//x/./y"]), ("/app/x".into(), "y".into()));
        assert_eq!(base(&["/app/*/y"]), ("/app".into(), "*/y".into()));
        assert_eq!(base(&["/a/b", "/a/b/c"]), ("/a".into(), "b b/c".into()));
        assert!(common_base(&strings(&["relative"])).is_err());
        assert!(common_base(&strings(&["/a/../b"])).is_err());
    }

    #[test]
    fn only_directories_that_can_hold_a_match_are_entered() {
        let only = Selection::only(&strings(&[".env", "a/*.py", "deep/**/x", "all/**"])).unwrap();
        let wanted = |path: &str| {
            let wanted = only.wanted(path.as_bytes(), &mut [false; 4]);
            (wanted.itself, wanted.below)
        };
        assert_eq!(wanted(".env"), (true, false));
        assert_eq!(wanted("a"), (false, true));
        assert_eq!(wanted("a/s.py"), (true, false));
        assert_eq!(wanted("a/b/s.py"), (false, false));
        assert_eq!(wanted("b"), (false, false));
        assert_eq!(wanted("deep/x"), (true, true));
        assert_eq!(wanted("deep/1/2/x"), (true, true));
        assert_eq!(wanted("all/1/2"), (true, true));
    }

    #[test]
    fn excludes_without_a_slash_are_for_names_anywhere() {
        let selection = except(&["*.pyc", "/cache", "a/b/*.tmp", "dir/"]).unwrap();
        let wanted = |path: &str| selection.wanted(path.as_bytes(), &mut []).itself;
        assert!(!wanted("x.pyc") && !wanted("a/b/x.pyc"));
        assert!(!wanted("cache") && wanted("a/cache"));
        assert!(!wanted("a/b/x.tmp") && wanted("a/b/c/x.tmp") && wanted("x.tmp"));
        assert!(!wanted("dir") && !wanted("x/dir"));
    }

    #[test]
    fn a_bad_glob_is_named() {
        let error = except(&["[a"]).unwrap_err();
        assert!(error.to_string().contains("[a"), "{error}");
    }
}
