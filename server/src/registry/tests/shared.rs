//! What only a database on a server has: another server, and a connection that breaks.

use std::time::Duration;

use crate::registry::{
    Act, Registry, RegistryError, database,
    testing::{FleetOn, Postgres},
};

type Fleet = FleetOn<Postgres>;

/// Ends the connection that writes, as a fault of the network would.
async fn cut(fleet: &Fleet) {
    let mut connection = database::connect(&fleet.place()).await.unwrap();
    let (ended,): (i64,) = sqlx::query_as(
        "SELECT count(*) FROM (SELECT pg_terminate_backend(l.pid) FROM pg_locks l
         WHERE l.locktype = 'advisory' AND l.objsubid = 2) ended",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(ended, 1);
}

#[tokio::test]
async fn one_server_writes_a_registry_and_the_next_takes_it_when_it_ends() {
    let fleet = Fleet::with(1).await;
    let refused = Registry::open_at(fleet.dir.path(), &fleet.place()).await;
    let Err(RegistryError::Held(why)) = refused else { panic!("two write one registry") };
    assert!(why.contains("process"), "{why}");
    fleet.act(0, Act::Suspend).await.unwrap();
    let fleet = fleet.reopened().await;
    fleet.act(0, Act::Resume).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_broke_is_made_anew_and_the_verdicts_are_read_back() {
    let fleet = Fleet::with(2).await;
    fleet.act(0, Act::Suspend).await.unwrap();
    cut(&fleet).await;
    // At most the one that met the break is refused; nothing is lost and nothing is half done.
    let mut refused = 0;
    while let Err(error) = fleet.act(1, Act::Suspend).await {
        refused += 1;
        assert!(refused < 3, "{error}");
    }
    let report = fleet.registry.audit_verify(None).await.unwrap();
    assert_eq!(report.broken, None);
}

#[tokio::test]
async fn a_server_that_was_replaced_while_it_was_cut_off_writes_no_more() {
    let fleet = Fleet::with(1).await;
    // Nobody of this server looks at the connection until the other one is there.
    let writer = fleet.registry.inner.database.writer().await.unwrap();
    cut(&fleet).await;
    let other = Registry::open_at(fleet.dir.path(), &fleet.place()).await.unwrap();
    drop(writer);
    let lost = tokio::time::timeout(Duration::from_secs(60), fleet.registry.lost());
    lost.await.expect("it finds out by itself");
    let refused = fleet.act(0, Act::Suspend).await.unwrap_err();
    assert!(matches!(refused, RegistryError::Held(_)), "{refused}");
    other.close().await;
    // Nor when the other has gone: what was decided meanwhile is not known here.
    let refused = fleet.act(0, Act::Suspend).await.unwrap_err();
    assert!(matches!(refused, RegistryError::Held(_)), "{refused}");
}
