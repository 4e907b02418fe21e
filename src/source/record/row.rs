//! A row as a JSON array, written and read without a JSON library: a table of a million rows
//! passes through here once per backup, and most fields are copied as they are.

use std::borrow::Cow;

use super::base64;
use crate::hint::{ErrorKind, Hint};

/// One value of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Field<'a> {
    /// SQL NULL.
    Null,
    /// A truth value.
    Boolean(bool),
    /// An integer.
    Integer(i64),
    /// A floating-point number; SQLite only, PostgreSQL's are text.
    Real(f64),
    /// Text: UTF-8 except in databases that do not check. Also every value of PostgreSQL that is
    /// neither integer nor boolean, as the server prints it.
    Text(Cow<'a, [u8]>),
    /// Bytes; SQLite only, PostgreSQL's are text.
    Blob(Cow<'a, [u8]>),
}

impl<'a> Field<'a> {
    /// A text that is at hand.
    pub fn text(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text.as_bytes()))
    }

    /// The same value, borrowing nothing.
    pub fn into_owned(self) -> Field<'static> {
        match self {
            Self::Null => Field::Null,
            Self::Boolean(value) => Field::Boolean(value),
            Self::Integer(value) => Field::Integer(value),
            Self::Real(value) => Field::Real(value),
            Self::Text(bytes) => Field::Text(Cow::Owned(bytes.into_owned())),
            Self::Blob(bytes) => Field::Blob(Cow::Owned(bytes.into_owned())),
        }
    }
}

/// Writes one row after another into the same buffer.
#[derive(Debug, Default)]
pub struct RowWriter {
    out: Vec<u8>,
}

impl RowWriter {
    /// Forgets the last row and begins another.
    pub fn begin(&mut self) {
        self.out.clear();
        self.out.push(b'[');
    }

    /// Appends a field.
    pub fn push(&mut self, field: &Field<'_>) {
        match field {
            Field::Null => self.separated(b"null"),
            Field::Boolean(true) => self.separated(b"true"),
            Field::Boolean(false) => self.separated(b"false"),
            Field::Integer(value) => self.separated(value.to_string().as_bytes()),
            // `{:?}` is the shortest text that reads back as the same number.
            Field::Real(value) => self.separated(format!("{{\"r\":\"{value:?}\"}}").as_bytes()),
            Field::Text(bytes) => self.push_text(bytes),
            Field::Blob(bytes) => self.push_base64(b'b', bytes),
        }
    }

    /// Appends a text: a JSON string, or `{"t":base64}` if it has NUL or is not UTF-8.
    pub fn push_text(&mut self, bytes: &[u8]) {
        if str::from_utf8(bytes).is_err() || bytes.contains(&0) {
            return self.push_base64(b't', bytes);
        }
        self.separated(b"\"");
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|b| *b < 0x20 || matches!(b, b'"' | b'\\')) {
            self.out.extend_from_slice(&rest[..at]);
            self.escape(rest[at]);
            rest = &rest[at + 1..];
        }
        self.out.extend_from_slice(rest);
        self.out.push(b'"');
    }

    /// Appends something whose JSON form is at hand: digits, `null`, `true`.
    pub fn push_json(&mut self, json: &[u8]) {
        self.separated(json);
    }

    /// Ends the row and gives its bytes.
    pub fn end(&mut self) -> &[u8] {
        self.out.push(b']');
        &self.out
    }

    fn separated(&mut self, json: &[u8]) {
        if self.out.len() > 1 {
            self.out.push(b',');
        }
        self.out.extend_from_slice(json);
    }

    fn escape(&mut self, byte: u8) {
        let short = match byte {
            b'"' | b'\\' => byte,
            0x08 => b'b',
            0x0c => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            _ => {
                let digit = |value: u8| b"0123456789abcdef"[usize::from(value)];
                let code = [b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)];
                return self.out.extend_from_slice(&code);
            }
        };
        self.out.extend_from_slice(&[b'\\', short]);
    }

    fn push_base64(&mut self, kind: u8, bytes: &[u8]) {
        self.separated(b"{\"");
        self.out.extend_from_slice(&[kind, b'"', b':', b'"']);
        base64::encode(&mut self.out, bytes);
        self.out.extend_from_slice(b"\"}");
    }
}

