//! What goes to the standard output: results, and nothing else, as text or as JSON lines.

use std::fmt::Display;
use std::io::{self, BufWriter, Stdout, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::error::OutputError;
use crate::hint::Failure;

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line, for programs.
    Json,
}

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Only the essence of a result, and errors.
    Quiet,
    /// Results, progress and notes.
    Normal,
    /// Also every phase of the work.
    Verbose,
}

/// The standard output.
#[derive(Debug)]
pub struct Output {
    /// How results are written.
    pub format: Format,
    /// How much is said.
    pub verbosity: Verbosity,
    out: Mutex<BufWriter<Stdout>>,
}

impl Output {
    /// An output of this format.
    pub fn new(format: Format, verbosity: Verbosity) -> Self {
        Self { format, verbosity, out: Mutex::new(BufWriter::new(io::stdout())) }
    }

    /// Whether programs read the output.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether only the essence is wanted.
    pub fn is_quiet(&self) -> bool {
        self.verbosity == Verbosity::Quiet
    }

    /// Writes a line of text.
    pub fn line(&self, text: impl Display) -> Result<(), Failure> {
        writeln!(self.lock(), "{text}").map_err(|error| OutputError(error).into())
    }

    /// Writes a line of text, unless only the essence is wanted.
    pub fn detail(&self, text: impl Display) -> Result<(), Failure> {
        if self.is_quiet() { Ok(()) } else { self.line(text) }
    }

    /// A line for those who want to know everything.
    pub fn verbose(&self, text: impl Display) -> Result<(), Failure> {
        if self.verbosity == Verbosity::Verbose { self.line(text) } else { Ok(()) }
    }

    /// Writes a value as one line of JSON.
    pub fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let mut out = self.lock();
        serde_json::to_writer(&mut *out, value)
            .map_err(io::Error::from)
            .and_then(|()| out.write_all(b"\n"))
            .map_err(|error| OutputError(error).into())
    }

    /// Writes a status message at once, so that whoever reads it sees it in time.
    pub fn json_now(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.json(value)?;
        self.finish()
    }

    /// Writes bytes as they are: the content of a file.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        self.lock().write_all(bytes).map_err(|error| OutputError(error).into())
    }

    /// Makes sure that everything was written.
    pub fn finish(&self) -> Result<(), Failure> {
        self.lock().flush().map_err(|error| OutputError(error).into())
    }

    fn lock(&self) -> MutexGuard<'_, BufWriter<Stdout>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A table whose columns are as wide as their widest cell.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|&heading| heading.to_owned()).collect()] }
    }

    /// Appends a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Writes the headings, a rule, the rows and another rule.
    pub fn write(&self, output: &Output) -> Result<(), Failure> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell: &String| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let rule = "-".repeat(widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1));
        for (number, row) in self.rows.iter().enumerate() {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            output.line(cells.join("  ").trim_end())?;
            if number == 0 {
                output.line(&rule)?;
            }
        }
        output.line(rule)
    }
}

/// A number of bytes as people read it.
pub fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// A number and the noun for it.
pub fn count(number: u64, noun: &str) -> String {
    let plural = match noun.strip_suffix('y') {
        _ if number == 1 => noun.to_owned(),
        Some(stem) => format!("{stem}ies"),
        None => format!("{noun}s"),
    };
    format!("{} {plural}", indicatif::HumanCount(number))
}
