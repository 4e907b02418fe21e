//! Which files of a directory belong to a source: all of them, those that match a list of
//! patterns, or those that were named one by one; less what is excluded.
//!
//! A [`Selection`] is what was asked for; a [`Choice`] is the same during one walk, with what
//! came of it so far. The walk only asks.

mod filter;
mod found;
mod ignore;
mod list;
mod tag;

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;

use globset::{Candidate, GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};
use rustix::fs::Stat;

use self::found::Keeping;
use self::ignore::{Case, Ignore};
use self::list::Cursor;
use self::tag::Tag;
use super::entry::{file_type, size};
use super::path::{display_key, path_bytes};
use super::{FilesError, FilesOptions};
use crate::context::Context;
use crate::hint::Failure;
use crate::report::{Event, Exclusion, Fate, LeftOut};
use crate::tree::Changes;

pub use self::filter::PathFilter;
pub(super) use self::found::LeftOutKeys;
pub use self::ignore::patterns_in;
pub(super) use self::list::List;
pub use self::list::{PathList, ResolvedList};

/// What becomes of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    /// It is an entry of the source, if it is of the right type.
    pub(super) itself: bool,
    /// What is below it may be, if it is a directory.
    pub(super) below: bool,
}

#[derive(Debug)]
pub(super) struct Selection {
    scope: Scope,
    except: Except,
    left_out: LeftOutKeys,
}

#[derive(Debug)]
enum Scope {
    Everything,
    /// Only regular files that match one of the patterns.
    Matching(Vec<Pattern>),
    /// Only these, with all that is below them.
    Listed(List),
}

/// What is left out of it.
#[derive(Debug, Default)]
struct Except {
    ignore: Ignore,
    /// The globs of snapshots that the first version took.
    globs: GlobSet,
    tags: Vec<Tag>,
    larger_than: Option<u64>,
    one_file_system: bool,
}

impl Selection {
    /// Everything but what the options leave out.
    pub(super) fn except(options: &FilesOptions) -> Result<Self, FilesError> {
        Ok(Self::new(Scope::Everything, Except::new(options)?))
    }

    /// What is listed, but for what the options leave out.
    pub(super) fn listed(list: List, options: &FilesOptions) -> Result<Self, FilesError> {
        Ok(Self::new(Scope::Listed(list), Except::new(options)?))
    }

    /// Only what matches one of the patterns, each relative to the root.
    pub(super) fn only(patterns: &[String]) -> Result<Self, FilesError> {
        let patterns = patterns.iter().map(|pattern| Pattern::new(pattern));
        let patterns = patterns.collect::<Result<_, _>>()?;
        Ok(Self::new(Scope::Matching(patterns), Except::default()))
    }

    fn new(scope: Scope, except: Except) -> Self {
        Self { scope, except, left_out: LeftOutKeys::new() }
    }

    /// The list, where there is one.
    pub(super) fn list(&mut self) -> Option<&mut List> {
        match &mut self.scope {
            Scope::Listed(list) => Some(list),
            Scope::Everything | Scope::Matching(_) => None,
        }
    }

    /// Leaves out nothing any more for what is found; only what is given.
    pub(super) fn ignore_what_is_found(&mut self) {
        self.except.tags.clear();
        self.except.larger_than = None;
    }

    /// Leaves out what a snapshot left out for what was found then.
    pub(super) fn give_left_out(&mut self, entries: Changes<'_>) -> Result<(), Failure> {
        self.left_out.give(entries)
    }

    /// What the last walk left out for what it found; `None` if there can be no such thing.
    pub(super) fn left_out(&mut self) -> Option<&mut LeftOutKeys> {
        let Except { tags, larger_than, .. } = &self.except;
        let finds = !tags.is_empty() || larger_than.is_some() || self.left_out.are_given();
        finds.then_some(&mut self.left_out)
    }

    /// Begins a walk through a root with this metadata.
    pub(super) fn begin<'a>(
        &'a mut self,
        root: &Stat,
        ctx: &'a Context,
    ) -> Result<Choice<'a>, FilesError> {
        let Self { scope, except, left_out } = self;
        let scope = match scope {
            Scope::Everything => Going::Everywhere,
            Scope::Matching(patterns) => {
                Going::Matching { matched: vec![false; patterns.len()], patterns }
            }
            Scope::Listed(list) => {
                Going::Listed { has_root: list.has_root, cursor: list.cursor()? }
            }
        };
        Ok(Choice {
            scope,
            except,
            device: root.st_dev,
            keeping: left_out.begin()?,
            left_out: Vec::new(),
            report: true,
            ctx,
        })
    }
}

