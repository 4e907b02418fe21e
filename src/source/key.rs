//! Keys of records: bytes whose order is the order of the tree, made from the values of the key
//! columns and readable back. Documented byte by byte in `docs/FORMAT.md`, "Keys of records".
//!
//! The order is that of the encoding, not of the database: integers by value, text by its bytes,
//! whatever the collation. So two databases that hold the same rows give the same tree.

use std::borrow::Cow;

use super::record::{self, Field, Form, KeyKind, RowError, RowReader, TableHeader};
use crate::hint::{ErrorKind, Hint};
use crate::id::{hex, unhex};

const NULL: u8 = 1;
const FALSE: u8 = 2;
const TRUE: u8 = 3;
const INTEGER: u8 = 4;
const REAL: u8 = 5;
const TEXT: u8 = 6;
const BLOB: u8 = 7;

/// Length of the hash that stands for a row of a table without a key.
pub const HASH_LEN: usize = 16;

/// Why something is not the key of a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Stored bytes that no key encodes to.
    #[error("a key of table {table} is damaged")]
    Damaged {
        /// Which table.
        table: String,
    },
    /// A text that names no record of the table.
    #[error("`{text}` is not a key of table {table}")]
    Unreadable {
        /// Which table.
        table: String,
        /// What was given.
        text: String,
        /// What a key looks like there.
        form: String,
    },
}

impl Hint for KeyError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Damaged { .. } => ErrorKind::Damage,
            Self::Unreadable { .. } => ErrorKind::Usage,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Damaged { .. } => {
                Some("see what else is affected with `coeval check --read-data`".to_owned())
            }
            Self::Unreadable { form, .. } => {
                Some(format!("keys of this table have the form {form}; list them with `coeval ls`"))
            }
        }
    }
}

/// Appends one value of a key.
pub fn push(key: &mut Vec<u8>, field: &Field<'_>) {
    match field {
        Field::Null => key.push(NULL),
        Field::Boolean(false) => key.push(FALSE),
        Field::Boolean(true) => key.push(TRUE),
        Field::Integer(value) => {
            key.push(INTEGER);
            key.extend_from_slice(&(value.cast_unsigned() ^ 1 << 63).to_be_bytes());
        }
        Field::Real(value) => {
            // IEEE 754 orders as sign and magnitude: negative numbers are turned around.
            let bits = value.to_bits();
            let ordered = if bits >> 63 == 1 { !bits } else { bits ^ 1 << 63 };
            key.push(REAL);
            key.extend_from_slice(&ordered.to_be_bytes());
        }
        Field::Text(bytes) => push_bytes(key, TEXT, bytes),
        Field::Blob(bytes) => push_bytes(key, BLOB, bytes),
    }
}

fn push_bytes(key: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    key.push(tag);
    for (index, part) in bytes.split(|byte| *byte == 0).enumerate() {
        if index > 0 {
            key.extend_from_slice(&[0, 0xff]);
        }
        key.extend_from_slice(part);
    }
    key.extend_from_slice(&[0, 0]);
}

/// Appends the key of a row: its `fields`, counted from 0, in key order.
pub fn push_of_row(key: &mut Vec<u8>, row: &[u8], fields: &[usize]) -> Result<(), RowError> {
    if let [only] = fields {
        let field = RowReader::new(row).nth(*only).ok_or(RowError { at: row.len() })??;
        push(key, &field);
        return Ok(());
    }
    let last = fields.iter().max().map_or(0, |last| last + 1);
    let values = RowReader::new(row).take(last).collect::<Result<Vec<_>, _>>()?;
    for field in fields {
        push(key, values.get(*field).ok_or(RowError { at: row.len() })?);
    }
    Ok(())
}

/// What stands for a row of a table without a key. Its key is this and a big-endian `u32` that
/// counts equal rows from 0.
pub fn row_hash(row: &[u8]) -> [u8; HASH_LEN] {
    let mut hash = [0; HASH_LEN];
    hash.copy_from_slice(&blake3::hash(row).as_bytes()[..HASH_LEN]);
    hash
}

