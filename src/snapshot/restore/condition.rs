//! Which records of a table are meant: `status=open`, `created>=2026-01-01`, `email~@example\.com$`.

use std::cmp::Ordering;

use regex::Regex;

use crate::hint::{ErrorKind, Hint};
use crate::source::record::{Field, Form, TableHeader};

/// A comparison of one column with a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    column: String,
    operator: Operator,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
    /// Matches a regular expression somewhere.
    Matches,
}

/// Longer operators before those that they begin with.
const OPERATORS: [(&str, Operator); 7] = [
    ("!=", Operator::Unequal),
    ("<=", Operator::AtMost),
    (">=", Operator::AtLeast),
    ("=", Operator::Equal),
    ("<", Operator::Less),
    (">", Operator::Greater),
    ("~", Operator::Matches),
];

/// Types whose values are numbers although rows hold them as text.
const NUMBERS: [&str; 4] = ["numeric", "float4", "float8", "real"];

/// Why a text is no condition on the records of a table.
#[derive(Debug, thiserror::Error)]
pub enum ConditionError {
    /// It has no operator, or no column before it.
    #[error("`{text}` is no condition")]
    Form {
        /// The text.
        text: String,
    },
    /// The table has no such column.
    #[error("table {table} has no column {column}")]
    NoColumn {
        /// Which table.
        table: String,
        /// Which column.
        column: String,
        /// The columns that it has.
        there: Vec<String>,
    },
    /// It is no regular expression.
    #[error("`{text}` is no regular expression")]
    Expression {
        /// The text.
        text: String,
        /// Why not.
        #[source]
        source: regex::Error,
    },
    /// The column holds numbers, and this is none.
    #[error("column {column} holds numbers, and `{text}` is none")]
    NoNumber {
        /// Which column.
        column: String,
        /// The text.
        text: String,
    },
}

impl Hint for ConditionError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Usage
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Form { .. } => {
                "write it as column=value, or with != < <= > >= or ~ (a regular expression)"
                    .to_owned()
            }
            Self::NoColumn { there, .. } => format!("it has {}", there.join(", ")),
            Self::Expression { .. } => {
                "see https://docs.rs/regex/latest/regex/#syntax for what is one".to_owned()
            }
            Self::NoNumber { .. } => "compare it with a number, or with NULL".to_owned(),
        })
    }
}

impl Condition {
    /// Reads a condition as people write it.
    pub fn parse(text: &str) -> Result<Self, ConditionError> {
        let error = || ConditionError::Form { text: text.to_owned() };
        let at = text.find(['!', '=', '<', '>', '~']).filter(|at| *at > 0).ok_or_else(error)?;
        let (column, rest) = text.split_at(at);
        let found = OPERATORS.iter().find_map(|(sign, operator)| {
            rest.strip_prefix(sign).map(|value| (*operator, value.to_owned()))
        });
        let (operator, value) = found.ok_or_else(error)?;
        Ok(Self { column: column.to_owned(), operator, value })
    }

    /// The condition on the rows of a table.
    pub(super) fn bind(&self, header: &TableHeader) -> Result<Bound, ConditionError> {
        let mut columns = header.stored_columns();
        let position = columns.position(|column| column.name == self.column);
        let Some(position) = position else {
            return Err(ConditionError::NoColumn {
                table: header.table.clone(),
                column: self.column.clone(),
                there: header.stored_columns().map(|column| column.name.clone()).collect(),
            });
        };
        let column = header.stored_columns().nth(position);
        let numeric = column.is_some_and(|column| {
            column.form() == Form::Integer || NUMBERS.contains(&column.type_oid_name.as_str())
        });
        let text = self.value.clone();
        let operand = match (self.operator, self.value.as_str()) {
            (Operator::Matches, _) => Operand::Expression(
                Regex::new(&text).map_err(|source| ConditionError::Expression { text, source })?,
            ),
            (Operator::Equal | Operator::Unequal, "NULL") => Operand::Null,
            _ if numeric => Operand::Number(Number::parse(&text).ok_or_else(|| {
                ConditionError::NoNumber { column: self.column.clone(), text: text.clone() }
            })?),
            _ => Operand::Text(text),
        };
        Ok(Bound { position, operator: self.operator, operand })
    }
}

/// A condition on the rows of one table.
#[derive(Debug, Clone)]
pub(super) struct Bound {
    position: usize,
    operator: Operator,
    operand: Operand,
}

#[derive(Debug, Clone)]
enum Operand {
    Null,
    Number(Number),
    Text(String),
    Expression(Regex),
}

