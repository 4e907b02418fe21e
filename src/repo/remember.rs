//! What this host remembers of a repository from one command to the next, in its cache directory:
//! lists of lines, which cost nothing but their knowledge when they are lost.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

/// The folder of the cache that belongs to one repository.
#[derive(Debug)]
pub(super) struct Memory {
    folder: PathBuf,
}

impl Memory {
    pub(super) const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The lines of a list; none where there is no such list, or no cache can be kept.
    pub(super) fn recall(&self, name: &str) -> io::Result<Vec<String>> {
        match fs::read_to_string(self.path(name)) {
            Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
            Err(error) if is_absent(&error) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Adds a line to a list.
    pub(super) fn add(&self, name: &str, line: &str) -> io::Result<()> {
        crate::backend::create_private_dir(&self.folder)?;
        let mut file = fs::OpenOptions::new().append(true).create(true).open(self.path(name))?;
        file.write_all(format!("{line}\n").as_bytes())
    }

    /// Puts a list in the place of what it was: whoever reads meanwhile sees one or the other.
    pub(super) fn remember(
        &self,
        name: &str,
        lines: impl Iterator<Item = String>,
    ) -> io::Result<()> {
        crate::backend::create_private_dir(&self.folder)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        let mut out = io::BufWriter::new(&mut file);
        for line in lines {
            writeln!(out, "{line}")?;
        }
        out.flush()?;
        drop(out);
        file.persist(self.path(name)).map_err(|error| error.error)?;
        Ok(())
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