/// The values that were encoded; `None` if the bytes are no key. Does not apply to
/// [`KeyKind::Hash`], whose keys hold no values.
pub fn decode(key: &[u8]) -> Option<Vec<Field<'static>>> {
    let mut fields = Vec::new();
    let mut rest = key;
    while let Some((tag, after)) = rest.split_first() {
        rest = after;
        fields.push(match *tag {
            NULL => Field::Null,
            FALSE => Field::Boolean(false),
            TRUE => Field::Boolean(true),
            INTEGER => {
                Field::Integer((u64::from_be_bytes(take(&mut rest)?) ^ 1 << 63).cast_signed())
            }
            REAL => {
                let ordered = u64::from_be_bytes(take(&mut rest)?);
                let bits = if ordered >> 63 == 1 { ordered ^ 1 << 63 } else { !ordered };
                Field::Real(f64::from_bits(bits))
            }
            TEXT => Field::Text(Cow::Owned(take_bytes(&mut rest)?)),
            BLOB => Field::Blob(Cow::Owned(take_bytes(&mut rest)?)),
            _ => return None,
        });
    }
    Some(fields)
}

fn take(rest: &mut &[u8]) -> Option<[u8; 8]> {
    let (bytes, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*bytes)
}

fn take_bytes(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let zero = rest.iter().position(|byte| *byte == 0)?;
        bytes.extend_from_slice(&rest[..zero]);
        let follower = *rest.get(zero + 1)?;
        *rest = &rest[zero + 2..];
        match follower {
            0 => return Some(bytes),
            0xff => bytes.push(0),
            _ => return None,
        }
    }
}

/// The key as people read and type it in a path: `17`; `alice,2024-01-02`; for a table without a
/// key, the hash and the counter. Where a value is not of the column's own form, `~` and a letter
/// say what it is.
pub fn format_key(header: &TableHeader, key: &[u8]) -> Result<String, KeyError> {
    let damaged = || KeyError::Damaged { table: header.table.clone() };
    if header.key_kind == KeyKind::Hash {
        let (hash, counter) = key.split_last_chunk::<4>().ok_or_else(damaged)?;
        if hash.len() != HASH_LEN {
            return Err(damaged());
        }
        return Ok(format!("{}.{}", hex(hash), u32::from_be_bytes(*counter)));
    }
    let forms = forms(header);
    let fields = decode(key).filter(|fields| fields.len() == forms.len()).ok_or_else(damaged)?;
    let mut text = String::new();
    for (index, (field, form)) in fields.iter().zip(forms).enumerate() {
        if index > 0 {
            text.push(',');
        }
        format_field(&mut text, field, form);
    }
    Ok(text)
}

/// The key that [`format_key`] wrote as `text`.
pub fn parse_key(header: &TableHeader, text: &str) -> Result<Vec<u8>, KeyError> {
    let unreadable = || KeyError::Unreadable {
        table: header.table.clone(),
        text: text.to_owned(),
        form: match header.key_kind {
            KeyKind::Primary => header.key.join(","),
            KeyKind::Rowid => "rowid".to_owned(),
            KeyKind::Hash => "hash.counter".to_owned(),
        },
    };
    if header.key_kind == KeyKind::Hash {
        let (hash, counter) = text.split_once('.').ok_or_else(unreadable)?;
        let mut key = unhex(hash).filter(|h| h.len() == HASH_LEN).ok_or_else(unreadable)?;
        let counter: u32 = counter.parse().ok().ok_or_else(unreadable)?;
        key.extend_from_slice(&counter.to_be_bytes());
        return Ok(key);
    }
    let forms = forms(header);
    let parts: Vec<&str> = text.split(',').collect();
    if parts.len() != forms.len() {
        return Err(unreadable());
    }
    let mut key = Vec::new();
    for (part, form) in parts.into_iter().zip(forms) {
        push(&mut key, &parse_field(part, form).ok_or_else(unreadable)?);
    }
    Ok(key)
}

