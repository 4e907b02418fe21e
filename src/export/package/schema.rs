//! What a fixture of others needs to be read: the structure of the database it belongs to, and the
//! content types and permissions there, which fixtures call by name and often do not hold.

use super::open::Schema;
use crate::context::Context;
use crate::export::catalog::Table;
use crate::export::fixture::write::record_of;
use crate::hint::Failure;
use crate::source::record::{Field, RowReader, TableHeader};
use crate::source::{Delta, Source, TreeInfo};

impl Schema {
    /// Reads the structure of a database, and what the application said about its models.
    pub fn of(
        database: &mut dyn Source,
        introspection: Option<String>,
        ctx: &Context,
    ) -> Result<Self, Failure> {
        let description = database.begin(None, ctx)?;
        let (mut content_types, mut permissions) = (Vec::new(), Vec::new());
        for tree in &description.trees {
            let columns = match TableHeader::from_json(&tree.header)?.table.as_str() {
                "django_content_type" => ["id", "app_label", "model"],
                "auth_permission" => ["id", "codename", "content_type_id"],
                _ => continue,
            };
            rows(database, tree, columns, ctx, &mut |row| match row {
                [Field::Integer(id), Field::Text(app), Field::Text(model)] => {
                    content_types.push((id, text(&app), text(&model)));
                }
                [Field::Integer(id), Field::Text(codename), Field::Integer(of)] => {
                    permissions.push((id, text(&codename), of));
                }
                _ => {}
            })?;
        }
        let name = database.name().to_owned();
        database.end()?;
        let (header, trees) = (description.header, description.trees);
        Ok(Self { name, header, trees, introspection, content_types, permissions })
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Hands over three columns of every row.
fn rows(
    database: &mut dyn Source,
    tree: &TreeInfo,
    columns: [&str; 3],
    ctx: &Context,
    take: &mut dyn FnMut([Field<'_>; 3]),
) -> Result<(), Failure> {
    let table = Table::read(tree.clone())?;
    let Some(columns) = columns.iter().map(|name| table.column(name)).collect::<Option<Vec<_>>>()
    else {
        return Ok(());
    };
    let changes = match database.changes(tree, None, ctx)? {
        Delta::Everything(changes) | Delta::SinceParent(changes) => changes,
    };
    for change in changes {
        let (_, row) = record_of(change?)?;
        let values = RowReader::new(&row).collect::<Result<Vec<_>, _>>()?;
        let value = |at: usize| values.get(columns[at]).cloned().unwrap_or(Field::Null);
        take([value(0), value(1), value(2)]);
    }
    Ok(())
}
