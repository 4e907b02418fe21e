use serde_json::json;

use super::Provenance::{ContentType, LikeName};
use super::*;
use crate::export::contents::Contents as _;
use crate::export::testing::{Sample, edms};
use crate::source::Kind;

fn catalog(sample: &Sample) -> Catalog {
    let source = edms().facts.of_kind(Kind::Database).next().unwrap().clone();
    Catalog::read(&source.header, sample.tables("main").unwrap()).unwrap()
}

fn derive(sample: &Sample, types: &[(&str, &str)]) -> ModelMap {
    let types: Vec<_> = types.iter().map(|(a, m)| ((*a).to_owned(), (*m).to_owned())).collect();
    ModelMap::resolve(&catalog(sample), None, &types).unwrap()
}

#[test]
fn djangos_own_names_and_unmistakable_likeness_are_found() {
    let map = derive(
        &edms(),
        &[
            ("contenttypes", "contenttype"),
            ("auth", "permission"),
            ("auth", "group"),
            ("accounts", "user"),
            ("documents", "document"),
            ("documents", "state"),
            ("sessions", "session"),
            ("documents", "contract"),
            ("documents", "secretdocument"),
        ],
    );
    let found: Vec<_> =
        map.models.iter().map(|m| (m.label.as_str(), m.table.as_str(), m.provenance)).collect();
    assert_eq!(
        found,
        [
            (CONTENT_TYPE, "django_content_type", ContentType),
            (PERMISSION, "auth_permission", ContentType),
            ("auth.group", "auth_group", ContentType),
            ("accounts.user", "users", LikeName),
            ("documents.state", "documents_state", ContentType),
            ("documents.document", "documents_document", ContentType),
            ("documents.contract", "documents_contract", ContentType),
            (SESSION, "django_session", ContentType),
        ]
    );
    let pairs: Vec<_> = map
        .through
        .iter()
        .map(|t| (t.owner.as_str(), t.field.as_str(), t.target.as_str()))
        .collect();
    assert_eq!(
        pairs,
        [("accounts.user", "groups", "auth.group"), ("auth.group", "permissions", PERMISSION)]
    );
    let unmapped: Vec<_> = map.unmapped.keys().map(String::as_str).collect();
    assert_eq!(unmapped, ["django_migrations", "measurements"]);
    let user = map.model("accounts.user").unwrap();
    let names: Vec<_> = user.fields.iter().map(|field| field.name.as_str()).collect();
    assert_eq!(names, ["id", "username", "manager", "is_active", "joined", "patronymic"]);
}

#[test]
fn a_likeness_to_two_is_none() {
    let mut sample = Sample::default();
    for table in ["app_roles", "role"] {
        sample.table(table, &[("id", "bigint")], &["id"], &[], &[]);
    }
    let map = derive(&sample, &[("app", "role"), ("other", "role")]);
    assert!(map.models.is_empty(), "{:?}", map.models);
    assert_eq!(map.unmapped.len(), 2);
}

#[test]
fn the_application_has_the_last_word() {
    let said = json!({"django": "5.2", "models": [
        {"label": "x.person", "table": "users", "pk": {"columns": ["id"]}, "many_to_many": [
            {"name": "circles", "table": "users_groups", "auto_created": true, "source_column": "user_id",
             "target_column": "group_id", "target": "auth.group"}],
         "fields": [
            {"name": "id", "column": "id", "internal_type": "BigAutoField", "target": null},
            {"name": "login", "column": "username", "internal_type": "CharField", "target": null},
            {"name": "photo", "column": "patronymic", "internal_type": "FileField", "target": null},
            {"name": "boss", "column": "manager_id", "internal_type": "ForeignKey",
             "target": {"model": "x.person", "column": "id", "db_constraint": false}}]},
        {"label": "x.gone", "table": "no_such_table", "pk": {"columns": ["id"]}, "fields": []},
        {"label": "x.stale", "table": "auth_group", "pk": {"columns": ["id"]}, "fields": [
            {"name": "id", "column": "id", "internal_type": "AutoField", "target": null},
            {"name": "new", "column": "not_yet", "internal_type": "TextField", "target": null}]},
    ]});
    let map = ModelMap::resolve(&catalog(&edms()), Some(&said.to_string()), &[]).unwrap();
    assert_eq!(map.models.len(), 1);
    let person = &map.models[0];
    assert_eq!(
        (person.provenance, person.fields[1].name.as_str()),
        (Provenance::Introspection, "login")
    );
    assert!(person.fields.iter().any(|field| field.file && field.name == "photo"));
    assert!(person.fields.iter().any(|field| field.target.as_ref().is_some_and(|to| !to.enforced)));
    assert_eq!(map.through[0].field, "circles");
    assert!(map.unmapped["auth_group"].contains("`not_yet`"));
    assert!(map.unmapped["documents_document"].contains("no model"));
}

