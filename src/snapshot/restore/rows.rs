//! Rows of tables that refer to rows of others, looked up in trees.

use std::collections::{BTreeMap, HashMap};

use super::error::RestoreError;
use crate::hint::Failure;
use crate::repo::Scratch;
use crate::snapshot::opened::TreeRecord;
use crate::source::key;
use crate::source::record::{Column, Field, Form, KeyKind, RowReader, TableHeader};
use crate::source::sort::{BUDGET, Duplicates, Sorter};
use crate::tree::{self, Change, Content, Key, Shape, Tree, Value};

/// A row that is longer is not read: PostgreSQL's fields end at 1 GiB, too.
const ROW_LIMIT: usize = 1 << 30;

/// Types whose values are equal exactly when their texts are.
const PLAIN: [&str; 9] =
    ["text", "varchar", "bpchar", "uuid", "date", "timestamp", "timestamptz", "time", "blob"];

/// The tables of a database.
#[derive(Debug)]
pub(super) struct Tables(BTreeMap<String, Table>);

#[derive(Debug)]
pub(super) struct Table {
    pub(super) header: TableHeader,
    pub(super) references: Vec<Reference>,
}

/// A foreign key whose values can be looked up.
#[derive(Debug, Clone)]
pub(super) struct Reference {
    /// The columns that refer, as people know them.
    pub(super) columns: Vec<String>,
    /// The fields that refer.
    fields: Vec<usize>,
    /// The tree of the table referred to.
    pub(super) parent: String,
    /// The fields referred to, in the same order.
    parent_fields: Vec<usize>,
    /// Where these are the key of the parent: which of them is each part of the key.
    key_order: Option<Vec<usize>>,
}

impl Tables {
    pub(super) fn of(records: &[TreeRecord]) -> Result<Self, Failure> {
        let mut tables = BTreeMap::new();
        for record in records {
            let header = TableHeader::from_json(&record.info.header)?;
            tables.insert(record.info.name.clone(), header);
        }
        let references = |header: &TableHeader| {
            let references = header.foreign_keys.iter();
            references
                .filter_map(|foreign| {
                    let (name, parent) = tables.iter().find(|(_, parent)| {
                        parent.schema == foreign.ref_schema && parent.table == foreign.ref_table
                    })?;
                    let to = if foreign.ref_columns.is_empty() {
                        &parent.key
                    } else {
                        &foreign.ref_columns
                    };
                    reference(header, &foreign.columns, name, parent, to)
                })
                .collect()
        };
        let with_references: BTreeMap<String, Table> = tables
            .iter()
            .map(|(name, header)| {
                let references: Vec<Reference> = references(header);
                (name.clone(), Table { header: header.clone(), references })
            })
            .collect();
        Ok(Self(with_references))
    }

    pub(super) fn get(&self, tree: &str) -> Option<&Table> {
        self.0.get(tree)
    }