impl Except {
    fn new(options: &FilesOptions) -> Result<Self, FilesError> {
        let case = |patterns, case| {
            let patterns: &Vec<String> = patterns;
            patterns.iter().map(move |pattern| (pattern.as_str(), case))
        };
        let patterns =
            case(&options.exclude, Case::Matters).chain(case(&options.iexclude, Case::Ignored));
        let mut tags = Vec::new();
        if options.exclude_caches {
            tags.push(Tag::cache()?);
        }
        for tag in &options.exclude_if_present {
            tags.push(Tag::parse(tag)?);
        }
        Ok(Self {
            ignore: Ignore::new(patterns)?,
            globs: first_globs(&options.globs)?,
            tags,
            larger_than: options.exclude_larger_than,
            one_file_system: options.one_file_system,
        })
    }

    fn leaves_out(&self, key: &[u8], stat: &Stat) -> Option<Exclusion> {
        if !(self.ignore.is_empty() && self.globs.is_empty()) {
            let path = path_bytes(key);
            if self.ignore.leaves_out(&path, file_type(stat))
                || self.globs.is_match_candidate(&Candidate::from_bytes(&path))
            {
                return Some(Exclusion::Pattern);
            }
        }
        let too_large = |limit| file_type(stat).is_file() && size(stat) > limit;
        self.larger_than.is_some_and(too_large).then_some(Exclusion::TooLarge)
    }
}

/// The globs of the first version. One without a slash is for names anywhere, another for paths
/// below the root; `{a,b}` is `a` or `b`, and there is no `!`.
fn first_globs(globs: &[String]) -> Result<GlobSet, FilesError> {
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        let path = glob.trim_end_matches('/');
        let anchored = match path.strip_prefix('/') {
            Some(path) => path.to_owned(),
            None if path.contains('/') => path.to_owned(),
            None => format!("**/{path}"),
        };
        set.add(compile(&anchored, glob)?.glob().clone());
    }
    set.build().map_err(|error| FilesError::Pattern {
        pattern: globs.join(" "),
        reason: error.to_string(),
    })
}

/// A selection during one walk.
#[derive(Debug)]
pub(super) struct Choice<'a> {
    scope: Going<'a>,
    except: &'a Except,
    /// The file system of the root.
    device: u64,
    keeping: Keeping<'a>,
    left_out: Vec<LeftOut>,
    /// Whether what was asked for and is not there is reported.
    report: bool,
    ctx: &'a Context,
}

#[derive(Debug)]
enum Going<'a> {
    Everywhere,
    /// Which patterns have matched something.
    Matching {
        patterns: &'a [Pattern],
        matched: Vec<bool>,
    },
    Listed {
        cursor: Cursor<'a>,
        has_root: bool,
    },
}

