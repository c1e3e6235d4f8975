//! Who acts: as what, and on whose devices.
//!
//! A [`Role`] says what somebody may do, a [`Scope`] to whose things. Both only ever shrink on the way from
//! an operator to a token to an act: nobody gives away more than they have.
//!
//! **Tenants never see each other.** Every read of the registry takes a [`Scope`] and answers as if nothing
//! outside of it existed; a thing of another tenant is not forbidden, it is unknown. What stays common to all
//! tenants is the order of decisions: numbers of the audit log and generations count across them.

use std::fmt;

use muster_shared::Tenant;

use super::{Target, error::RegistryError, session::words};

words!(
    /// What an operator may do; [`Role::covers`] is the table.
    Role, "role", {
        /// Looks.
        Viewer = "viewer",
        /// Looks, and takes the audit log out.
        Auditor = "auditor",
        /// Brings manifests in.
        Importer = "importer",
        /// Decides about devices.
        Operator = "operator",
        /// Decides about authorities, batches, retention and operators too.
        Security = "security",
        /// Everything, the server itself too.
        Admin = "admin",
    }
);

words!(
    /// What an act needs of a role.
    Need, "need", {
        /// Look at anything.
        Look = "look",
        /// Take the audit log out, and sign where it stands.
        Export = "export",
        /// Bring manifests in.
        Import = "import",
        /// Decide about devices.
        Decide = "decide",
        /// Decide about authorities and batches, about whom the server trusts and how long it keeps what.
        Trust = "trust",
        /// Give and take access.
        Access = "access",
        /// Back the server up, and change what every tenant shares.
        Own = "own",
    }
);

impl Role {
    /// The one table of roles.
    #[must_use]
    pub fn covers(self, need: Need) -> bool {
        use Need::{Decide, Export, Import, Look, Own};
        match self {
            Self::Viewer => matches!(need, Look),
            Self::Auditor => matches!(need, Look | Export),
            Self::Importer => matches!(need, Look | Import),
            Self::Operator => matches!(need, Look | Import | Decide),
            Self::Security => !matches!(need, Own),
            Self::Admin => true,
        }
    }

    /// Whether this role may do all that the other may.
    #[must_use]
    pub fn includes(self, other: Self) -> bool {
        Need::ALL.iter().all(|need| self.covers(*need) || !other.covers(*need))
    }

    /// The most that both allow: the larger role that each of the two includes.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let both = |role: &&Self| self.includes(**role) && other.includes(**role);
        // In the table's order a role is never before one that it includes.
        Self::ALL.iter().rev().find(both).copied().unwrap_or(Self::Viewer)
    }
}

impl Need {
    /// The least role that covers it.
    #[must_use]
    pub fn least(self) -> Role {
        Role::ALL.iter().copied().find(|role| role.covers(self)).unwrap_or(Role::Admin)
    }
}

/// Whose things somebody sees and acts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Every tenant's.
    Every,
    /// One tenant's; nothing else exists.
    One(Tenant),
}

impl Scope {
    /// The one tenant; `None` for every.
    #[must_use]
    pub fn tenant(&self) -> Option<&Tenant> {
        match self {
            Self::Every => None,
            Self::One(tenant) => Some(tenant),
        }
    }

    /// The tenant's text to bind in `($n = '' OR tenant = $n)`: empty for every tenant, which no tenant is
    /// called.
    #[must_use]
    pub fn to_sql(&self) -> &str {
        self.tenant().map_or("", Tenant::as_str)
    }

    /// Whether a tenant's things are within it.
    #[must_use]
    pub fn covers(&self, tenant: &Tenant) -> bool {
        self.tenant().is_none_or(|own| own == tenant)
    }

    /// Whether all of the other is within it.
    #[must_use]
    pub fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Every, _) => true,
            (Self::One(own), Self::One(other)) => own == other,
            (Self::One(_), Self::Every) => false,
        }
    }

    /// Its part that is the other's too; `None` when they have nothing in common.
    #[must_use]
    pub fn and(&self, other: &Self) -> Option<Self> {
        if self.includes(other) { Some(other.clone()) } else { other.includes(self).then(|| self.clone()) }
    }

    /// The device somebody of this scope means by `target`.
    ///
    /// # Errors
    /// M208 for a device of another tenant, as for one that is nowhere.
    pub fn narrow(&self, target: &Target) -> Result<Target, RegistryError> {
        match (self, &target.tenant) {
            (Self::One(own), Some(said)) if own != said => {
                Err(RegistryError::DeviceUnknown(target.to_string()))
            }
            (Self::One(own), _) => Ok(Target { tenant: Some(own.clone()), serial: target.serial.clone() }),
            (Self::Every, _) => Ok(target.clone()),
        }
    }
}

