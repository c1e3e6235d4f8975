//! Statements that are put together, with the placeholders both databases read. sqlx's own builder writes
//! them as `?` where the database is known only at run time, which PostgreSQL does not take.
//!
//! SQLite takes `$1` for a name, and looks names up one by one, for each value anew: a statement of thousands
//! of values spends most of its time there. One that has many is made for its connection
//! ([`QueryBuilder::on`]), and on SQLite has placeholders without names.

use std::fmt::{Display, Write as _};

use sqlx::{
    Any, Arguments as _, AssertSqlSafe, Encode, FromRow, Type,
    any::{AnyArguments, AnyRow},
    query::{Query, QueryAs},
};

use super::{Connection, Kind, kind_of};

/// A statement and its values, while they are put together. Text is the program's own; whatever comes from
/// outside is bound.
pub(crate) struct QueryBuilder {
    sql: String,
    arguments: AnyArguments,
    bound: usize,
    numbered: bool,
}

impl QueryBuilder {
    /// Begins with this text.
    pub(crate) fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), arguments: AnyArguments::default(), bound: 0, numbered: true }
    }

    /// The same for a statement of many values, which will run on this connection.
    pub(crate) fn on(connection: &Connection, sql: impl Into<String>) -> Self {
        Self { numbered: kind_of(connection) == Kind::Postgres, ..Self::new(sql) }
    }

    /// Adds text.
    pub(crate) fn push(&mut self, sql: impl Display) -> &mut Self {
        // Writing to a text does not fail.
        let _ = write!(self.sql, "{sql}");
        self
    }

    /// Adds a placeholder, and its value.
    pub(crate) fn push_bind<'t, T: Encode<'t, Any> + Type<Any>>(&mut self, value: T) -> &mut Self {
        self.bound += 1;
        self.arguments.add(value).expect("a value for either database is only copied");
        if !self.numbered {
            return self.push("?");
        }
        let bound = self.bound;
        self.push(format_args!("${bound}"))
    }

    /// Adds what follows with this between.
    pub(crate) fn separated(&mut self, separator: &'static str) -> Separated<'_> {
        Separated { query: self, separator, first: true }
    }

    /// Adds `VALUES (…), (…)`, a group of each item; nothing but the word of no items.
    pub(crate) fn push_values<I: IntoIterator>(
        &mut self,
        items: I,
        mut each: impl FnMut(Separated<'_>, I::Item),
    ) -> &mut Self {
        self.push("VALUES ");
        for (at, item) in items.into_iter().enumerate() {
            self.push(if at == 0 { "(" } else { ", (" });
            each(self.separated(", "), item);
            self.push(")");
        }
        self
    }

    /// The statement, to be run.
    pub(crate) fn build(&mut self) -> Query<'static, Any, AnyArguments> {
        let (sql, arguments) = self.take();
        sqlx::query_with(sql, arguments)
    }

    /// The same, for its rows.
    pub(crate) fn build_query_as<T>(&mut self) -> QueryAs<'static, Any, T, AnyArguments>
    where
        T: for<'r> FromRow<'r, AnyRow>,
    {
        let (sql, arguments) = self.take();
        sqlx::query_as_with(sql, arguments)
    }

    fn take(&mut self) -> (AssertSqlSafe<String>, AnyArguments) {
        self.bound = 0;
        (AssertSqlSafe(std::mem::take(&mut self.sql)), std::mem::take(&mut self.arguments))
    }
}

/// Adds to a statement with a separator between.
pub(crate) struct Separated<'q> {
    query: &'q mut QueryBuilder,
    separator: &'static str,
    first: bool,
}

impl Separated<'_> {
    /// Adds a placeholder, and its value.
    pub(crate) fn push_bind<'t, T: Encode<'t, Any> + Type<Any>>(&mut self, value: T) -> &mut Self {
        if !std::mem::take(&mut self.first) {
            self.query.push(self.separator);
        }
        self.query.push_bind(value);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_numbered_as_both_databases_read_them() {
        let mut query = QueryBuilder::new("INSERT INTO t (a, b) ");
        query.push_values([(1_i64, "x"), (2, "y")], |mut values, (a, b)| {
            values.push_bind(a).push_bind(b);
        });
        query.push(" ON CONFLICT (a) DO NOTHING; SELECT a FROM t WHERE a IN (");
        let mut list = query.separated(", ");
        list.push_bind(3_i64);
        list.push_bind(4_i64);
        query.push(") AND b = ").push_bind("z");
        assert_eq!(
            query.sql,
            "INSERT INTO t (a, b) VALUES ($1, $2), ($3, $4) ON CONFLICT (a) DO NOTHING; \
             SELECT a FROM t WHERE a IN ($5, $6) AND b = $7"
        );
        assert_eq!(query.arguments.len(), 7);
    }

    #[tokio::test]
    async fn many_values_have_no_names_in_sqlite() {
        sqlx::any::install_default_drivers();
        let mut connection = <Connection as sqlx::Connection>::connect("sqlite::memory:").await.unwrap();
        let mut query = QueryBuilder::on(&connection, "SELECT column1 + column2 FROM (");
        query.push_values([(1_i64, 20_i64), (2, 30)], |mut values, (a, b)| {
            values.push_bind(a).push_bind(b);
        });
        query.push(")");
        assert_eq!(query.sql, "SELECT column1 + column2 FROM (VALUES (?, ?), (?, ?))");
        let sums: Vec<(i64,)> = query.build_query_as().fetch_all(&mut connection).await.unwrap();
        assert_eq!(sums, [(21,), (32,)]);
    }
}