/// Reads the fields of one row, in order. After an error it is over.
#[derive(Debug, Clone)]
pub struct RowReader<'a> {
    row: &'a [u8],
    at: usize,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    Within,
    Over,
}

/// The bytes are not a row as [`RowWriter`] writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("byte {at} of a record is not what its format allows")]
pub struct RowError {
    /// How many bytes could be read.
    pub at: usize,
}

impl Hint for RowError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Damage
    }

    fn hint(&self) -> Option<String> {
        Some("see what else is affected with `coeval check --read-data`".to_owned())
    }
}

impl<'a> RowReader<'a> {
    /// Reads the row in `row`, which must be all of it.
    pub const fn new(row: &'a [u8]) -> Self {
        Self { row, at: 0, state: State::Start }
    }

    fn rest(&self) -> &'a [u8] {
        self.row.get(self.at..).unwrap_or_default()
    }

    fn skip(&mut self, literal: &[u8]) -> bool {
        let found = self.rest().starts_with(literal);
        if found {
            self.at += literal.len();
        }
        found
    }

    fn expect(&mut self, literal: &[u8]) -> Result<(), RowError> {
        if self.skip(literal) { Ok(()) } else { Err(self.error()) }
    }

    const fn error(&self) -> RowError {
        RowError { at: self.at }
    }

    fn step(&mut self) -> Result<Option<Field<'a>>, RowError> {
        match self.state {
            State::Over => return Ok(None),
            State::Start => {
                self.expect(b"[")?;
                self.state = State::Within;
                if self.skip(b"]") {
                    return self.finish();
                }
            }
            State::Within => {
                if self.skip(b"]") {
                    return self.finish();
                }
                self.expect(b",")?;
            }
        }
        self.field().map(Some)
    }

    fn finish(&mut self) -> Result<Option<Field<'a>>, RowError> {
        self.state = State::Over;
        if self.rest().is_empty() { Ok(None) } else { Err(self.error()) }
    }

    fn field(&mut self) -> Result<Field<'a>, RowError> {
        match self.rest().first() {
            Some(b'"') => self.string().map(Field::Text),
            Some(b'-' | b'0'..=b'9') => self.integer(),
            Some(b'{') => self.object(),
            _ if self.skip(b"null") => Ok(Field::Null),
            _ if self.skip(b"true") => Ok(Field::Boolean(true)),
            _ if self.skip(b"false") => Ok(Field::Boolean(false)),
            _ => Err(self.error()),
        }
    }

    fn integer(&mut self) -> Result<Field<'a>, RowError> {
        let rest = self.rest();
        let length = rest.iter().take_while(|b| matches!(b, b'-' | b'0'..=b'9')).count();
        let value = str::from_utf8(&rest[..length]).ok().and_then(|digits| digits.parse().ok());
        let value = value.ok_or_else(|| self.error())?;
        self.at += length;
        Ok(Field::Integer(value))
    }

    fn object(&mut self) -> Result<Field<'a>, RowError> {
        self.expect(b"{\"")?;
        let kind = *self.rest().first().ok_or_else(|| self.error())?;
        self.at += 1;
        self.expect(b"\":")?;
        let text = self.string()?;
        self.expect(b"}")?;
        let field = match kind {
            b'r' => str::from_utf8(&text).ok().and_then(|t| t.parse().ok()).map(Field::Real),
            b't' => base64::decode(&text).map(|bytes| Field::Text(Cow::Owned(bytes))),
            b'b' => base64::decode(&text).map(|bytes| Field::Blob(Cow::Owned(bytes))),
            _ => None,
        };
        field.ok_or_else(|| self.error())
    }

    fn string(&mut self) -> Result<Cow<'a, [u8]>, RowError> {
        self.expect(b"\"")?;
        let mut whole: Option<Vec<u8>> = None;
        loop {
            let rest = self.rest();
            let end = rest.iter().position(|b| matches!(b, b'"' | b'\\'));
            let end = end.ok_or_else(|| self.error())?;
            self.at += end + 1;
            match (&mut whole, rest[end]) {
                (None, b'"') => return Ok(Cow::Borrowed(&rest[..end])),
                (Some(whole), b'"') => {
                    whole.extend_from_slice(&rest[..end]);
                    return Ok(Cow::Owned(std::mem::take(whole)));
                }
                (whole, _) => {
                    let whole = whole.get_or_insert_with(Vec::new);
                    whole.extend_from_slice(&rest[..end]);
                    self.escape(whole)?;
                }
            }
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), RowError> {
        let code = *self.rest().first().ok_or_else(|| self.error())?;
        self.at += 1;
        out.push(match code {
            b'"' | b'\\' | b'/' => code,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                // Only control characters are written this way.
                let digits = self.rest().get(..4).and_then(|digits| str::from_utf8(digits).ok());
                let value = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                let value = value.filter(u8::is_ascii).ok_or_else(|| self.error())?;
                self.at += 4;
                value
            }
            _ => return Err(self.error()),
        });
        Ok(())
    }
}

