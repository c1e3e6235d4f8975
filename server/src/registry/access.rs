//! Who is let in: operators, and what they come with, which are links, sessions of the web page, certificates and
//! tokens.

use muster_shared::CertificateId;

use super::{
    Actor, Arrival, FailedLogin, NewToken, OperatorRow, Registry, Role, Scope, error::RegistryError, login,
    now_ms, operator, token,
};

impl Registry {
    /// Adds an operator; one who was removed comes back without what they had. Answers the name in full.
    ///
    /// # Errors
    /// [`RegistryError`]; M503 for more than the actor has, M524 for a name that is taken.
    pub async fn add_operator(&self, actor: &Actor, name: &str, role: Role) -> Result<String, RegistryError> {
        let (actor, name) = (actor.clone(), name.to_owned());
        self.run(|inner| async move { operator::add(&inner, &actor, &name, role).await }).await
    }

    /// Changes the most an operator may do; what they came with is limited by it at once. `seen` is the version of
    /// them that was seen, where one was.
    ///
    /// # Errors
    /// [`RegistryError`]; M520 for nobody, M503 for more than the actor has, M524 for the last admin, M532 when they
    /// have changed since they were seen.
    pub async fn set_operator_role(
        &self,
        actor: &Actor,
        name: &str,
        (role, seen): (Role, Option<u64>),
        reason: &str,
    ) -> Result<String, RegistryError> {
        let (actor, name, reason) = (actor.clone(), name.to_owned(), reason.to_owned());
        self.run(
            |inner| async move { operator::set_role(&inner, &actor, &name, (role, seen), &reason).await },
        )
        .await
    }

    /// Removes an operator with their tokens, sessions and links.
    ///
    /// # Errors
    /// [`RegistryError`]; M520 for nobody, M503 for one above the actor, M524 for the last admin.
    pub async fn remove_operator(
        &self,
        actor: &Actor,
        (name, seen): (&str, Option<u64>),
        reason: &str,
    ) -> Result<String, RegistryError> {
        let (actor, name, reason) = (actor.clone(), name.to_owned(), reason.to_owned());
        self.run(|inner| async move { operator::remove(&inner, &actor, (&name, seen), &reason).await }).await
    }

