//! Between the text that `COPY` speaks and the rows of [`record`](super::super::record), one line
//! and one row at a time. The format is that of the PostgreSQL manual, "COPY", "Text Format".

use super::super::record::{Field, Form, RowError, RowReader, RowWriter};

/// Turns a line, without its newline, into a row. `None` if it does not have a field for each
/// form, or a field is not of its form.
pub(super) fn row_of_line<'a>(
    line: &[u8],
    forms: &[Form],
    scratch: &mut Vec<u8>,
    writer: &'a mut RowWriter,
) -> Option<&'a [u8]> {
    writer.begin();
    if forms.is_empty() {
        return line.is_empty().then(|| writer.end());
    }
    let mut fields = line.split(|byte| *byte == b'\t');
    for form in forms {
        match (fields.next()?, form) {
            (b"\\N", _) => writer.push_json(b"null"),
            (digits, Form::Integer) => {
                let plain = digits.strip_prefix(b"-").unwrap_or(digits);
                if plain.is_empty() || !plain.iter().all(u8::is_ascii_digit) {
                    return None;
                }
                writer.push_json(digits);
            }
            (b"t", Form::Boolean) => writer.push_json(b"true"),
            (b"f", Form::Boolean) => writer.push_json(b"false"),
            (_, Form::Boolean) => return None,
            (text, Form::Text) if text.contains(&b'\\') => {
                scratch.clear();
                unescape(text, scratch)?;
                writer.push_text(scratch);
            }
            (text, Form::Text) => writer.push_text(text),
        }
    }
    fields.next().is_none().then(|| writer.end())
}

pub(super) fn unescape(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        out.extend_from_slice(&rest[..at]);
        out.push(match rest.get(at + 1)? {
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 0x0b,
            b'\\' => b'\\',
            _ => return None,
        });
        rest = &rest[at + 2..];
    }
    out.extend_from_slice(rest);
    Some(())
}

/// Appends a row as a line, newline included, and says how many fields it has.
pub(super) fn push_line(out: &mut Vec<u8>, row: &[u8]) -> Result<usize, RowError> {
    let mut fields = 0;
    for field in RowReader::new(row) {
        if fields > 0 {
            out.push(b'\t');
        }
        push_field(out, &field?).ok_or(RowError { at: 0 })?;
        fields += 1;
    }
    out.push(b'\n');
    Ok(fields)
}

/// Appends one value; `None` for those that only SQLite has.
pub(super) fn push_field(out: &mut Vec<u8>, field: &Field<'_>) -> Option<()> {
    match field {
        Field::Null => out.extend_from_slice(b"\\N"),
        Field::Boolean(value) => out.push(if *value { b't' } else { b'f' }),
        Field::Integer(value) => out.extend_from_slice(value.to_string().as_bytes()),
        Field::Text(bytes) => escape(bytes, out),
        Field::Real(_) | Field::Blob(_) => return None,
    }
    Some(())
}

fn escape(text: &[u8], out: &mut Vec<u8>) {
    let special = |byte: &u8| matches!(byte, 0x08..=0x0d | b'\\');
    let mut rest = text;
    while let Some(at) = rest.iter().position(special) {
        out.extend_from_slice(&rest[..at]);
        out.push(b'\\');
        out.push(match rest[at] {
            0x08 => b'b',
            0x0c => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x0b => b'v',
            other => other,
        });
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = (Form, Vec<u8>)> {
        let text = prop_oneof!["[^\0]*", "[\\x01-\\x1f\\\\\"N.]{0,6}"];
        prop_oneof![
            any::<i64>().prop_map(|value| (Form::Integer, value.to_string().into_bytes())),
            any::<bool>().prop_map(|value| (Form::Boolean, vec![if value { b't' } else { b'f' }])),
            text.prop_map(|text| {
                let mut escaped = Vec::new();
                escape(text.as_bytes(), &mut escaped);
                (Form::Text, escaped)
            }),
            Just((Form::Integer, b"\\N".to_vec())),
            Just((Form::Text, b"\\N".to_vec())),
        ]
    }

    proptest! {
        #[test]
        fn every_line_comes_back(values in prop::collection::vec(value(), 0..6)) {
            let (forms, texts): (Vec<_>, Vec<_>) = values.into_iter().unzip();
            let line = texts.join(&b'\t');
            let mut writer = RowWriter::default();
            let row = row_of_line(&line, &forms, &mut Vec::new(), &mut writer).unwrap();
            let mut back = Vec::new();
            prop_assert_eq!(push_line(&mut back, row).unwrap(), forms.len());
            prop_assert_eq!(back.strip_suffix(b"\n").unwrap(), line);
        }
    }

    #[test]
    fn a_line_of_another_width_is_refused() {
        let mut writer = RowWriter::default();
        let mut row = |line: &[u8], forms: &[Form]| {
            row_of_line(line, forms, &mut Vec::new(), &mut writer).is_some()
        };
        assert!(row(b"", &[]));
        assert!(row(b"", &[Form::Text]));
        assert!(!row(b"1", &[]));
        assert!(!row(b"1\t2", &[Form::Integer]));
        assert!(!row(b"1", &[Form::Integer, Form::Integer]));
        assert!(!row(b"1e5", &[Form::Integer]));
    }
}
