//! What a backup leaves out: the options, and the files that they name.

use std::path::{Path, PathBuf};

use super::error::usage;
use crate::hint::Failure;
use crate::source::{FilesOptions, patterns_in};

/// What to leave out. Patterns are read in the order of the fields, and the last one that matches
/// decides.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "What to leave out")]
pub struct Excludes {
    /// A file with patterns, one a line, as a .gitignore; can be given several times, as all here
    #[arg(long, value_name = "FILE")]
    pub exclude_file: Vec<PathBuf>,
    /// Leave out what matches, with the syntax and meaning of a line in a .gitignore at the top of
    /// the directory: `*.tmp`, `/cache/`, `!keep.tmp`
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// The same as --exclude-file, for upper and lower case alike
    #[arg(long, value_name = "FILE")]
    pub iexclude_file: Vec<PathBuf>,
    /// The same as --exclude, for upper and lower case alike
    #[arg(long, value_name = "PATTERN")]
    pub iexclude: Vec<String>,
    /// Leave out what is in folders that hold a file of this name, which begins with HEADER
    #[arg(long, value_name = "NAME[:HEADER]")]
    pub exclude_if_present: Vec<String>,
    /// Leave out what is in folders that a CACHEDIR.TAG says are caches
    #[arg(long)]
    pub exclude_caches: bool,
    /// Leave out files that are larger: 100k, 5M, 2G
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub exclude_larger_than: Option<u64>,
    /// Leave out other file systems that are mounted below the directories
    #[arg(short = 'x', long)]
    pub one_file_system: bool,
}

impl Excludes {
    /// These, after some others.
    pub fn options(&self, first: &Self) -> Result<FilesOptions, Failure> {
        let patterns = |files: fn(&Self) -> &Vec<PathBuf>, written: fn(&Self) -> &Vec<String>| {
            let mut patterns = Vec::new();
            for excludes in [first, self] {
                for path in files(excludes) {
                    let text = read(path)?;
                    patterns.extend(patterns_in(&text).map(str::to_owned));
                }
                patterns.extend_from_slice(written(excludes));
            }
            Ok::<_, Failure>(patterns)
        };
        Ok(FilesOptions {
            exclude: patterns(|these| &these.exclude_file, |these| &these.exclude)?,
            iexclude: patterns(|these| &these.iexclude_file, |these| &these.iexclude)?,
            exclude_if_present: [&first.exclude_if_present[..], &self.exclude_if_present].concat(),
            exclude_caches: first.exclude_caches || self.exclude_caches,
            exclude_larger_than: self.exclude_larger_than.or(first.exclude_larger_than),
            one_file_system: first.one_file_system || self.one_file_system,
            ..FilesOptions::default()
        })
    }
}

/// The text of a file with patterns.
pub fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        usage(
            format!("cannot read the exclude file {}: {error}", path.display()),
            "name a file with one pattern a line, in UTF-8",
        )
    })
}

/// A number of bytes: 1024 of them are a k.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(format!("`{text}` is no size: write it as 100k, 5M or 2G")),
    };
    let number: u64 =
        digits.parse().map_err(|_| format!("`{text}` is no size: write it as 100k, 5M or 2G"))?;
    number.checked_mul(1 << unit).ok_or_else(|| format!("`{text}` is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("0", 0), ("7", 7), ("100k", 102_400), ("5M", 5 << 20), ("2 GiB", 2 << 30)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "5X", "-1", "1.5G", "99999999999T"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
