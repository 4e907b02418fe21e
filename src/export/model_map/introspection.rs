//! The map as the application itself tells it: the JSON that `introspect.py` prints.

use serde::Deserialize;

use super::super::catalog::{Catalog, Table};
use super::super::fixture::Shape;
use super::{Field, Model, ModelMap, Provenance, Reference, Through};
use crate::hint::{ErrorKind, Failure};
use crate::source::record::Engine;

#[derive(Deserialize)]
struct Introspection {
    django: String,
    #[serde(default)]
    python: Option<String>,
    #[serde(default = "yes")]
    use_tz: bool,
    user_model: Option<String>,
    models: Vec<ModelView>,
}

#[derive(Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "as the script prints it")]
struct ModelView {
    label: String,
    table: String,
    #[serde(default)]
    proxy: bool,
    #[serde(default)]
    swapped: bool,
    #[serde(default)]
    auto_created: bool,
    pk: KeyView,
    fields: Vec<FieldView>,
    #[serde(default)]
    many_to_many: Vec<ManyView>,
}

#[derive(Deserialize)]
struct KeyView {
    columns: Vec<String>,
}

#[derive(Deserialize)]
struct FieldView {
    name: String,
    column: Option<String>,
    internal_type: String,
    #[serde(default)]
    base_type: String,
    base_field: Option<Box<ElementView>>,
    #[serde(default)]
    generated: bool,
    #[serde(default)]
    custom_value_to_string: bool,
    target: Option<TargetView>,
}

/// What the elements of an array are.
#[derive(Deserialize)]
struct ElementView {
    base_field: Option<Box<Self>>,
}

#[derive(Deserialize)]
struct TargetView {
    model: String,
    column: String,
    #[serde(default = "yes")]
    db_constraint: bool,
}

#[derive(Deserialize)]
struct ManyView {
    name: String,
    table: String,
    auto_created: bool,
    source_column: String,
    target_column: String,
    target: String,
}

const fn yes() -> bool {
    true
}

/// Reads the introspection and fits it to the tables that are there.
pub(super) fn read(catalog: &Catalog, json: &str) -> Result<ModelMap, Failure> {
    let said: Introspection = serde_json::from_str(json).map_err(|error| {
        Failure::message(
            ErrorKind::Failed,
            format!("the captured description of the Django models cannot be read: {error}"),
            Some("take a new snapshot; the script export/introspect.py prints it".to_owned()),
        )
    })?;
    let mut map = ModelMap {
        django: Some(said.django.clone()),
        python: said.python.clone(),
        users: said.user_model.clone(),
        ..ModelMap::default()
    };
    let real = |model: &&ModelView| !model.proxy && !model.swapped && !model.auto_created;
    for view in said.models.iter().filter(real) {
        // A model without a table was never migrated, or its table was not captured.
        let Some(table) = catalog.table(&view.table) else { continue };
        match model(catalog, table, view, &said) {
            Ok(model) => {
                map.models.push(model);
                let auto = view.many_to_many.iter().filter(|many| many.auto_created);
                map.through.extend(auto.filter_map(|many| through(catalog, &view.label, many)));
            }
            Err(column) => {
                let reason =
                    format!("model {} has a column `{column}` that the table lacks", view.label);
                map.unmapped.insert(view.table.clone(), reason);
            }
        }
    }
    Ok(map)
}

/// The model, or the name of a column that the table does not have.
fn model(
    catalog: &Catalog,
    table: &Table,
    view: &ModelView,
    said: &Introspection,
) -> Result<Model, String> {
    let column = |name: &str| table.column(name).ok_or_else(|| name.to_owned());
    let pk = view.pk.columns.iter().map(|name| column(name)).collect::<Result<Vec<_>, _>>()?;
    let (mut fields, mut computed) = (Vec::new(), Vec::new());
    for field in &view.fields {
        let Some(name) = &field.column else { continue };
        // What the database computes is in no row, and `loaddata` must not set it.
        if field.generated {
            computed.push(field.name.clone());
            continue;
        }
        let index = column(name)?;
        let declared = &table.columns[index].declared_type;
        let mut shape = match catalog.engine() {
            Engine::Postgresql => Shape::of_postgres(declared),
            Engine::Sqlite => Shape::of_sqlite(declared, Some(internal_type(field))),
        };
        if let (Shape::Array(of), Some(elements)) = (&shape, &field.base_field) {
            shape = Shape::Array(Box::new(dimensions(of, elements)));
        }
        if shape == Shape::Instant && catalog.engine() == Engine::Sqlite && !said.use_tz {
            shape = Shape::Local;
        }
        fields.push(Field {
            name: field.name.clone(),
            column: index,
            shape,
            target: field.target.as_ref().map(|target| Reference {
                label: target.model.clone(),
                column: target.column.clone(),
                enforced: target.db_constraint,
            }),
            file: matches!(internal_type(field), "FileField" | "ImageField"),
            custom: field.custom_value_to_string,
        });
    }
    fields.sort_by_key(|field| field.column);
    let (label, table) = (view.label.clone(), view.table.clone());
    Ok(Model { label, table, provenance: Provenance::Introspection, pk, fields, computed })
}

/// The elements of an array, which may be arrays: PostgreSQL's type is the same for both.
fn dimensions(of: &Shape, elements: &ElementView) -> Shape {
    match &elements.base_field {
        Some(below) => Shape::Array(Box::new(dimensions(of, below))),
        None => of.clone(),
    }
}

/// A field of the application's own class may call itself anything; Django's class below it
/// tells what it is.
fn internal_type(field: &FieldView) -> &str {
    const KNOWN: [&str; 5] = ["DurationField", "UUIDField", "JSONField", "FileField", "ImageField"];
    if KNOWN.contains(&field.base_type.as_str()) { &field.base_type } else { &field.internal_type }
}

fn through(catalog: &Catalog, owner: &str, many: &ManyView) -> Option<Through> {
    let table = catalog.table(&many.table)?;
    Some(Through {
        table: many.table.clone(),
        owner: owner.to_owned(),
        field: many.name.clone(),
        target: many.target.clone(),
        id: table.header.key.first().and_then(|name| table.column(name)),
        source_column: table.column(&many.source_column)?,
        target_column: table.column(&many.target_column)?,
    })
}
