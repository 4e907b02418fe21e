//! A directory as a target: every new content is first written, whole and durable, into a staging
//! folder inside the directory; only then are live files replaced, by renames.

use super::super::spool::Spool;
use super::losses::{Losses, Shortfalls};
use super::stage::Stage;
use super::staging::Staging;
use super::{Files, FilesError, FilesOptions, TREE, commit};
use crate::context::Context;
use crate::hint::Failure;
use crate::source::{self, Applied, Description, Fit, Plan, Source, Target};

/// A directory, or the configuration files in it, as a [`Target`].
#[derive(Debug)]
pub struct Directory {
    files: Files,
    staging: Option<Staging>,
    /// What was asked and what could not be done, after the commit.
    done: Option<(Spool, Losses)>,
}

impl Directory {
    /// The directory of `files` as a target. It shows, and so changes, only what belongs to that
    /// source: what it excludes stays as it is.
    pub const fn new(mut files: Files) -> Self {
        files.is_target = true;
        Self { files, staging: None, done: None }
    }

    fn staging(&mut self) -> Result<&mut Staging, FilesError> {
        self.staging.as_mut().ok_or_else(|| not_begun(&self.files))
    }
}

fn not_begun(files: &Files) -> FilesError {
    FilesError::Contract { path: files.root.display().to_string(), reason: "it was not begun" }
}

impl Target for Directory {
    fn begin(&mut self, ctx: &Context) -> Result<(), Failure> {
        self.done = None;
        self.staging = Some(Staging::new(&self.files.root, ctx)?);
        Ok(())
    }

    fn as_source(&mut self) -> &mut dyn Source {
        &mut self.files
    }

    fn fit(&mut self, _wanted: &Description, _ctx: &Context) -> Result<Fit, Failure> {
        Ok(Fit::Kept)
    }

    fn apply(&mut self, plan: &dyn Plan, ctx: &Context) -> Result<Applied, Failure> {
        let Self { files, staging, .. } = self;
        let staging = staging.as_mut().ok_or_else(|| not_begun(files))?;
        let mut applied = Applied::default();
        for tree in plan.trees().iter().filter(|tree| tree.name == TREE) {
            let mut stage = Stage::new(staging, plan, tree, ctx)?;
            for change in plan.changes(tree)? {
                ctx.check_cancelled()?;
                stage.step(change?)?;
            }
            applied = stage.finish()?;
        }
        staging.remove_left()?;
        staging.sync()?;
        Ok(applied)
    }

    /// Moves everything into place. After a failure or a crash in the middle some files are as
    /// before and some as asked, each of them whole; the same restore again completes the work.
    fn commit(&mut self) -> Result<(), Failure> {
        let staging = self.staging()?;
        commit::run(staging)?;
        staging.sync()?;
        self.done = self.staging.take().map(|staging| (staging.journal, staging.losses));
        Ok(())
    }

    fn leftovers(&mut self) -> Result<Option<Box<dyn Source>>, Failure> {
        let Self { files, staging, .. } = self;
        let staging = staging.as_ref().ok_or_else(|| not_begun(files))?;
        let Some(left) = &staging.left else { return Ok(None) };
        let path = staging.path.join(&left.name);
        let left = Files::new(files.kind, files.name.clone(), path, FilesOptions::default())?;
        Ok(Some(Box::new(Files { is_target: true, ..left })))
    }

    fn shortfalls(&mut self) -> Result<source::Shortfalls<'_>, Failure> {
        let Some((journal, losses)) = &mut self.done else {
            return Ok(Box::new(std::iter::empty()));
        };
        let losses = losses.finish()?.peekable();
        let journal = journal.read().map_err(|source| FilesError::Spool { source })?.peekable();
        Ok(Box::new(Shortfalls { losses, journal }))
    }

    fn rollback(&mut self) -> Result<(), Failure> {
        match self.staging.take() {
            Some(staging) => staging.abandon(),
            None => Ok(()),
        }
    }
}
