//! Which Django model lies in which table. A catalogue alone cannot tell (applications name
//! their tables as they like), so the map comes from the best witness there is, and says per
//! model which one that was:
//!
//! 1. what the application itself said through `introspect.py`;
//! 2. what its migrations declare, where it could not be asked;
//! 3. the rows of `django_content_type` and Django's rules for naming tables;
//! 4. a likeness of names, where exactly one table and one model are alike.
//!
//! A table that no witness maps is named and exported raw, never dropped.

mod catalogue;
mod introspection;
mod migrations;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

pub use migrations::Declared;

use super::catalog::Catalog;
use super::fixture::Shape;
use crate::hint::Failure;

/// The script that makes an application tell its models; for the standard input of `manage.py
/// shell`.
pub const INTROSPECTION_SCRIPT: &str = include_str!("../introspect.py");

/// What stands in place of what an application says, where it could not be asked.
#[derive(Debug, Serialize, serde::Deserialize)]
pub struct ReadNotRun {
    /// What its migrations declare.
    pub migrations: Declared,
}

/// How a model was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provenance {
    /// The application said so.
    Introspection,
    /// Its content type, and the table that a migration names.
    Migrations,
    /// Its content type, and Django's name for the table.
    ContentType,
    /// Its content type, and the only table with a like name.
    LikeName,
}

/// The models of a database, and the tables they lie in.
#[derive(Debug, Clone, Default)]
pub struct ModelMap {
    /// The models that have a table, in the order in which a fixture lists them.
    pub models: Vec<Model>,
    /// The tables of many-to-many fields that have no model of their own.
    pub through: Vec<Through>,
    /// Tables without a model, and why.
    pub unmapped: BTreeMap<String, String>,
    /// The version of Django, where it is known.
    pub django: Option<String>,
    /// The version of Python, where it is known.
    pub python: Option<String>,
    /// The label of the model of users, where the application said it.
    pub users: Option<String>,
    by_label: HashMap<String, usize>,
    by_table: HashMap<String, usize>,
}

/// One model.
#[derive(Debug, Clone)]
pub struct Model {
    /// `app.model`.
    pub label: String,
    /// Its table.
    pub table: String,
    /// How it was found.
    pub provenance: Provenance,
    /// The columns of its primary key.
    pub pk: Vec<usize>,
    /// What its records' fields are, in the order of the columns.
    pub fields: Vec<Field>,
    /// Fields that the database computes: fixtures may have them, rows do not.
    pub computed: Vec<String>,
}

/// One field of a model.
#[derive(Debug, Clone)]
pub struct Field {
    /// Its name in a fixture.
    pub name: String,
    /// Its column.
    pub column: usize,
    /// What the column holds.
    pub shape: Shape,
    /// What it refers to.
    pub target: Option<Reference>,
    /// Whether it names an uploaded file.
    pub file: bool,
    /// Whether the application writes it to fixtures in a way of its own.
    pub custom: bool,
}

/// What a foreign key refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The model.
    pub label: String,
    /// The column of its table.
    pub column: String,
    /// Whether the database sees to it that the record exists.
    pub enforced: bool,
}

/// A many-to-many field whose pairs lie in a table without a model.
#[derive(Debug, Clone)]
pub struct Through {
    /// The table.
    pub table: String,
    /// The model that has the field.
    pub owner: String,
    /// The field's name.
    pub field: String,
    /// The model on the other side.
    pub target: String,
    /// The column with the pair's own number.
    pub id: Option<usize>,
    /// The column that refers to the owner.
    pub source_column: usize,
    /// The column that refers to the other side.
    pub target_column: usize,
}

/// Content types: by natural key, because their numbers differ between installations.
pub const CONTENT_TYPE: &str = "contenttypes.contenttype";
/// Permissions: by natural key too.
pub const PERMISSION: &str = "auth.permission";
/// Sessions: who holds one is logged in, so they stay at home.
pub const SESSION: &str = "sessions.session";

impl Model {
    /// The column of a key that is one number of the record's own, which can be given anew.
    pub fn number(&self) -> Option<usize> {
        let [only] = self.pk.as_slice() else { return None };
        let field = self.fields.iter().find(|field| field.column == *only)?;
        (field.shape == Shape::Integer && field.target.is_none()).then_some(*only)
    }
}

