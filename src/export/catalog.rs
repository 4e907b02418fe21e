//! A database's structure as the exporter looks at it: the headers of its trees, taken apart. The
//! headers themselves go into the package untouched.

use std::collections::HashMap;

use crate::hint::Failure;
use crate::source::TreeInfo;
use crate::source::record::{Column, DatabaseHeader, Engine, ForeignKey, Schema, TableHeader};

/// The structure of one database.
#[derive(Debug, Clone)]
pub struct Catalog {
    /// About the database as a whole.
    pub header: DatabaseHeader,
    /// Its tables, sorted by the names of their trees.
    pub tables: Vec<Table>,
    by_name: HashMap<String, usize>,
}

/// One table.
#[derive(Debug, Clone)]
pub struct Table {
    /// The tree, with the header as it is.
    pub info: TreeInfo,
    /// The header, read.
    pub header: TableHeader,
    /// The columns that rows hold, in the order of the fields.
    pub columns: Vec<Column>,
}

impl Catalog {
    /// Reads the headers of a database and its tables.
    pub fn read(header: &[u8], trees: Vec<TreeInfo>) -> Result<Self, Failure> {
        let header = DatabaseHeader::from_json(header)?;
        let mut tables = trees.into_iter().map(Table::read).collect::<Result<Vec<_>, _>>()?;
        tables.sort_by(|a, b| a.info.name.cmp(&b.info.name));
        let by_name = tables.iter().enumerate().map(|(i, t)| (t.info.name.clone(), i)).collect();
        Ok(Self { header, tables, by_name })
    }

    /// Whose text the records hold.
    pub const fn engine(&self) -> Engine {
        self.header.engine
    }

    /// The place of the table with this name in their order.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The table with this name.
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.by_name.get(name).map(|&index| &self.tables[index])
    }

    /// The statement that made a table of SQLite, for what its columns do not tell.
    pub fn sqlite_statement(&self, table: &str) -> Option<&str> {
        let Schema::SqliteMaster { objects } = &self.header.schema else { return None };
        let object = objects.iter().find(|object| object.kind == "table" && object.name == table);
        object.map(|object| object.sql.as_str())
    }

    /// All statements that make the empty database, in order; `None` where none were obtainable.
    pub fn ddl(&self) -> Option<String> {
        match &self.header.schema {
            Schema::PgDump { pre_data, post_data } | Schema::Catalogue { pre_data, post_data } => {
                Some(format!("{pre_data}\n{post_data}"))
            }
            Schema::SqliteMaster { objects } => {
                Some(objects.iter().flat_map(|object| [object.sql.as_str(), ";\n"]).collect())
            }
            Schema::Unavailable { .. } => None,
        }
    }
}

impl Table {
    /// Reads the header of a table.
    pub fn read(info: TreeInfo) -> Result<Self, Failure> {
        let header = TableHeader::from_json(&info.header)?;
        let columns = header.stored_columns().cloned().collect();
        Ok(Self { info, header, columns })
    }

    /// The name of the tree.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// Which field of a row this column is.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// Which field of a row is the row number that SQLite's rows carry beside their key: it is no
    /// column of the table.
    pub fn row_number(&self) -> Option<usize> {
        self.columns.iter().position(|column| column.type_oid_name == "rowid")
    }

    /// The foreign key over exactly this column.
    pub fn foreign_key(&self, column: &str) -> Option<&ForeignKey> {
        self.header
            .foreign_keys
            .iter()
            .find(|key| key.columns.len() == 1 && key.columns[0] == column)
    }
}
