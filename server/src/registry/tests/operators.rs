use muster_shared::Code;

use super::Fleet;
use crate::registry::{Actor, NewToken, Role, Scope, now_ms, testing::ana};

fn token(operator: &str, ends_at_ms: Option<u64>) -> NewToken {
    NewToken::of(operator, Role::Operator, ends_at_ms)
}

#[tokio::test]
async fn a_token_speaks_for_its_operator_until_it_ends() {
    let fleet = Fleet::empty().await;
    let made = fleet.registry.create_token(&Actor::server(), &token("ana", None)).await.unwrap();
    let actor = fleet.registry.check_token(made.expose_secret()).await.unwrap();
    assert_eq!((actor.name.as_str(), actor.role), ("ana", Role::Operator));
    assert_eq!(actor.token_id.as_deref(), Some(made.id.as_str()));
    fleet.registry.facts().flush().await;
    let row = &fleet.registry.tokens(&Scope::Every).await.unwrap()[0];
    assert!(row.last_used_ms.is_some() && row.revoked_at_ms.is_none());

    fleet.registry.revoke_token(&Actor::server(), &made.id, "").await.unwrap();
    fleet.registry.revoke_token(&Actor::server(), &made.id, "").await.unwrap();
    let error = fleet.registry.check_token(made.expose_secret()).await.unwrap_err();
    assert_eq!(error.code(), Code::TokenEnded);
    let ended = fleet.registry.create_token(&Actor::server(), &token("ana", Some(now_ms()))).await.unwrap();
    let error = fleet.registry.check_token(ended.expose_secret()).await.unwrap_err();
    assert_eq!(error.code(), Code::TokenEnded);
    assert!(error.to_string().contains("token \"ana\" ended"), "{error}");
}

#[tokio::test]
async fn the_file_holds_only_the_digest_of_a_token() {
    let fleet = Fleet::empty().await;
    let made = fleet.registry.create_token(&Actor::server(), &token("ana", None)).await.unwrap();
    fleet.registry.close().await;
    let secret = made.expose_secret().strip_prefix("muster_").unwrap();
    assert!(secret.len() >= 43, "256 bits in base64");
    for entry in std::fs::read_dir(fleet.dir.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
    }
}

#[tokio::test]
async fn tokens_nobody_has_and_names_nobody_may_have_are_refused() {
    let fleet = Fleet::empty().await;
    let made = fleet.registry.create_token(&Actor::server(), &token("ana", None)).await.unwrap();
    let secret = made.expose_secret();
    let (mut longer, mut other) = (secret.to_owned(), secret.to_owned());
    longer.push('A');
    let flipped = if other.pop() == Some('A') { 'B' } else { 'A' };
    other.push(flipped);
    for guess in ["", "muster_", "ana", &longer, &other, &secret[..secret.len() - 1], &secret.to_uppercase()]
    {
        let error = fleet.registry.check_token(guess).await.unwrap_err();
        assert_eq!(error.code(), Code::NotSignedIn, "{guess:?}");
    }
    for name in ["", " ", "a b", "-a", "a\n", "ü", &"x".repeat(65)] {
        let Err(error) = fleet.registry.create_token(&Actor::server(), &token(name, None)).await else {
            panic!("{name:?} is no name")
        };
        assert_eq!(error.code(), Code::UsageWrong, "{name:?}");
    }
    let error = fleet.registry.revoke_token(&ana(), "t-none", "").await.unwrap_err();
    assert_eq!(error.code(), Code::NotSignedIn);
}