impl ModelMap {
    /// The map of a database from its captured introspection, if any, and the `(app_label,
    /// model)` of its content types.
    pub fn resolve(
        catalog: &Catalog,
        introspection: Option<&str>,
        content_types: &[(String, String)],
    ) -> Result<Self, Failure> {
        let mut map = match introspection {
            Some(json) => match serde_json::from_str(json) {
                Ok(ReadNotRun { migrations }) => {
                    catalogue::derive(catalog, content_types, &migrations)
                }
                Err(_) => introspection::read(catalog, json)?,
            },
            None => catalogue::derive(catalog, content_types, &Declared::default()),
        };
        map.through.sort_by(|a, b| (&a.owner, &a.field).cmp(&(&b.owner, &b.field)));
        map.order();
        for (index, model) in map.models.iter().enumerate() {
            map.by_label.entry(model.label.clone()).or_insert(index);
            map.by_table.entry(model.table.clone()).or_insert(index);
        }
        let mapped: BTreeSet<&str> = map
            .models
            .iter()
            .map(|model| model.table.as_str())
            .chain(map.through.iter().map(|through| through.table.as_str()))
            .collect();
        for table in &catalog.tables {
            if !mapped.contains(table.name()) {
                map.unmapped
                    .entry(table.name().to_owned())
                    .or_insert_with(|| "no model of the application is known for it".to_owned());
            }
        }
        Ok(map)
    }

    /// The label of the model of users.
    pub fn users(&self) -> &str {
        self.users.as_deref().unwrap_or("auth.user")
    }

    /// The model with this label.
    pub fn model(&self, label: &str) -> Option<&Model> {
        self.by_label.get(label).map(|index| &self.models[*index])
    }

    /// The model that lies in this table.
    pub fn model_of_table(&self, table: &str) -> Option<&Model> {
        self.by_table.get(table).map(|index| &self.models[*index])
    }

    /// The many-to-many fields of a model.
    pub fn many<'a>(&'a self, owner: &'a str) -> impl Iterator<Item = &'a Through> + 'a {
        let first = self.through.partition_point(|through| through.owner.as_str() < owner);
        self.through[first..].iter().take_while(move |through| through.owner == owner)
    }

    /// What is referred to comes before what refers, and else the labels decide; where models
    /// refer to each other in a circle, the smallest label begins.
    fn order(&mut self) {
        let labels: BTreeSet<&str> = self.models.iter().map(|model| model.label.as_str()).collect();
        // What each model waits for, and what waits for it.
        let mut waiting: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let mut dependents: HashMap<&str, Vec<&str>> = HashMap::new();
        for model in &self.models {
            let label = model.label.as_str();
            let fields = model.fields.iter().filter_map(|field| field.target.as_ref());
            let fields = fields.map(|target| target.label.as_str());
            let many = self.many(label).map(|through| through.target.as_str());
            let needs = waiting.entry(label).or_default();
            for needed in fields.chain(many) {
                if needed != label && labels.contains(needed) && needs.insert(needed) {
                    dependents.entry(needed).or_default().push(label);
                }
            }
        }
        let free = waiting.iter().filter(|(_, needs)| needs.is_empty());
        let mut free: BTreeSet<&str> = free.map(|(label, _)| *label).collect();
        let mut place: HashMap<String, usize> = HashMap::new();
        let mut first = [PERMISSION, CONTENT_TYPE].to_vec();
        while let Some(label) = first
            .pop()
            .or_else(|| free.pop_first())
            .or_else(|| waiting.first_key_value().map(|(label, _)| *label))
        {
            if waiting.remove(label).is_none() {
                continue;
            }
            free.remove(label);
            place.insert(label.to_owned(), place.len());
            for dependent in dependents.remove(label).into_iter().flatten() {
                if let Some(needs) = waiting.get_mut(dependent) {
                    needs.remove(label);
                    if needs.is_empty() {
                        free.insert(dependent);
                    }
                }
            }
        }
        self.models.sort_by_key(|model| place.get(&model.label).copied());
    }
}

#[cfg(test)]
mod tests;
