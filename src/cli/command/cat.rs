//! `coeval cat`

use super::ls::missing;
use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::entries::decode_entry;
use crate::cli::error::usage;
use crate::cli::places::{Paths, lossless};
use crate::cli::records::Record;
use crate::hint::Failure;
use crate::snapshot::{Place, Snapshot, SnapshotPath};
use crate::source::{EntryKind, Kind};
use crate::tree::{self, Content, StreamReader, Value};

/// Print a file or a part of it as it is, a record as JSON, or a table as JSON lines
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The snapshot and a path in it: latest:/configuration/.env, latest:/database/main/users/17
    #[arg(value_name = "SNAPSHOT:PATH", value_parser = lossless())]
    place: String,
    /// Only these bytes of a file, counted from 0, the last one included: 100-199, 100- to the
    /// end, -100 for the last hundred
    #[arg(long, value_name = "FIRST-LAST", allow_hyphen_values = true)]
    #[arg(value_parser = Part::parse, conflicts_with_all = ["offset", "length"])]
    range: Option<Part>,
    /// Only from this byte of a file on, counted from 0
    #[arg(long, value_name = "BYTES")]
    offset: Option<u64>,
    /// Only this many bytes of a file
    #[arg(long, value_name = "BYTES")]
    length: Option<u64>,
    /// Print a record or a table as CSV (RFC 4180) with the names of the columns; NULL is nothing,
    /// an empty text is ""
    #[arg(long)]
    csv: bool,
}

/// A part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// From a byte on, this many, or all that there are.
    From(u64, Option<u64>),
    /// The last ones.
    Last(u64),
}

impl Part {
    /// As in the `Range` of HTTP (RFC 9110, 14.1.2).
    fn parse(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
        match text.split_once('-') {
            Some(("", last)) => Ok(Self::Last(number(last)?)),
            Some((first, "")) => Ok(Self::From(number(first)?, None)),
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                let length = last.checked_sub(first).and_then(|length| length.checked_add(1));
                Ok(Self::From(first, Some(length.ok_or("it ends before it begins")?)))
            }
            None => Err("write it as FIRST-LAST".to_owned()),
        }
    }

    /// Where it begins in a content of this length, and how long it is.
    fn within(self, total: u64) -> (u64, u64) {
        let (offset, length) = match self {
            Self::From(offset, length) => (offset.min(total), length.unwrap_or(u64::MAX)),
            Self::Last(length) => (total.saturating_sub(length), length),
        };
        (offset, length.min(total - offset))
    }
}

impl Args {
    fn part(&self) -> Option<Part> {
        let by_offset = || {
            let any = self.offset.is_some() || self.length.is_some();
            any.then_some(Part::From(self.offset.unwrap_or(0), self.length))
        };
        self.range.or_else(by_offset)
    }
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let repo = app.open()?;
    let wanted = SnapshotPath::parse(&args.place);
    let snapshot = app.snapshot(&repo, &wanted.snapshot)?;
    let place = snapshot.resolve(&wanted.path)?;
    if let Place::Tree(source, _) | Place::Entry(source, ..) = &place
        && source.kind == Kind::Database
        && args.part().is_some()
    {
        return Err(usage("records have no bytes to count", "leave the range out"));
    }
    match place {
        Place::Root | Place::Kind(_) | Place::Source(_) => Err(usage(
            format!("{} is neither a file nor a record nor a table", args.place),
            format!("see what is there with `coeval ls {}`", args.place),
        )),
        Place::Tree(source, record) => {
            let paths = Paths::new(source.kind, &source.name, &record.info)?;
            print_header(args, &paths, app)?;
            for entry in tree::entries(&*repo, record.tree, &[], &[]) {
                app.ctx.check_cancelled()?;
                print_record(args, &paths, entry?.1, app, &snapshot)?;
            }
            Ok(Done::Fully)
        }
        Place::Entry(source, record, key) => {
            let paths = Paths::new(source.kind, &source.name, &record.info)?;
            let value = tree::get(&*repo, record.tree, &key)?;
            let value = value.ok_or_else(|| missing(&paths, &key))?;
            if source.kind == Kind::Database {
                print_header(args, &paths, app)?;
                print_record(args, &paths, value, app, &snapshot)?;
            } else if args.csv {
                return Err(usage("a file is no table", "leave out --csv"));
            } else {
                let part = args.part().unwrap_or(Part::From(0, None));
                print_file(&key, value, part, app, &snapshot)?;
            }
            Ok(Done::Fully)
        }
    }
}

/// The names of the columns, where they are not told with each record.
fn print_header(args: &Args, paths: &Paths, app: &App) -> Result<(), Failure> {
    match &paths.header {
        Some(header) if args.csv => {
            app.output.bytes(csv_line(Record::csv_header(header)).as_bytes())
        }
        _ => Ok(()),
    }
}

/// RFC 4180 ends lines as the network does.
fn csv_line(line: String) -> String {
    line + "\r\n"
}

fn print_record(
    args: &Args,
    paths: &Paths,
    value: Value,
    app: &App,
    snapshot: &Snapshot,
) -> Result<(), Failure> {
    let Some(header) = &paths.header else { return Ok(()) };
    let record = Record::read(header, value.content, &*snapshot.repo)?;
    if args.csv {
        return app.output.bytes(csv_line(record.to_csv()).as_bytes());
    }
    app.output.line(record.to_json())
}

fn print_file(
    key: &[u8],
    value: Value,
    part: Part,
    app: &App,
    snapshot: &Snapshot,
) -> Result<(), Failure> {
    match decode_entry(key, &value)?.kind {
        EntryKind::File => {}
        EntryKind::Symlink { target } => return app.output.bytes(&target),
        EntryKind::Directory => {
            return Err(usage("this is a folder", "see what is in it with `coeval ls`"));
        }
        special => {
            let what = format!("this is a {}, which has no content", special.as_str());
            return Err(usage(what, "see more of it with `coeval ls -l`"));
        }
    }
    let (offset, length) = part.within(value.content.length());
    let mut reader = match value.content {
        Content::Stored(stream) => StreamReader::range(&*snapshot.repo, stream, offset, length),
        content => {
            let bytes = content.bytes(&*snapshot.repo, usize::MAX)?;
            let part = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
            let part = part.unwrap_or_default();
            let end = usize::try_from(length).unwrap_or(usize::MAX).min(part.len());
            return app.output.bytes(part.get(..end).unwrap_or_default());
        }
    };
    while let Some(bytes) = reader.next_chunk()? {
        app.ctx.check_cancelled()?;
        app.output.bytes(&bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_http() {
        let within = |text| Part::parse(text).map(|part| part.within(1000));
        assert_eq!(within("100-199"), Ok((100, 100)));
        assert_eq!(within("0-0"), Ok((0, 1)));
        assert_eq!(within("990-"), Ok((990, 10)));
        assert_eq!(within("-10"), Ok((990, 10)));
        assert_eq!(within("-5000"), Ok((0, 1000)));
        assert_eq!(within("999-5000"), Ok((999, 1)));
        assert_eq!(within("1000-"), Ok((1000, 0)));
        for nonsense in ["", "5", "5-4", "a-b", "0-18446744073709551615", "-"] {
            assert!(Part::parse(nonsense).is_err(), "{nonsense}");
        }
    }
}
