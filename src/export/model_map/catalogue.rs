//! The map from the catalogue and the rows of `django_content_type`: Django's own rules for
//! naming tables, and then a likeness of names where it leaves one answer.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::super::catalog::{Catalog, Table};
use super::super::fixture::Shape;
use super::{CONTENT_TYPE, Declared, Field, Model, ModelMap, Provenance, Reference, Through};
use crate::source::record::Engine;

/// Models of Django whose tables have names of their own.
const BUILT_IN: [(&str, &str); 6] = [
    (CONTENT_TYPE, "django_content_type"),
    ("sessions.session", "django_session"),
    ("admin.logentry", "django_admin_log"),
    ("sites.site", "django_site"),
    ("redirects.redirect", "django_redirect"),
    ("flatpages.flatpage", "django_flatpage"),
];

/// PostgreSQL names have at most this many bytes; Django shortens to four less and a hash.
const LONGEST_NAME: usize = 63;

/// Derives the map.
pub(super) fn derive(
    catalog: &Catalog,
    content_types: &[(String, String)],
    declared: &Declared,
) -> ModelMap {
    let mut found: BTreeMap<String, (String, Provenance)> = BTreeMap::new();
    let mut labels: BTreeSet<String> =
        content_types.iter().map(|(app, model)| format!("{app}.{model}")).collect();
    for (label, table) in &declared.tables {
        if catalog.table(table).is_some() && !found.contains_key(table) && labels.remove(label) {
            found.insert(table.clone(), (label.clone(), Provenance::Migrations));
        }
    }
    for (label, table) in BUILT_IN {
        if labels.remove(label) && catalog.table(table).is_some() {
            found.insert(table.to_owned(), (label.to_owned(), Provenance::ContentType));
        }
    }
    let short = shortened(catalog);
    labels.retain(|label| {
        let table = label.replacen('.', "_", 1);
        let name = if catalog.table(&table).is_some() {
            Some(table)
        } else {
            of_shortened(&short, &table)
        };
        match name {
            Some(name) if !found.contains_key(&name) => {
                found.insert(name, (label.clone(), Provenance::ContentType));
                false
            }
            _ => true,
        }
    });
    let mut through: Vec<&Table> = Vec::new();
    let mut free: Vec<&Table> = Vec::new();
    for table in &catalog.tables {
        let name = table.name();
        if found.contains_key(name) || name == "django_migrations" || name == "sqlite_sequence" {
            continue;
        }
        if is_pairs(table) { through.push(table) } else { free.push(table) }
    }
    like_names(&free, &labels, &mut found);

    let mut map = ModelMap::default();
    let json = catalog.json_columns();
    for (table, (label, provenance)) in &found {
        if let Some(table) = catalog.table(table) {
            let json = json.get(table.name());
            let mut model = model(catalog, table, label, *provenance, &found, json);
            for field in &mut model.fields {
                let column = &table.columns[field.column].name;
                if let Some(name) = declared.columns.get(&format!("{label}.{column}")) {
                    field.name.clone_from(name);
                }
            }
            map.models.push(model);
        }
    }
    let fields = declared.pairs.iter();
    let fields: HashMap<&str, &str> = fields
        .filter_map(|(field, table)| Some((table.as_str(), field.rsplit_once('.')?.1)))
        .collect();
    for table in through {
        match pairs(table, &found, fields.get(table.name()).copied()) {
            Ok(pairs) => map.through.push(pairs),
            Err(reason) => {
                map.unmapped.insert(table.name().to_owned(), reason);
            }
        }
    }
    map
}

/// The tables with names as long as Django's shortened form, by what that keeps of a name.
fn shortened(catalog: &Catalog) -> HashMap<&str, Vec<&str>> {
    let mut short: HashMap<&str, Vec<&str>> = HashMap::new();
    for name in catalog.tables.iter().map(Table::name).filter(|name| name.len() == LONGEST_NAME) {
        if let Some(stem) = name.get(..LONGEST_NAME - 4) {
            short.entry(stem).or_default().push(name);
        }
    }
    short
}

/// The one table whose long name begins as the shortened form of this name does.
fn of_shortened(short: &HashMap<&str, Vec<&str>>, full: &str) -> Option<String> {
    let stem = full.get(..LONGEST_NAME - 4).filter(|_| full.len() > LONGEST_NAME)?;
    match short.get(stem)?.as_slice() {
        [only] => Some((*only).to_owned()),
        _ => None,
    }
}

