//! Trouble of the server's own: what it could not store it does not acknowledge, and it recovers (3.1.1 §4.8).

use sqlx::Connection as _;

use crate::{
    broker::Broker,
    packets::{Publish, V3},
    site::PATIENCE,
};

async fn a_transient_error_closes(broker: &mut Broker, version: u8) {
    let mut listener = broker.client(version, "listener").await;
    listener.subscribe("t", 1).await;
    let mut client = broker.client(version, "a").await;
    client.say("t", "before").await;
    // Somebody else holds the log's file for longer than the writer waits.
    let file = broker.site().dir.path().join(muster_server::uplink::FILE);
    let mut lock = sqlx::SqliteConnection::connect(&format!("sqlite://{}", file.display())).await.unwrap();
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut lock).await.unwrap();
    client.send(Publish::new("t", "lost").qos(1).id(9).bytes(version)).await;
    assert_eq!(client.closed().await, None, "no PUBACK, and no word for it in 3.1.1");
    sqlx::query("ROLLBACK").execute(&mut lock).await.unwrap();
    lock.close().await.unwrap();
    // As soon as it can, it takes messages again. The file is opened anew first.
    let again = async {
        loop {
            let mut client = broker.client(version, "a").await;
            client.send(Publish::new("t", "after").qos(1).id(9).bytes(version)).await;
            if client.packet().await.is_some() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("it recovers");
    assert_eq!(listener.heard().await, ["before", "after"]);
}

statements! {
    mqtt3_4_8_0_2 => a_transient_error_closes(V3);
}