impl Choice<'_> {
    /// Whether the root is itself an entry.
    pub(super) fn has_root(&self) -> bool {
        match &self.scope {
            Going::Everywhere => true,
            Going::Matching { .. } => false,
            Going::Listed { has_root, .. } => *has_root,
        }
    }

    /// Whether only regular files are entries.
    pub(super) fn is_by_pattern(&self) -> bool {
        matches!(self.scope, Going::Matching { .. })
    }

    /// What may become of a key, before anything is known of what it names. Keys have to be asked
    /// for in their order.
    pub(super) fn wanted(&mut self, key: &[u8]) -> Wanted {
        match &mut self.scope {
            Going::Everywhere => Wanted { itself: true, below: true },
            Going::Listed { cursor, .. } => {
                let wanted = cursor.wanted(key);
                self.report_missing();
                wanted
            }
            Going::Matching { patterns, matched } => {
                let names: Vec<&[u8]> = key.split(|&byte| byte == 0).collect();
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

    /// Whether what was found at a key that may be wanted is left out; then it is counted.
    pub(super) fn leaves_out(&mut self, key: &[u8], stat: &Stat) -> bool {
        let was_too_large = self.keeping.given(key).is_some_and(|tag| tag.is_empty());
        let reason = self.except.leaves_out(key, stat);
        let reason = reason.or_else(|| was_too_large.then_some(Exclusion::TooLarge));
        let Some(reason) = reason else { return false };
        if reason == Exclusion::TooLarge {
            self.keeping.keep(key, b"");
        }
        let is_directory = file_type(stat).is_dir();
        if let (true, Going::Listed { cursor, .. }) = (is_directory, &mut self.scope) {
            cursor.leave_out(key);
        }
        let (folders, bytes) = if is_directory { (1, 0) } else { (0, size(stat)) };
        self.count(key, LeftOut { reason, entries: 1, folders, bytes });
        true
    }

    /// Whether the walk stays out of a directory since another file system is mounted there. The
    /// directory itself is an entry.
    pub(super) fn is_beyond(&mut self, key: &[u8], stat: &Stat) -> bool {
        let beyond = self.except.one_file_system && stat.st_dev != self.device;
        if beyond {
            self.count(key, inside(Exclusion::OtherFileSystem));
        }
        beyond
    }

    /// The one name in a directory that is wanted, where that is the tag which says so.
    pub(super) fn tag(&mut self, key: &[u8], directory: &OwnedFd) -> Option<CString> {
        if let Some(tag) = self.keeping.given(key).filter(|tag| !tag.is_empty()) {
            self.keeping.keep(key, &tag);
            self.count(key, inside(Exclusion::Tagged));
            return CString::new(tag).ok();
        }
        for tag in &self.except.tags {
            match tag.is_in(directory) {
                Ok(false) => {}
                Ok(true) => {
                    self.keeping.keep(key, tag.name().as_bytes());
                    self.count(key, inside(tag.means));
                    return Some(tag.name().clone());
                }
                Err(error) => self.ctx.report(Event::Note(format!(
                    "{}: captured, since its {} cannot be read: {error}",
                    display_key(key),
                    tag.name().to_string_lossy(),
                ))),
            }
        }
        None
    }

    fn count(&mut self, key: &[u8], more: LeftOut) {
        match self.left_out.iter_mut().find(|known| known.reason == more.reason) {
            None => self.left_out.push(more),
            Some(known) => known.add(more),
        }
        if self.ctx.reporter.wants_entries() {
            let (item, fate) = (display_key(key), Fate::LeftOut(more.reason));
            self.ctx.report(Event::Entry { item, fate, bytes: more.bytes });
        }
    }

    /// Nothing will be reported that was asked for and is not there.
    pub(super) fn expect_nothing(&mut self) {
        self.report = false;
    }

    /// Ends the walk: reports what was asked for and is not there, and what was left out.
    pub(super) fn finish(&mut self) -> Result<(), FilesError> {
        self.keeping.finish()?;
        while let Going::Listed { cursor, .. } = &mut self.scope
            && cursor.finish()?
        {
            self.report_missing();
        }
        if let (true, Going::Matching { patterns, matched }) = (self.report, &self.scope) {
            for (pattern, _) in patterns.iter().zip(matched).filter(|(_, matched)| !**matched) {
                let item = pattern.text.clone();
                self.ctx.report(if pattern.is_literal() {
                    Event::Skipped { item, reason: "there is no such file".to_owned() }
                } else {
                    Event::Note(format!("no file matches `{item}`"))
                });
            }
        }
        for left_out in self.left_out.drain(..) {
            self.ctx.report(Event::LeftOut(left_out));
        }
        Ok(())
    }

    fn report_missing(&mut self) {
        let Going::Listed { cursor, .. } = &mut self.scope else { return };
        for key in cursor.missing.drain(..).filter(|_| self.report) {
            let reason = "there is no such file".to_owned();
            self.ctx.report(Event::Skipped { item: display_key(&key), reason });
        }
    }
}

/// What is in a folder that is itself an entry, but is not entered.
const fn inside(reason: Exclusion) -> LeftOut {
    LeftOut { reason, entries: 0, folders: 1, bytes: 0 }
}

/// A glob taken apart at its slashes, so that a walk need enter only directories that can hold a
/// match.
#[derive(Debug, Clone)]
struct Pattern {
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

    /// Whether it names one file, which then must be there.
    fn is_literal(&self) -> bool {
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
        .map_err(|error| FilesError::Pattern {
            pattern: written.to_owned(),
            reason: error.kind().to_string(),
        })
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
        let mut only =
            Selection::only(&strings(&[".env", "a/*.py", "deep/**/x", "all/**"])).unwrap();
        let root = rustix::fs::stat("/").unwrap();
        let ctx = Context::new();
        let mut choice = only.begin(&root, &ctx).unwrap();
        let mut wanted = |path: &str| {
            let wanted = choice.wanted(path.replace('/', "\0").as_bytes());
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
    fn globs_of_the_first_version_mean_what_they_meant() {
        let globs = first_globs(&strings(&["*.pyc", "/cache", "a/b/*.tmp", "dir/", "!x", "{y,z}"]));
        let globs = globs.unwrap();
        let wanted = |path: &str| !globs.is_match(path);
        assert!(!wanted("x.pyc") && !wanted("a/b/x.pyc"));
        assert!(!wanted("cache") && wanted("a/cache"));
        assert!(!wanted("a/b/x.tmp") && wanted("a/b/c/x.tmp") && wanted("x.tmp"));
        assert!(!wanted("dir") && !wanted("x/dir"));
        assert!(!wanted("!x") && !wanted("y") && !wanted("a/z") && wanted("x"));
        let error = first_globs(&strings(&["[a"])).unwrap_err();
        assert!(error.to_string().contains("[a"), "{error}");
    }
}