/// Whether a table is what Django makes for a many-to-many field: a number, two references, and
/// each pair once.
fn is_pairs(table: &Table) -> bool {
    let references: Vec<&str> = table
        .columns
        .iter()
        .map(|column| column.name.as_str())
        .filter(|name| table.foreign_key(name).is_some())
        .collect();
    let both = |unique: &Vec<String>| {
        unique.len() == 2
            && references.iter().all(|name| unique.iter().any(|column| column == name))
    };
    table.columns.len() == 3
        && table.header.key.len() == 1
        && references.len() == 2
        && !references.contains(&table.header.key[0].as_str())
        && table.header.unique.iter().any(both)
}

/// The many-to-many field whose pairs a table holds, which a migration may have named.
fn pairs(
    table: &Table,
    found: &BTreeMap<String, (String, Provenance)>,
    named: Option<&str>,
) -> Result<Through, String> {
    let mut sides = table.columns.iter().enumerate().filter_map(|(index, column)| {
        table.foreign_key(&column.name).map(|key| (index, key.ref_table.as_str()))
    });
    let (Some((source_column, owner)), Some((target_column, target))) =
        (sides.next(), sides.next())
    else {
        return Err("it has not two references".to_owned());
    };
    let label = |table: &str| {
        found
            .get(table)
            .map(|(label, _)| label.clone())
            .ok_or_else(|| format!("it refers to {table}, whose model is not known"))
    };
    let by_name = table.name().strip_prefix(&format!("{owner}_"));
    let field = named.or(by_name).ok_or_else(|| {
        format!("its name does not begin with {owner}_, so its field is not known")
    })?;
    Ok(Through {
        owner: label(owner)?,
        target: label(target)?,
        field: field.to_owned(),
        table: table.name().to_owned(),
        id: table.column(&table.header.key[0]),
        source_column,
        target_column,
    })
}

/// Gives a model a table where each is the only one that is like the other.
fn like_names(
    free: &[&Table],
    labels: &BTreeSet<String>,
    found: &mut BTreeMap<String, (String, Provenance)>,
) {
    let forms = |label: &str| {
        let (app, model) = label.split_once('.').unwrap_or(("", label));
        BTreeSet::from([singular(model), singular(&format!("{app}{model}"))])
    };
    let mut tables: HashMap<String, Vec<&str>> = HashMap::new();
    for table in free {
        tables.entry(singular(table.name())).or_default().push(table.name());
    }
    let mut models: HashMap<String, usize> = HashMap::new();
    for form in labels.iter().flat_map(|label| forms(label)) {
        *models.entry(form).or_default() += 1;
    }
    for label in labels {
        let forms = forms(label);
        let mut alike = forms.iter().filter_map(|form| Some((form, tables.get(form)?)));
        let (Some((form, alike)), None) = (alike.next(), alike.next()) else { continue };
        if let ([only], Some(1)) = (alike.as_slice(), models.get(form)) {
            found.insert((*only).to_owned(), (label.clone(), Provenance::LikeName));
        }
    }
}

/// A name without underscores and without its plural.
fn singular(name: &str) -> String {
    let plain = name.replace('_', "").to_lowercase();
    if let Some(stem) = plain.strip_suffix("ies") {
        return format!("{stem}y");
    }
    for ending in ["sses", "xes", "ches"] {
        if plain.ends_with(ending) {
            return plain[..plain.len() - 2].to_owned();
        }
    }
    match plain.strip_suffix('s') {
        Some(stem) if !stem.ends_with('s') => stem.to_owned(),
        _ => plain,
    }
}

fn model(
    catalog: &Catalog,
    table: &Table,
    label: &str,
    provenance: Provenance,
    found: &BTreeMap<String, (String, Provenance)>,
    json: Option<&HashSet<&str>>,
) -> Model {
    let holds_json = |column: &str| json.is_some_and(|columns| columns.contains(column));
    let row_number = table.row_number();
    let own = table.columns.iter().enumerate().filter(|(index, _)| Some(*index) != row_number);
    let fields = own.map(|(index, column)| {
        let key = table.foreign_key(&column.name);
        let name = match key {
            Some(_) => column.name.strip_suffix("_id").unwrap_or(&column.name),
            None => &column.name,
        };
        let shape = match catalog.engine() {
            Engine::Postgresql => Shape::of_postgres(&column.declared_type),
            Engine::Sqlite if holds_json(&column.name) => Shape::Json,
            Engine::Sqlite => Shape::of_sqlite(&column.declared_type, None),
        };
        let target = key.and_then(|key| {
            let (label, _) = found.get(&key.ref_table)?;
            let column = key.ref_columns.first().cloned().unwrap_or_default();
            Some(Reference { label: label.clone(), column, enforced: true })
        });
        Field { name: name.to_owned(), column: index, shape, target, file: false, custom: false }
    });
    Model {
        label: label.to_owned(),
        table: table.name().to_owned(),
        provenance,
        pk: table.header.key.iter().filter_map(|name| table.column(name)).collect(),
        fields: fields.collect(),
        computed: Vec::new(),
    }
}
