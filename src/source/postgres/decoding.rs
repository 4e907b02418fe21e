//! What the plugin `test_decoding` prints for each change of a logical replication slot. It comes
//! with every server, needs no publication, and prints values as `COPY` does; its format is that
//! of `contrib/test_decoding/test_decoding.c`, equal from PostgreSQL 12 to 17.

use std::borrow::Cow;

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// A transaction begins.
    Begin,
    /// A transaction was committed, at this time as the server prints it.
    Commit(&'a str),
    /// A message of `pg_logical_emit_message`: who it is for, and what it says.
    Message { prefix: &'a str, content: &'a str },
    /// A row changed.
    Row(RowChange<'a>),
    /// All rows of these tables are gone.
    Truncate(Vec<Name<'a>>),
}

/// A schema and a table in it.
pub(super) type Name<'a> = (Cow<'a, str>, Cow<'a, str>);

/// A changed row. What is missing was not written to the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RowChange<'a> {
    pub table: Name<'a>,
    pub operation: Operation,
    /// What it was known by, if that changed or the row is gone.
    pub old: Option<Tuple<'a>>,
    /// What it is.
    pub new: Option<Tuple<'a>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Insert,
    Update,
    Delete,
}

/// Columns with their values.
pub(super) type Tuple<'a> = Vec<(Cow<'a, str>, Datum<'a>)>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Datum<'a> {
    Null,
    /// A large value that the change left alone.
    Unchanged,
    /// As the server prints it; without the quotes of a literal.
    Text(Cow<'a, str>),
}

/// Reads one line; `None` if it is none of this plugin's.
pub(super) fn parse(line: &str) -> Option<Line<'_>> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "BEGIN" => Some(Line::Begin),
        "COMMIT" => {
            let time = rest.split_once("(at ").and_then(|(_, time)| time.strip_suffix(')'));
            Some(Line::Commit(time.unwrap_or_default()))
        }
        "message:" => {
            let (_, rest) = rest.split_once("prefix: ")?;
            let (prefix, rest) = rest.split_once(", sz: ")?;
            let (_, content) = rest.split_once(" content:")?;
            Some(Line::Message { prefix, content })
        }
        "table" => change(rest),
        _ => None,
    }
}

fn change(text: &str) -> Option<Line<'_>> {
    let mut cursor = Cursor { rest: text };
    let mut tables = vec![cursor.table()?];
    while cursor.skip(", ") {
        tables.push(cursor.table()?);
    }
    cursor.skip(": ").then_some(())?;
    if cursor.rest.starts_with("TRUNCATE:") {
        return Some(Line::Truncate(tables));
    }
    let operation = if cursor.skip("INSERT:") {
        Operation::Insert
    } else if cursor.skip("UPDATE:") {
        Operation::Update
    } else if cursor.skip("DELETE:") {
        Operation::Delete
    } else {
        return None;
    };
    let (mut old, mut new) = (None, None);
    if !cursor.skip(" (no-tuple-data)") {
        if cursor.skip(" old-key:") {
            old = Some(cursor.tuple()?);
            cursor.skip(" new-tuple:").then_some(())?;
        }
        let tuple = cursor.tuple()?;
        *(if operation == Operation::Delete { &mut old } else { &mut new }) = Some(tuple);
    }
    let table = tables.pop().filter(|_| tables.is_empty() && cursor.rest.is_empty())?;
    Some(Line::Row(RowChange { table, operation, old, new }))
}

struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn skip(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// `schema.table`, each quoted where it must be.
    fn table(&mut self) -> Option<Name<'a>> {
        let schema = self.identifier()?;
        self.skip(".").then_some(())?;
        Some((schema, self.identifier()?))
    }

    fn identifier(&mut self) -> Option<Cow<'a, str>> {
        if self.rest.starts_with('"') {
            return self.quoted('"');
        }
        let end = self.rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'))?;
        let (name, rest) = self.rest.split_at_checked(end).filter(|_| end > 0)?;
        self.rest = rest;
        Some(Cow::Borrowed(name))
    }

    /// What stands between two quotes; a quote in it is doubled.
    fn quoted(&mut self, quote: char) -> Option<Cow<'a, str>> {
        let text = self.rest.strip_prefix(quote)?;
        let mut whole = String::new();
        let mut from = 0;
        loop {
            let end = from + text.get(from..)?.find(quote)?;
            let after = text.get(end + 1..)?;
            if after.starts_with(quote) {
                whole.push_str(text.get(from..=end)?);
                from = end + 2;
                continue;
            }
            self.rest = after;
            let last = text.get(from..end)?;
            if from == 0 {
                return Some(Cow::Borrowed(last));
            }
            whole.push_str(last);
            return Some(Cow::Owned(whole));
        }
    }

    /// Columns up to the end or to a new tuple.
    fn tuple(&mut self) -> Option<Tuple<'a>> {
        let mut tuple = Vec::new();
        while !self.rest.is_empty() && !self.rest.starts_with(" new-tuple:") {
            self.skip(" ").then_some(())?;
            let name = self.identifier()?;
            self.type_name()?;
            tuple.push((name, self.datum()?));
        }
        Some(tuple)
    }

    /// `[type]:`, where the type may have quotes and brackets of its own.
    fn type_name(&mut self) -> Option<()> {
        self.skip("[").then_some(())?;
        loop {
            let end = self.rest.find(['"', ']'])?;
            self.rest = self.rest.get(end..)?;
            if self.skip("]:") {
                return Some(());
            }
            if self.rest.starts_with('"') {
                self.quoted('"')?;
            } else {
                self.skip("]");
            }
        }
    }

    fn datum(&mut self) -> Option<Datum<'a>> {
        if let Some(bits) = self.bits() {
            return Some(bits);
        }
        if self.rest.starts_with('\'') {
            return self.quoted('\'').map(Datum::Text);
        }
        let end = self.rest.find(' ').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        Some(match word {
            "null" => Datum::Null,
            "unchanged-toast-datum" => Datum::Unchanged,
            "true" => Datum::Text(Cow::Borrowed("t")),
            "false" => Datum::Text(Cow::Borrowed("f")),
            _ => Datum::Text(Cow::Borrowed(word)),
        })
    }

    /// `B'101'`.
    fn bits(&mut self) -> Option<Datum<'a>> {
        let bits = self.rest.strip_prefix("B'")?;
        let (bits, rest) = bits.split_once('\'')?;
        self.rest = rest;
        Some(Datum::Text(Cow::Borrowed(bits)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Datum<'_> {
        Datum::Text(Cow::Borrowed(text))
    }

    fn row(line: &str) -> RowChange<'_> {
        match parse(line) {
            Some(Line::Row(row)) => row,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn lines_of_a_server_are_understood() {
        assert_eq!(parse("BEGIN 740"), Some(Line::Begin));
        assert_eq!(parse("BEGIN"), Some(Line::Begin));
        let commit = "COMMIT 740 (at 2026-11-21 16:42:13.867609+00)";
        assert_eq!(parse(commit), Some(Line::Commit("2026-11-21 16:42:13.867609+00")));
        assert_eq!(
            parse("message: transactional: 1 prefix: coeval, sz: 3 content:a, content:b"),
            Some(Line::Message { prefix: "coeval", content: "a, content:b" })
        );
        assert_eq!(
            parse("table public.a, \"S x\".b: TRUNCATE: restart_seqs cascade"),
            Some(Line::Truncate(vec![("public".into(), "a".into()), ("S x".into(), "b".into())]))
        );
        let insert = row(
            "table public.\"We.ird \"\"T\": INSERT: a[integer]:-1 \"b [x]:\"[text]:'it''s\n\\ x\tz' \
             c[integer[]]:'{1,2}' d[boolean]:true e[bit]:B'101' f[numeric]:NaN g[\"S]:\".\"T\"[]]:null \
             h[text]:unchanged-toast-datum i[text]:'' j[text]:'null'",
        );
        assert_eq!(insert.table, ("public".into(), "We.ird \"T".into()));
        let expected = [
            ("a", text("-1")),
            ("b [x]:", text("it's\n\\ x\tz")),
            ("c", text("{1,2}")),
            ("d", text("t")),
            ("e", text("101")),
            ("f", text("NaN")),
            ("g", Datum::Null),
            ("h", Datum::Unchanged),
            ("i", text("")),
            ("j", text("null")),
        ];
        let new = insert.new.unwrap();
        assert_eq!(new, expected.map(|(name, datum)| (name.into(), datum)));
        assert_eq!((insert.operation, insert.old), (Operation::Insert, None));
    }

    #[test]
    fn what_is_not_logged_is_missing() {
        let update =
            row("table s.t: UPDATE: old-key: id[integer]:1 new-tuple: id[integer]:5 n[text]:'x'");
        assert_eq!(update.old, Some(vec![("id".into(), text("1"))]));
        assert_eq!(update.new.unwrap().len(), 2);
        let delete = row("table s.t: DELETE: id[integer]:2");
        assert_eq!((delete.new, delete.old), (None, Some(vec![("id".into(), text("2"))])));
        let keyless = row("table s.t: DELETE: (no-tuple-data)");
        assert_eq!((keyless.new, keyless.old), (None, None));
        let empty = row("table s.t: INSERT: (no-tuple-data)");
        assert_eq!((empty.new, empty.operation), (None, Operation::Insert));
    }

    proptest! {
        #[test]
        fn any_value_comes_back(value: String, name in "[a-z \"\\[\\]:.]{1,8}") {
            let quoted = |text: &str, quote: char| {
                format!("{quote}{}{quote}", text.replace(quote, &format!("{quote}{quote}")))
            };
            let line = format!(
                "table {}.t: UPDATE: {}[text]:{} n[integer]:3",
                quoted(&name, '"'), quoted(&name, '"'), quoted(&value, '\'')
            );
            let change = row(&line);
            prop_assert_eq!(&change.table.0, &name);
            let new = change.new.unwrap();
            prop_assert_eq!(&new[0], &(Cow::from(name.as_str()), text(&value)));
            prop_assert_eq!(&new[1], &("n".into(), text("3")));
        }

        #[test]
        fn other_text_is_refused_without_a_panic(text: String, cut: u8) {
            let _ = parse(&text);
            let _ = parse(&format!("table {text}"));
            let line = "table s.t: UPDATE: old-key: \"é\"[integer]:1 new-tuple: n[bit]:B'1' m[text]:'é'";
            let cut = (0..=usize::from(cut) % line.len()).rev().find(|at| line.is_char_boundary(*at));
            let _ = parse(&line[..cut.unwrap()]);
        }
    }
}