/// Only names that a content type and a table confirm are taken from migrations.
#[test]
fn migrations_name_tables_columns_and_pairs() {
    let mut sample = Sample::default();
    let id = ("id", "bigint");
    sample.table("people", &[id, ("login_name", "text")], &["id"], &[], &[]);
    sample.table("circles", &[id, ("name", "text")], &["id"], &[], &[]);
    let references = [("person_id", "people", "id"), ("group_id", "circles", "id")];
    let columns = [id, ("person_id", "bigint"), ("group_id", "bigint")];
    sample.table("memberships", &columns, &["id"], &references, &[]);
    let said = json!({"migrations": {
        "tables": {"x.person": "people", "x.group": "circles", "x.gone": "circles", "x.no": "none"},
        "columns": {"x.person.login_name": "login"},
        "pairs": {"x.person.circle_of": "memberships"}}});
    let types = [("x", "person"), ("x", "group")];
    let types: Vec<_> = types.iter().map(|(a, m)| ((*a).to_owned(), (*m).to_owned())).collect();
    let map = ModelMap::resolve(&catalog(&sample), Some(&said.to_string()), &types).unwrap();
    let found: Vec<_> = map.models.iter().map(|m| (m.label.as_str(), m.table.as_str())).collect();
    assert_eq!(found, [("x.group", "circles"), ("x.person", "people")]);
    assert!(map.models.iter().all(|model| model.provenance == Provenance::Migrations));
    let person = map.model("x.person").unwrap();
    assert_eq!(person.fields[1].name, "login");
    assert_eq!(map.through[0].field, "circle_of");
    assert!(map.unmapped.is_empty(), "{:?}", map.unmapped);
}

#[test]
fn what_is_referred_to_comes_first_even_in_a_circle() {
    let mut sample = Sample::default();
    sample.table(
        "a_x",
        &[("id", "bigint"), ("y_id", "bigint")],
        &["id"],
        &[("y_id", "a_y", "id")],
        &[],
    );
    sample.table(
        "a_y",
        &[("id", "bigint"), ("x_id", "bigint")],
        &["id"],
        &[("x_id", "a_x", "id")],
        &[],
    );
    sample.table(
        "a_b",
        &[("id", "bigint"), ("z_id", "bigint")],
        &["id"],
        &[("z_id", "a_z", "id")],
        &[],
    );
    sample.table("a_z", &[("id", "bigint")], &["id"], &[], &[]);
    let map = derive(&sample, &[("a", "x"), ("a", "y"), ("a", "b"), ("a", "z")]);
    let order: Vec<_> = map.models.iter().map(|model| model.label.as_str()).collect();
    assert_eq!(order, ["a.z", "a.b", "a.x", "a.y"]);
}

/// A package may tell of as many tables and models as fit into it. Comparing each with each would
/// take hours, which this test would then take.
#[test]
fn the_work_grows_as_the_tables_do_and_not_as_their_square() {
    const MANY: usize = 20_000;
    let mut sample = Sample::default();
    sample.table("a_b", &[("id", "bigint")], &["id"], &[], &[]);
    let (mut info, _) = sample.tables.remove("a_b").unwrap();
    for number in 0..MANY {
        let name = format!("t{number}_of_an_application");
        info.name.clone_from(&name);
        sample.tables.insert(name, (info.clone(), Vec::new()));
    }
    let types: Vec<_> = (0..MANY).map(|n| ("app".to_owned(), format!("model{n}"))).collect();
    let catalog = catalog(&sample);
    let map = ModelMap::resolve(&catalog, None, &types).unwrap();
    assert_eq!((map.models.len(), map.unmapped.len()), (0, MANY));
    // Every model refers to another one, in circles of two.
    let models = (0..MANY).map(|number| {
        json!({"label": format!("a.m{number}"), "table": format!("t{number}_of_an_application"),
            "pk": {"columns": ["id"]}, "fields": [
            {"name": "id", "column": "id", "internal_type": "AutoField",
             "target": {"model": format!("a.m{}", MANY - 1 - number), "column": "id"}}]})
    });
    let said = json!({"django": "5.2", "models": models.collect::<Vec<_>>()}).to_string();
    let map = ModelMap::resolve(&catalog, Some(&said), &[]).unwrap();
    assert_eq!(map.models.len(), MANY);
    let order = |label: &str| map.models.iter().position(|model| model.label == label);
    assert_eq!((order("a.m0"), order("a.m19999")), (Some(0), Some(1)));
}