/// A number; exact where it is an integer.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Number {
    Integer(i128),
    Real(f64),
}

impl Number {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let integer = text.parse().ok().map(Self::Integer);
        integer.or_else(|| text.parse().ok().map(Self::Real))
    }

    fn compare(self, other: Self) -> Option<Ordering> {
        #[expect(clippy::cast_precision_loss, reason = "the other side is no exact number either")]
        let real = |number| match number {
            Self::Integer(value) => value as f64,
            Self::Real(value) => value,
        };
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => Some(a.cmp(&b)),
            (a, b) => real(a).partial_cmp(&real(b)),
        }
    }
}

impl Bound {
    /// Whether a row with these fields fulfils it. As in SQL, NULL is neither equal nor unequal to
    /// a value.
    pub(super) fn holds(&self, fields: &[Field<'_>]) -> bool {
        let Some(field) = fields.get(self.position) else { return false };
        let text = text(field);
        let order = match (&self.operand, &text) {
            (Operand::Null, text) => {
                return text.is_none() == (self.operator == Operator::Equal);
            }
            (_, None) => return false,
            (Operand::Expression(expression), Some(text)) => return expression.is_match(text),
            (Operand::Number(number), Some(text)) => {
                Number::parse(text).and_then(|field| field.compare(*number))
            }
            (Operand::Text(value), Some(text)) => Some(text.as_str().cmp(value)),
        };
        order.is_some_and(|order| match self.operator {
            Operator::Equal => order.is_eq(),
            Operator::Unequal => order.is_ne(),
            Operator::Less => order.is_lt(),
            Operator::AtMost => order.is_le(),
            Operator::Greater => order.is_gt(),
            Operator::AtLeast => order.is_ge(),
            Operator::Matches => false,
        })
    }
}

/// A value as people write it; `None` for NULL.
fn text(field: &Field<'_>) -> Option<String> {
    Some(match field {
        Field::Null => return None,
        Field::Boolean(value) => value.to_string(),
        Field::Integer(value) => value.to_string(),
        Field::Real(value) => format!("{value:?}"),
        Field::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Field::Blob(bytes) => crate::id::hex(bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::record::{Column, KeyKind, VERSION};

    fn header() -> TableHeader {
        let column = |name: &str, type_oid_name: &str| Column {
            name: name.to_owned(),
            declared_type: type_oid_name.to_owned(),
            type_oid_name: type_oid_name.to_owned(),
            typmod: -1,
            not_null: false,
            collation: None,
            identity: String::new(),
            generated: name == "computed",
            default: None,
        };
        TableHeader {
            version: VERSION,
            schema: "public".to_owned(),
            table: "t".to_owned(),
            columns: vec![
                column("id", "int8"),
                column("computed", "int8"),
                column("price", "numeric"),
                column("name", "text"),
                column("open", "bool"),
            ],
            key: vec!["id".to_owned()],
            key_kind: KeyKind::Primary,
            foreign_keys: Vec::new(),
            unique: Vec::new(),
            schema_hash: String::new(),
        }
    }

    fn holds(condition: &str, fields: &[Field<'_>]) -> bool {
        Condition::parse(condition).unwrap().bind(&header()).unwrap().holds(fields)
    }

    #[test]
    fn numbers_are_compared_as_numbers_and_texts_as_texts() {
        let row =
            [Field::Integer(10), Field::text("2.50"), Field::text("10"), Field::Boolean(true)];
        for yes in [
            "id>9",
            "id>=10",
            "id<=10.0",
            "id!=9",
            "price=2.5",
            "price<10",
            "name<9",
            "name~^1",
            "open=true",
            "name!=NULL",
        ] {
            assert!(holds(yes, &row), "{yes}");
        }
        for no in ["id<9", "id=1", "price>2.5", "name=10.0", "name~x", "open=false", "name=NULL"] {
            assert!(!holds(no, &row), "{no}");
        }
    }

    #[test]
    fn null_is_equal_to_null_only() {
        let row = [Field::Integer(1), Field::Null, Field::Null, Field::Null];
        assert!(holds("name=NULL", &row) && !holds("name!=NULL", &row));
        for no in ["name=x", "name!=x", "price<1", "name~."] {
            assert!(!holds(no, &row), "{no}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in ["", "name", "=x", "name!x"] {
            assert!(Condition::parse(text).is_err(), "{text}");
        }
        for text in ["computed=1", "nme=x", "id=one", "name~("] {
            assert!(Condition::parse(text).unwrap().bind(&header()).is_err(), "{text}");
        }
    }
}
