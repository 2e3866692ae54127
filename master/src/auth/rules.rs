//! Who may make which call: the one table. A call without a line in it is refused where auth is on, and a test that
//! walks all calls of the .proto files fails.

use dfs_proto::token::Role::{self, Admin, Keeper, Ro, Rw};

/// Of one call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// Whoever has one of these roles.
    Roles(&'static [Role]),
    /// Anybody, without a token.
    Everybody,
}

/// Whoever may mount.
pub const MOUNTS: &[Role] = &[Admin, Rw, Ro];
/// People; keepers are none.
const USERS: Rule = Rule::Roles(&[Admin, Rw, Ro]);
const ADMINS: Rule = Rule::Roles(&[Admin]);

/// By the path of the call.
pub const RULES: &[(&str, Rule)] = &[
    ("/dfs.v1.MountService/Session", Rule::Roles(MOUNTS)),
    ("/dfs.v1.KeeperService/Session", Rule::Roles(&[Keeper])),
    ("/dfs.v1.AdminService/Status", USERS),
    ("/dfs.v1.AdminService/Keepers", USERS),
    ("/dfs.v1.AdminService/LookupTable", USERS),
    ("/dfs.v1.AdminService/Quotas", USERS),
    ("/dfs.v1.AdminService/SetQuota", ADMINS),
    ("/dfs.v1.AdminService/ClearQuota", ADMINS),
    // It has the hashes of passwords in it.
    ("/dfs.v1.AdminService/Backup", ADMINS),
    ("/dfs.v1.AdminService/Drain", ADMINS),
    ("/dfs.v1.AdminService/Maintenance", ADMINS),
    ("/dfs.v1.AdminService/Forget", ADMINS),
    ("/dfs.v1.AdminService/Rebalance", ADMINS),
    ("/dfs.v1.AdminService/Scrub", ADMINS),
    ("/dfs.v1.AdminService/Fsck", ADMINS),
    ("/dfs.v1.AdminService/FsckReport", USERS),
    ("/dfs.v1.AdminService/Trash", USERS),
    // The trash has everybody's files, and restoring asks nobody's modes.
    ("/dfs.v1.AdminService/RestoreTrash", ADMINS),
    ("/dfs.v1.AdminService/PurgeTrash", ADMINS),
    ("/dfs.v1.AuthService/Login", Rule::Everybody),
    ("/dfs.v1.AuthService/Renew", USERS),
    // One's own; for anybody else's, the service asks for an admin.
    ("/dfs.v1.AuthService/SetPassword", USERS),
    ("/dfs.v1.AuthService/AddUser", ADMINS),
    ("/dfs.v1.AuthService/RemoveUser", ADMINS),
    ("/dfs.v1.AuthService/ListUsers", ADMINS),
    ("/dfs.v1.AuthService/Grant", ADMINS),
    ("/dfs.v1.AuthService/Revoke", ADMINS),
    ("/dfs.v1.AuthService/KeeperToken", ADMINS),
];

/// The rule of a call. `None`: there is none.
pub fn of(method: &str) -> Option<Rule> {
    RULES.iter().find(|(path, _)| *path == method).map(|(_, rule)| *rule)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Whoever adds a call decides here who may make it.
    #[test]
    fn every_call_has_one_rule_and_every_rule_a_call() {
        let calls: BTreeSet<&str> = dfs_proto::METHODS.iter().copied().collect();
        let rules: BTreeSet<&str> = RULES.iter().map(|(path, _)| *path).collect();
        assert_eq!(calls, rules);
        assert_eq!(RULES.len(), rules.len(), "some call has two rules");
        assert!(calls.len() > 20, "{calls:?}");
    }

    #[test]
    fn only_the_login_is_for_everybody_and_admins_may_all_that_people_may() {
        for (path, rule) in RULES {
            match rule {
                Rule::Everybody => assert_eq!(*path, "/dfs.v1.AuthService/Login"),
                Rule::Roles(roles) => {
                    assert!(roles.contains(&Admin) != roles.contains(&Keeper), "{path}");
                }
            }
        }
    }
}