fn forms(header: &TableHeader) -> Vec<Form> {
    if header.key_kind == KeyKind::Rowid {
        return vec![Form::Integer];
    }
    let form =
        |name: &String| header.columns.iter().find(|c| c.name == *name).map(record::Column::form);
    header.key.iter().map(|name| form(name).unwrap_or(Form::Text)).collect()
}

/// What percent-encoding keeps out of a text, besides control characters.
const SPECIAL: &[u8] = b",/~";

fn format_field(out: &mut String, field: &Field<'_>, form: Form) {
    match (field, form) {
        (Field::Integer(value), Form::Integer) => out.push_str(&value.to_string()),
        (Field::Boolean(value), Form::Boolean) => out.push_str(&value.to_string()),
        (Field::Text(bytes), Form::Text) if !bytes.is_empty() => {
            record::percent_encode(out, bytes, SPECIAL);
        }
        (Field::Null, _) => out.push_str("~n"),
        (Field::Integer(value), _) => out.extend(["~i", &value.to_string()]),
        (Field::Boolean(value), _) => out.push_str(if *value { "~1" } else { "~0" }),
        (Field::Real(value), _) => out.extend(["~r", &format!("{value:?}")]),
        (Field::Text(bytes), _) => {
            out.push_str("~t");
            record::percent_encode(out, bytes, SPECIAL);
        }
        (Field::Blob(bytes), _) => {
            out.push_str("~b");
            out.push_str(&hex(bytes));
        }
    }
}