impl From<Option<Tenant>> for Scope {
    fn from(tenant: Option<Tenant>) -> Self {
        tenant.map_or(Self::Every, Self::One)
    }
}

impl fmt::Display for Scope {
    /// `acme`, or `every tenant`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.tenant().map_or("every tenant", Tenant::as_str))
    }
}

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The operator's name: `NAME`, or `TENANT/NAME` for one tenant's own.
    pub name: String,
    /// As what.
    pub role: Role,
    /// On whose things.
    pub scope: Scope,
    /// With which token (`t-…`), session of the web page (`s-…`) or certificate (`c-…`); `None` for the
    /// server itself and for who has the data directory.
    pub token_id: Option<String>,
    /// The request's id, as the server's log has it; empty without a request.
    pub request: String,
    /// From which address; empty without a request.
    pub address: String,
}

impl Actor {
    /// Somebody without a credential, on every tenant's things.
    #[must_use]
    pub fn named(name: &str, role: Role) -> Self {
        Self {
            name: name.to_owned(),
            role,
            scope: Scope::Every,
            token_id: None,
            request: String::new(),
            address: String::new(),
        }
    }

    /// The server itself.
    #[must_use]
    pub fn server() -> Self {
        Self::named("server", Role::Admin)
    }

    /// The same, on one tenant's things only.
    #[must_use]
    pub fn within(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// The one tenant they see; `None` for every.
    #[must_use]
    pub fn tenant(&self) -> Option<&Tenant> {
        self.scope.tenant()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_covers_what_the_table_says() {
        let covers = |role: Role| Need::ALL.iter().filter(|need| role.covers(**need)).count();
        assert_eq!(Role::ALL.iter().map(|role| covers(*role)).collect::<Vec<_>>(), [1, 2, 2, 3, 6, 7]);
        assert!(!Role::Viewer.covers(Need::Export) && !Role::Operator.covers(Need::Trust));
        assert!(Role::Security.covers(Need::Access) && !Role::Security.covers(Need::Own));
        for need in Need::ALL {
            assert!(Role::Admin.covers(*need) && need.least().covers(*need));
        }
    }

    #[test]
    fn what_two_roles_allow_is_no_more_than_either() {
        for one in Role::ALL {
            assert!(one.includes(*one) && Role::Admin.includes(*one) && one.includes(Role::Viewer));
            for other in Role::ALL {
                let both = one.and(*other);
                assert_eq!(both, other.and(*one));
                for need in Need::ALL {
                    assert_eq!(both.covers(*need), one.covers(*need) && other.covers(*need), "{one} {other}");
                }
            }
        }
    }

    #[test]
    fn a_scope_knows_no_other_tenant() {
        let [acme, zeta]: [Tenant; 2] = ["acme", "zeta"].map(|name| name.parse().unwrap());
        let own = Scope::One(acme.clone());
        assert!(own.covers(&acme) && !own.covers(&zeta) && Scope::Every.covers(&zeta));
        assert!(Scope::Every.includes(&own) && !own.includes(&Scope::Every));
        assert!(!own.includes(&Scope::One(zeta.clone())));
        assert_eq!(own.and(&Scope::Every), Some(own.clone()));
        assert_eq!(Scope::Every.and(&own), Some(own.clone()));
        assert_eq!(own.and(&Scope::One(zeta)), None);
        let of = |text: &str| own.narrow(&text.parse().unwrap()).map(|target| target.to_string());
        assert_eq!(of("MU-1").unwrap(), "acme/MU-1");
        assert_eq!(of("acme/MU-1").unwrap(), "acme/MU-1");
        assert!(matches!(of("zeta/MU-1"), Err(RegistryError::DeviceUnknown(name)) if name == "zeta/MU-1"));
        assert_eq!(Scope::Every.narrow(&"MU-1".parse().unwrap()).unwrap().to_string(), "MU-1");
    }
}