impl<'a> Iterator for RowReader<'a> {
    type Item = Result<Field<'a>, RowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            self.state = State::Over;
        }
        step.transpose()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn field() -> impl Strategy<Value = Field<'static>> {
        let text = prop_oneof![
            any::<String>().prop_map(String::into_bytes),
            "[\\x00-\\x7f\"\\\\]{0,12}".prop_map(String::into_bytes),
            any::<Vec<u8>>(),
        ];
        prop_oneof![
            Just(Field::Null),
            any::<bool>().prop_map(Field::Boolean),
            any::<i64>().prop_map(Field::Integer),
            any::<f64>()
                .prop_filter("NaN is not equal to itself", |value| !value.is_nan())
                .prop_map(Field::Real),
            text.prop_map(|bytes| Field::Text(Cow::Owned(bytes))),
            any::<Vec<u8>>().prop_map(|bytes| Field::Blob(Cow::Owned(bytes))),
        ]
    }

    pub(crate) fn row_of(fields: &[Field<'_>]) -> Vec<u8> {
        let mut writer = RowWriter::default();
        writer.begin();
        for field in fields {
            writer.push(field);
        }
        writer.end().to_vec()
    }

    proptest! {
        #[test]
        fn fields_come_back_and_rows_are_json(fields in prop::collection::vec(field(), 0..8)) {
            let row = row_of(&fields);
            let json: serde_json::Value = serde_json::from_slice(&row).unwrap();
            prop_assert_eq!(json.as_array().unwrap().len(), fields.len());
            let back: Vec<_> = RowReader::new(&row).collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(back, fields);
        }

        #[test]
        fn any_other_bytes_are_refused_without_a_panic(mut row: Vec<u8>, cut: u8) {
            let _ = RowReader::new(&row).count();
            row = row_of(&[Field::Integer(-5), Field::text("a\"b\u{1}ä"), Field::Real(0.1)]);
            row.truncate(usize::from(cut) % row.len());
            prop_assert!(RowReader::new(&row).any(|field| field.is_err()));
        }
    }

    #[test]
    fn the_form_of_a_row_is_fixed() {
        let fields = [
            Field::Null,
            Field::Boolean(true),
            Field::Integer(-7),
            Field::Real(0.1),
            Field::text("é\t\"\u{1f}"),
            Field::Text(Cow::Borrowed(b"a\0")),
            Field::Blob(Cow::Borrowed(&[0xff])),
        ];
        let expected = r#"[null,true,-7,{"r":"0.1"},"é\t\"\u001f",{"t":"YQA="},{"b":"/w=="}]"#;
        assert_eq!(String::from_utf8(row_of(&fields)).unwrap(), expected);
    }
}