fn parse_field(text: &str, form: Form) -> Option<Field<'static>> {
    let own_text = |text| record::percent_decode(text).map(|bytes| Field::Text(Cow::Owned(bytes)));
    let Some(marked) = text.strip_prefix('~') else {
        return match form {
            Form::Integer => text.parse().ok().map(Field::Integer),
            Form::Boolean => text.parse().ok().map(Field::Boolean),
            Form::Text => own_text(text),
        };
    };
    match marked {
        "n" => return Some(Field::Null),
        "0" => return Some(Field::Boolean(false)),
        "1" => return Some(Field::Boolean(true)),
        _ => {}
    }
    let value = marked.get(1..)?;
    match marked.as_bytes().first()? {
        b'i' => value.parse().ok().map(Field::Integer),
        b'r' => value.parse().ok().map(Field::Real),
        b't' => own_text(value),
        b'b' => unhex(value).map(|bytes| Field::Blob(Cow::Owned(bytes))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use proptest::prelude::*;

    use super::super::record::Column;
    use super::*;

    fn field() -> impl Strategy<Value = Field<'static>> {
        // Few distinct bytes, so that equal prefixes and NULs are common.
        let bytes = || prop::collection::vec(prop_oneof![0..3_u8, Just(255), Just(b',')], 0..5);
        prop_oneof![
            Just(Field::Null),
            any::<bool>().prop_map(Field::Boolean),
            prop_oneof![-3..3_i64, any::<i64>()].prop_map(Field::Integer),
            any::<f64>()
                .prop_filter("NaN is not equal to itself", |value| !value.is_nan())
                .prop_map(Field::Real),
            bytes().prop_map(|bytes| Field::Text(Cow::Owned(bytes))),
            any::<String>().prop_map(|text| Field::Text(Cow::Owned(text.into_bytes()))),
            bytes().prop_map(|bytes| Field::Blob(Cow::Owned(bytes))),
        ]
    }

    fn rank(field: &Field<'_>) -> u8 {
        match field {
            Field::Null => 0,
            Field::Boolean(_) => 1,
            Field::Integer(_) => 2,
            Field::Real(_) => 3,
            Field::Text(_) => 4,
            Field::Blob(_) => 5,
        }
    }

    fn compare(a: &Field<'_>, b: &Field<'_>) -> Ordering {
        match (a, b) {
            (Field::Boolean(a), Field::Boolean(b)) => a.cmp(b),
            (Field::Integer(a), Field::Integer(b)) => a.cmp(b),
            (Field::Real(a), Field::Real(b)) => a.total_cmp(b),
            (Field::Text(a), Field::Text(b)) | (Field::Blob(a), Field::Blob(b)) => a.cmp(b),
            _ => rank(a).cmp(&rank(b)),
        }
    }

    fn encode(fields: &[Field<'_>]) -> Vec<u8> {
        let mut key = Vec::new();
        for field in fields {
            push(&mut key, field);
        }
        key
    }

    fn header(types: &[&str], key_kind: KeyKind) -> TableHeader {
        let column = |(index, name): (usize, &&str)| Column {
            name: format!("c{index}"),
            declared_type: String::new(),
            type_oid_name: (*name).to_owned(),
            typmod: -1,
            not_null: false,
            collation: None,
            identity: String::new(),
            generated: false,
            default: None,
        };
        let columns: Vec<Column> = types.iter().enumerate().map(column).collect();
        TableHeader {
            version: record::VERSION,
            schema: "public".to_owned(),
            table: "t".to_owned(),
            key: columns.iter().map(|column| column.name.clone()).collect(),
            columns,
            key_kind,
            foreign_keys: Vec::new(),
            unique: Vec::new(),
            schema_hash: String::new(),
        }
    }

    proptest! {
        #[test]
        fn keys_sort_as_their_values(
            a in prop::collection::vec(field(), 1..4),
            b in prop::collection::vec(field(), 1..4),
        ) {
            let by_value = a.iter().zip(&b).map(|(a, b)| compare(a, b))
                .find(|order| order.is_ne())
                .unwrap_or_else(|| a.len().cmp(&b.len()));
            prop_assert_eq!(encode(&a).cmp(&encode(&b)), by_value);
            prop_assert_eq!(decode(&encode(&a)), Some(a));
        }

        #[test]
        fn keys_are_read_as_they_are_written(
            fields in prop::collection::vec(field(), 3),
            hash: [u8; 20],
        ) {
            let table = header(&["int4", "text", "bool"], KeyKind::Primary);
            let key = encode(&fields);
            let text = format_key(&table, &key).unwrap();
            prop_assert!(!text.contains('/'));
            prop_assert_eq!(parse_key(&table, &text).unwrap(), key);
            let table = header(&[], KeyKind::Hash);
            let text = format_key(&table, &hash).unwrap();
            prop_assert_eq!(parse_key(&table, &text).unwrap(), hash);
        }

        #[test]
        fn other_bytes_are_refused_without_a_panic(bytes: Vec<u8>, text: String) {
            let table = header(&["int4", "text"], KeyKind::Primary);
            let _ = format_key(&table, &bytes);
            let _ = parse_key(&table, &text);
        }
    }

    #[test]
    fn keys_look_like_what_people_type() {
        let users = header(&["int8"], KeyKind::Primary);
        assert_eq!(format_key(&users, &encode(&[Field::Integer(17)])).unwrap(), "17");
        let pair = header(&["text", "int4"], KeyKind::Primary);
        let key = encode(&[Field::text("a,b/c~50%"), Field::Integer(-1)]);
        assert_eq!(format_key(&pair, &key).unwrap(), "a%2Cb%2Fc%7E50%25,-1");
        let error = parse_key(&pair, "x").unwrap_err();
        assert_eq!(
            error.hint().as_deref(),
            Some("keys of this table have the form c0,c1; list them with `coeval ls`")
        );
    }

    #[test]
    fn the_encoding_is_fixed() {
        let key = encode(&[Field::Integer(-2), Field::text("a\0"), Field::Real(-1.0)]);
        assert_eq!(hex(&key), "047ffffffffffffffe066100ff000005400fffffffffffff");
    }

    #[test]
    fn the_key_of_a_row_is_made_of_its_fields() {
        let row = br#"["x",5,"y"]"#;
        let mut key = Vec::new();
        push_of_row(&mut key, row, &[2, 0]).unwrap();
        assert_eq!(key, encode(&[Field::text("y"), Field::text("x")]));
        assert!(push_of_row(&mut key, row, &[3]).is_err());
    }
}
