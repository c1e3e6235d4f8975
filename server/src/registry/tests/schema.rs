//! Both databases have the same tables, and a new registry is what every old one becomes.

use std::collections::{BTreeMap, BTreeSet};

use crate::registry::{
    database::{Kind, connect, schema},
    testing::{Backend, Fleet, FleetOn, Postgres, Sqlite},
};

/// Columns of each table, in no order, with whether a value must be there. The migrations' own table is
/// sqlx's.
type Tables = BTreeMap<String, BTreeSet<(String, bool)>>;

async fn tables<B: Backend>(fleet: &FleetOn<B>) -> Tables {
    let mut connection = connect(&fleet.place()).await.unwrap();
    let sql = B::either(
        "SELECT m.name, c.name, CAST(c.\"notnull\" OR c.pk > 0 AS INTEGER)
         FROM sqlite_master m JOIN pragma_table_info(m.name) c
         WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' AND m.name <> '_sqlx_migrations'",
        "SELECT CAST(table_name AS TEXT), CAST(column_name AS TEXT),
                CAST(CASE WHEN is_nullable = 'NO' THEN 1 ELSE 0 END AS BIGINT)
         FROM information_schema.columns
         WHERE table_schema = current_schema() AND table_name <> '_sqlx_migrations'
         AND is_generated = 'NEVER'",
    );
    let rows: Vec<(String, String, i64)> = sqlx::query_as(sql).fetch_all(&mut connection).await.unwrap();
    let mut tables = Tables::new();
    for (table, column, wanted) in rows {
        tables.entry(table).or_default().insert((column, wanted == 1));
    }
    tables
}

/// Indices by name, and on which table.
async fn indices<B: Backend>(fleet: &FleetOn<B>) -> BTreeSet<(String, String)> {
    let mut connection = connect(&fleet.place()).await.unwrap();
    let sql = B::either(
        "SELECT tbl_name, name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL",
        "SELECT CAST(tablename AS TEXT), CAST(indexname AS TEXT) FROM pg_indexes
         WHERE schemaname = current_schema()
         AND NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conname = indexname)",
    );
    sqlx::query_as(sql).fetch_all(&mut connection).await.unwrap().into_iter().collect()
}

/// What a registry of the first program has become, step by step, as one server after the other opens it.
async fn grown<B: Backend>() -> Tables {
    let fleet = FleetOn::<B>::nothing().await;
    fleet.registry.close().await;
    let mut connection = connect(&fleet.place()).await.unwrap();
    let tables_now = tables(&fleet).await;
    for table in tables_now.keys().chain([&"_sqlx_migrations".to_owned()]) {
        let drop = format!("DROP TABLE {table}{}", B::either("", " CASCADE"));
        let off = B::either("PRAGMA foreign_keys = OFF; ", "");
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("{off}{drop}"))).execute(&mut connection).await.unwrap();
    }
    let kind = B::either(Kind::Sqlite, Kind::Postgres);
    for steps in 1..=schema::PAIRS.len() {
        schema::migrate_to(&mut connection, kind, steps).await.unwrap();
    }
    tables(&fleet).await
}

#[tokio::test]
async fn both_databases_have_the_same_tables_columns_and_indices() {
    let (sqlite, postgres) = (FleetOn::<Sqlite>::nothing().await, FleetOn::<Postgres>::nothing().await);
    let (ours, theirs) = (tables(&sqlite).await, tables(&postgres).await);
    assert!(ours.len() > 10, "{ours:?}");
    assert_eq!(ours, theirs);
    assert_eq!(indices(&sqlite).await, indices(&postgres).await);
}

#[tokio::test]
async fn a_registry_upgraded_step_by_step_is_a_new_one() {
    assert_eq!(grown::<Sqlite>().await, tables(&Fleet::nothing().await).await);
    assert_eq!(grown::<Postgres>().await, tables(&FleetOn::<Postgres>::nothing().await).await);
}

#[tokio::test]
async fn a_registry_that_a_newer_program_has_upgraded_is_refused() {
    let mut connection;
    let fleet = Fleet::nothing().await;
    fleet.registry.close().await;
    connection = connect(&fleet.place()).await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'newer', true, zeroblob(48), 0)",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let opened = crate::registry::Registry::open(fleet.dir.path()).await;
    assert!(opened.is_err_and(|error| format!("{error:?}").contains("9999")));
}

#[test]
fn numbers_of_migrations_grow_and_are_their_files_own() {
    let numbers: Vec<_> = schema::PAIRS.iter().map(|pair| pair.0).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    for (number, file, ..) in schema::PAIRS {
        assert!(file.starts_with(&format!("{number:04}_")), "{file}");
    }
}