    /// Every operator of a scope, removed ones too.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn operators(&self, scope: &Scope) -> Result<Vec<OperatorRow>, RegistryError> {
        operator::list(self.inner.database.readers(), scope).await
    }

    /// Makes a link that lets an operator in once, within [`login::LINK_MS`]; `role` makes an operator who
    /// is not there yet.
    ///
    /// # Errors
    /// [`RegistryError`]; M520 for nobody, M503 for one above the actor, M524 for another role than theirs.
    pub async fn invite(
        &self,
        actor: &Actor,
        name: &str,
        role: Option<Role>,
    ) -> Result<login::Link, RegistryError> {
        let (actor, name) = (actor.clone(), name.to_owned());
        self.run(|inner| async move { login::invite(&inner, &actor, &name, role).await }).await
    }

    /// The operator whom the first link is for; `None` once anybody has signed in.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn first_operator(&self) -> Result<Option<String>, RegistryError> {
        login::first(&self.inner).await
    }

    /// Whom a link is for; it still works afterwards.
    ///
    /// # Errors
    /// [`RegistryError`]; M521 for one that does not work.
    pub async fn look_at_link(&self, secret: &str) -> Result<String, RegistryError> {
        login::look(&self.inner, secret).await
    }

    /// Uses a link up for a session of the web page.
    ///
    /// # Errors
    /// [`RegistryError`]; M521 for one that does not work.
    pub async fn redeem_link(&self, secret: &str, at: &Arrival) -> Result<login::Session, RegistryError> {
        let (secret, at) = (secret.to_owned(), at.clone());
        let redeemed =
            self.run(|inner| async move { login::redeem(&inner, &secret, &at, false).await }).await?;
        match redeemed {
            login::Redeemed::Session(session) => Ok(session),
            login::Redeemed::Token(..) => Err(RegistryError::Damaged("a link became a token".to_owned())),
        }
    }

    /// Uses a link up for a token: itself, its role, and its end in Unix milliseconds.
    ///
    /// # Errors
    /// [`RegistryError`]; M521 for one that does not work.
    pub async fn redeem_link_for_token(
        &self,
        secret: &str,
        at: &Arrival,
    ) -> Result<(token::Token, Role, u64), RegistryError> {
        let (secret, at) = (secret.to_owned(), at.clone());
        let redeemed =
            self.run(|inner| async move { login::redeem(&inner, &secret, &at, true).await }).await?;
        match redeemed {
            login::Redeemed::Token(token, role, ends_at_ms) => Ok((token, role, ends_at_ms)),
            login::Redeemed::Session(_) => Err(RegistryError::Damaged("a link became a session".to_owned())),
        }
    }

    /// Opens a session of the web page with a token.
    ///
    /// # Errors
    /// [`RegistryError`]; M501 for a token nobody has, M502 for one that has ended.
    pub async fn sign_in(&self, token: &str, at: &Arrival) -> Result<login::Session, RegistryError> {
        let (token, at) = (token.to_owned(), at.clone());
        self.run(|inner| async move { login::sign_in(&inner, &token, &at).await }).await
    }

    /// Ends the session the actor speaks with; nothing for one who speaks with something else.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn sign_out(&self, actor: &Actor) -> Result<(), RegistryError> {
        let actor = actor.clone();
        self.run(|inner| async move { login::sign_out(&inner, &actor).await }).await
    }

    /// Who speaks with this session's secret.
    ///
    /// # Errors
    /// [`RegistryError`]; M525 for one that has ended.
    pub async fn check_session(&self, secret: &str) -> Result<Actor, RegistryError> {
        login::check(&self.inner, secret, now_ms()).await
    }

    /// Who speaks with a certificate of the operator CA, which TLS has verified.
    ///
    /// # Errors
    /// [`RegistryError`]; M520 when it names nobody.
    pub async fn check_operator_certificate(
        &self,
        name: &str,
        certificate: &CertificateId,
    ) -> Result<Actor, RegistryError> {
        login::check_certificate(&self.inner, name, certificate).await
    }

    /// Records failed sign-ins.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn record_failed_login(&self, at: &Arrival, failed: &FailedLogin) -> Result<(), RegistryError> {
        let (at, failed) = (at.clone(), failed.clone());
        self.run(|inner| async move { login::failed(&inner, &at, &failed).await }).await
    }

    /// Makes a token for an operator (who is made with it), shown once: only its digest is kept.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn create_token(&self, actor: &Actor, new: &NewToken) -> Result<token::Token, RegistryError> {
        let (actor, new) = (actor.clone(), new.clone());
        self.run(|inner| async move { token::create(&inner, &actor, &new).await }).await
    }

    /// Who speaks with this token.
    ///
    /// # Errors
    /// [`RegistryError`]; M501 for a token nobody has, M502 for one that has ended.
    pub async fn check_token(&self, token: &str) -> Result<Actor, RegistryError> {
        token::check(&self.inner, token, now_ms()).await
    }

    /// Ends a token now. One that has ended already stays ended.
    ///
    /// # Errors
    /// [`RegistryError`]; M501 for one there is not, M503 for one above the actor.
    pub async fn revoke_token(
        &self,
        actor: &Actor,
        token_id: &str,
        reason: &str,
    ) -> Result<(), RegistryError> {
        let (actor, token_id, reason) = (actor.clone(), token_id.to_owned(), reason.to_owned());
        self.run(|inner| async move { token::revoke(&inner, &actor, &token_id, &reason).await }).await
    }

    /// Every token of the operators of a scope, without what would let one use it.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn tokens(&self, scope: &Scope) -> Result<Vec<token::TokenRow>, RegistryError> {
        token::list(self.inner.database.readers(), scope).await
    }
}