    /// A table by its name, for what people wrote.
    pub(super) fn named(&self, tree: &str) -> Result<&Table, RestoreError> {
        self.get(tree).ok_or_else(|| RestoreError::NoTable {
            table: tree.to_owned(),
            there: self.0.keys().cloned().collect(),
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Table)> {
        self.0.iter()
    }
}

/// What can be looked up of a foreign key; `None` where the database alone knows which values are
/// equal, and will say so itself.
fn reference(
    child: &TableHeader,
    columns: &[String],
    name: &str,
    parent: &TableHeader,
    parent_columns: &[String],
) -> Option<Reference> {
    let plain = |column: &&Column| {
        column.collation.is_none()
            && (column.form() != Form::Text || PLAIN.contains(&column.type_oid_name.as_str()))
    };
    let fields = |header: &TableHeader, names: &[String]| -> Option<Vec<usize>> {
        let field = |name: &String| {
            let position = header.stored_columns().position(|column| column.name == *name)?;
            header.stored_columns().nth(position).filter(plain).map(|_| position)
        };
        names.iter().map(field).collect()
    };
    let is_key = parent.key_kind == KeyKind::Primary
        && parent.key.len() == parent_columns.len()
        && parent.key.iter().all(|name| parent_columns.contains(name));
    let order = |name: &String| parent_columns.iter().position(|column| column == name);
    let found = Reference {
        columns: columns.to_vec(),
        fields: fields(child, columns)?,
        parent: name.to_owned(),
        parent_fields: fields(parent, parent_columns)?,
        key_order: is_key.then(|| parent.key.iter().filter_map(order).collect()),
    };
    (found.fields.len() == found.parent_fields.len()).then_some(found)
}

impl Reference {
    /// The values by which a row of the child refers; `None` where one of them is NULL.
    pub(super) fn values(&self, row: &[Field<'static>]) -> Option<Vec<Field<'static>>> {
        pick(row, &self.fields)
    }

    /// The values by which a row of the parent is referred to.
    pub(super) fn parent_values(&self, row: &[Field<'static>]) -> Option<Vec<Field<'static>>> {
        pick(row, &self.parent_fields)
    }
}

fn pick(row: &[Field<'static>], fields: &[usize]) -> Option<Vec<Field<'static>>> {
    let values = fields.iter().map(|field| row.get(*field).cloned());
    values.map(|value| value.filter(|value| *value != Field::Null)).collect()
}

/// Reads trees of one database and of what is made of them.
pub(super) struct Reader<'a> {
    pub(super) scratch: &'a Scratch<'a>,
    pub(super) shape: Shape,
    /// Trees from the values of some fields to the keys of rows, by tree and fields.
    indexes: HashMap<(Tree, Vec<usize>), Tree>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(scratch: &'a Scratch<'a>, shape: Shape) -> Self {
        Self { scratch, shape, indexes: HashMap::new() }
    }

    /// The fields of a row.
    pub(super) fn fields(&self, content: &Content) -> Result<Vec<Field<'static>>, Failure> {
        let content = match content {
            Content::Inline(bytes) => return fields(bytes),
            Content::Stored(stream) => Content::Stored(*stream),
            Content::Reader(_) => return Ok(Vec::new()),
        };
        fields(&content.bytes(self.scratch, ROW_LIMIT)?)
    }

    /// The row of `parent` that these values refer to.
    pub(super) fn parent(
        &mut self,
        reference: &Reference,
        parent: Option<Tree>,
        values: &[Field<'static>],
    ) -> Result<Option<(Key, Value)>, Failure> {
        let Some(parent) = parent else { return Ok(None) };
        let mut found = Vec::new();
        if let Some(order) = &reference.key_order {
            for part in order {
                key::push(&mut found, &values[*part]);
            }
        } else {
            let index = self.index(parent, &reference.parent_fields)?;
            let mut value = Vec::new();
            for field in values {
                key::push(&mut value, field);
            }
            match tree::get(self.scratch, index, &value)? {
                Some(place) => found = place.content.bytes(self.scratch, tree::MAX_KEY)?,
                None => return Ok(None),
            }
        }
        Ok(tree::get(self.scratch, parent, &found)?.map(|value| (found, value)))
    }

    /// A tree from the values of some fields of a table's rows, which are unique, to their keys.
    fn index(&mut self, table: Tree, fields: &[usize]) -> Result<Tree, Failure> {
        if let Some(index) = self.indexes.get(&(table, fields.to_vec())) {
            return Ok(*index);
        }
        let mut sorter = Sorter::new(BUDGET, Duplicates::Refuse);
        for entry in tree::entries(self.scratch, table, &[], &[]) {
            let (key, value) = entry?;
            if let Some(values) = pick(&self.fields(&value.content)?, fields) {
                let mut found = Vec::new();
                for field in &values {
                    key::push(&mut found, field);
                }
                sorter.push(&found, &key)?;
            }
        }
        let changes = sorter.finish()?.map(|entry| {
            let (values, key) = entry?;
            Ok(Change::put(values, Vec::new(), Content::Inline(key)))
        });
        let index = self.edit(None, changes)?;
        self.indexes.insert((table, fields.to_vec()), index);
        Ok(index)
    }

    /// Edits a tree of rows.
    pub(super) fn edit(
        &self,
        old: Option<Tree>,
        changes: impl Iterator<Item = Result<Change, Failure>>,
    ) -> Result<Tree, Failure> {
        let changes = Box::new(changes);
        Ok(tree::edit(self.scratch, self.scratch, &self.shape, old, changes)?)
    }
}

fn fields(row: &[u8]) -> Result<Vec<Field<'static>>, Failure> {
    let fields = RowReader::new(row).map(|field| field.map(Field::into_owned));
    Ok(fields.collect::<Result<_, _>>()?)
}
