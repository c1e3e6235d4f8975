//! Who asks, and whether their role covers it.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use muster_shared::Code;

use super::{Doors, error::Problem, time};
use crate::registry::{Actor, RegistryError, Role};

/// What a route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Look at anything.
    Look,
    /// Bring manifests in.
    Import,
    /// Decide about one device.
    Decide,
    /// Change whom the server trusts.
    Trust,
    /// Give and take access.
    Access,
}

impl Need {
    /// The one table of roles.
    pub(super) fn covered_by(self, role: Role) -> bool {
        match role {
            Role::Viewer | Role::Auditor => matches!(self, Self::Look),
            Role::Importer => matches!(self, Self::Look | Self::Import),
            Role::Operator => matches!(self, Self::Look | Self::Import | Self::Decide),
            Role::Security => !matches!(self, Self::Access),
            Role::Admin => true,
        }
    }

    /// The least role that covers it.
    fn least(self) -> Role {
        match self {
            Self::Look => Role::Viewer,
            Self::Import => Role::Importer,
            Self::Decide => Role::Operator,
            Self::Trust => Role::Security,
            Self::Access => Role::Admin,
        }
    }
}

/// An operator whose token was checked. Handlers take it as an argument, so a route without a caller has
/// no actor to decide with.
pub(super) struct Caller(Actor);

impl Caller {
    /// The actor, if the role covers `need`.
    ///
    /// # Errors
    /// M503.
    pub(super) fn may(&self, need: Need) -> Result<&Actor, Problem> {
        if need.covered_by(self.0.role) {
            return Ok(&self.0);
        }
        Err(Problem::new(Code::RoleMissing)
            .what(format!("{} may not do that as {}", self.0.name, self.0.role))
            .because(format!("it needs the role {} or a higher one", need.least())))
    }
}

impl FromRequestParts<Doors> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, doors: &Doors) -> Result<Self, Problem> {
        let token = bearer(&parts.headers)?;
        match doors.registry.check_token(token).await {
            Ok(actor) => Ok(Self(actor)),
            Err(RegistryError::TokenEnded { name, ended_at_ms }) => Err(Problem::new(Code::TokenEnded)
                .what(format!("token {name:?} ended at {}", time::from_ms(ended_at_ms)))),
            Err(other) => Err(other.into()),
        }
    }
}

/// The token of `Authorization: Bearer TOKEN` (RFC 6750 §2.1).
fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (all.next(), all.next()) else {
        return Err(Problem::new(Code::NotSignedIn).because("there is not exactly one Authorization header"));
    };
    let text = value.to_str().unwrap_or_default();
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() => Ok(token),
        _ => Err(Problem::new(Code::NotSignedIn).because("the Authorization header is not Bearer TOKEN")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_covers_what_the_table_says() {
        use Need::{Access, Decide, Import, Look, Trust};
        let all = [Look, Import, Decide, Trust, Access];
        let covers = |role| all.map(|need: Need| need.covered_by(role));
        assert_eq!(covers(Role::Viewer), [true, false, false, false, false]);
        assert_eq!(covers(Role::Auditor), [true, false, false, false, false]);
        assert_eq!(covers(Role::Importer), [true, true, false, false, false]);
        assert_eq!(covers(Role::Operator), [true, true, true, false, false]);
        assert_eq!(covers(Role::Security), [true, true, true, true, false]);
        assert_eq!(covers(Role::Admin), [true, true, true, true, true]);
        for need in all {
            assert!(need.covered_by(need.least()));
        }
    }

    #[test]
    fn only_one_well_formed_bearer_is_taken() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            bearer(&headers).map(str::to_owned).map_err(|problem| problem.code)
        };
        assert_eq!(of(&["Bearer abc"]), Ok("abc".to_owned()));
        assert_eq!(of(&["bearer abc"]), Ok("abc".to_owned()));
        for wrong in [&[][..], &["Bearer"], &["Bearer "], &["Basic abc"], &["Bearer a", "Bearer a"]] {
            assert_eq!(of(wrong), Err(Code::NotSignedIn), "{wrong:?}");
        }
    }
}
