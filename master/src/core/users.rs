//! Who may log in, and what each may do. Passwords come here as hashes; what tokens and passwords are good for is
//! decided in `auth`.
//!
//! What must hold: as long as there is a user at all, there is one with the role admin who is not disabled and has a
//! password, so that nobody locks everybody out.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::InodeNo;
use dfs_proto::token::{Role, Roles};

use super::State;
use super::id_map::IdMap;
use super::out::{Out, Res, fail};
use super::row::{RowKey, UserName, UserRow};

/// The longest name of a user, in bytes.
pub const MAX_USER_NAME: usize = 64;
/// The most users that there may be.
const MAX_USERS: usize = 10_000;

/// What is to become of a user.
#[derive(Clone, Debug)]
pub enum UserChange {
    /// There is to be a new one.
    Add {
        /// All but the directory.
        row: UserRow,
        /// The path of the directory that the user is bound to; empty: none.
        dir: Bytes,
    },
    /// The new one is there, or one who is as good: has the role keeper alone, and no password.
    AddKeeper {
        /// Of a new one.
        generation: u32,
    },
    /// Has another password.
    SetPassword {
        /// As in the row.
        hash: String,
        /// Ends all tokens.
        generation: u32,
    },
    /// Is not there any more.
    Remove,
    /// May do something else from now on.
    Grant {
        /// `None`: they stay.
        roles: Option<Roles>,
        /// `None`: as it was.
        disabled: Option<bool>,
        /// The path of the directory that the user is bound to; empty: none. `None`: as it was.
        dir: Option<Bytes>,
        /// How ids are mapped. `None`: as it was.
        ids: Option<IdMap>,
    },
    /// All tokens end.
    Revoke {
        /// The new one.
        generation: u32,
    },
}

/// Users by name.
#[derive(Default)]
pub(super) struct Users(BTreeMap<UserName, UserRow>);

impl Users {
    pub fn get(&self, name: &str) -> Option<&UserRow> {
        self.0.get(name)
    }

    /// False: it is there, or has no possible name.
    pub fn insert(&mut self, name: &str, row: UserRow) -> bool {
        check_name(name).is_ok() && self.0.insert(name.into(), row).is_none()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&UserName, &UserRow)> {
        self.0.iter()
    }
}

/// Names are typed, and go into logs: 1 to 64 of `a-z A-Z 0-9 . _ - @`, the first no `-`.
///
/// # Errors
/// Says what a name may be.
pub fn check_name(name: &str) -> Res<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
    if (1..=MAX_USER_NAME).contains(&name.len()) && name.chars().all(fits) && !name.starts_with('-') {
        return Ok(());
    }
    let message = format!(
        "that is no name of a user; take 1 to {MAX_USER_NAME} letters, digits and . _ - @, and begin with no -"
    );
    fail(ErrorCode::Invalid, message)
}

fn can_administer(row: &UserRow) -> bool {
    row.roles.has(Role::Admin) && !row.disabled && !row.password_hash.is_empty()
}

impl State {
    /// A user, as it is at this moment.
    pub fn user(&self, name: &str) -> Option<&UserRow> {
        self.users.get(name)
    }

    /// All users, by name.
    pub fn all_users(&self) -> Vec<(UserName, UserRow)> {
        self.users.iter().map(|(name, row)| (name.clone(), row.clone())).collect()
    }

    pub(super) fn change_user(&mut self, name: &str, change: UserChange, out: &mut Out) -> Res<UserRow> {
        check_name(name)?;
        let before = self.users.get(name).cloned();
        let dir = self.dir_of(&change)?;
        let after = changed(name, before.clone(), change, dir)?;
        if before.is_none() && self.users.0.len() >= MAX_USERS {
            let message = format!("there are {MAX_USERS} users, which is the most; remove some");
            return fail(ErrorCode::Busy, message);
        }
        let others = self.users.iter().any(|(other, row)| **other != *name && can_administer(row));
        if !others
            && before.as_ref().is_some_and(can_administer)
            && !after.as_ref().is_some_and(can_administer)
        {
            let message = format!("'{name}' is the last admin who can log in; make another one first");
            return fail(ErrorCode::Busy, message);
        }
        match &after {
            Some(row) => self.users.0.insert(name.into(), row.clone()),
            None => self.users.0.remove(name),
        };
        if before != after {
            out.touch(RowKey::User(name.into()));
        }
        // One of them is there.
        Ok(after.or(before).unwrap_or_default())
    }

    /// The directory that a change names. Bound is the directory, not the path: it may be moved.
    fn dir_of(&self, change: &UserChange) -> Res<Option<InodeNo>> {
        match change {
            UserChange::Add { dir, .. } | UserChange::Grant { dir: Some(dir), .. } if !dir.is_empty() => {
                self.directory_to_bind(dir).map(Some)
            }
            _ => Ok(None),
        }
    }
}

/// Who sees one directory alone, or as somebody else, has nothing to order in the cluster, and cannot be a keeper of all of it.
fn check_bound(row: &UserRow) -> Res<()> {
    if row.dir.is_some() && row.roles.has_one_of(&[Role::Admin, Role::Keeper]) {
        return fail(
            ErrorCode::Invalid,
            "a user who is bound to a directory can have the roles rw and ro alone; choose one, or --no-dir",
        );
    }
    if !row.ids.is_none() && row.roles.has_one_of(&[Role::Admin, Role::Keeper]) {
        return fail(
            ErrorCode::Invalid,
            "a user whose ids are mapped can have the roles rw and ro alone; choose one, or --no-map",
        );
    }
    Ok(())
}

/// The user's row as it will be. `None`: there will be none. `dir`: that which the change names.
fn changed(
    name: &str,
    before: Option<UserRow>,
    change: UserChange,
    dir: Option<InodeNo>,
) -> Res<Option<UserRow>> {
    let mut row = match (change, before) {
        (UserChange::Add { row, .. }, None) if !row.roles.is_empty() => UserRow { dir, ..row },
        (UserChange::Add { .. }, None) => {
            return fail(
                ErrorCode::Invalid,
                "a user needs a role; name one or more of admin, rw, ro, keeper",
            );
        }
        (UserChange::Add { .. }, Some(_)) => {
            return fail(ErrorCode::Exists, format!("there is a user '{name}' already; choose another name"));
        }
        (UserChange::AddKeeper { generation }, None) => {
            let roles = [Role::Keeper].into_iter().collect();
            return Ok(Some(UserRow { roles, generation, ..UserRow::default() }));
        }
        (UserChange::AddKeeper { .. }, Some(row)) => {
            if !row.password_hash.is_empty() || row.roles.iter().ne([Role::Keeper]) || row.disabled {
                let message = format!("'{name}' is not just a keeper; choose another name");
                return fail(ErrorCode::Exists, message);
            }
            return Ok(Some(row));
        }
        (_, None) => {
            return fail(ErrorCode::NotFound, format!("there is no user '{name}'; 'dfs user ls' lists them"));
        }
        (UserChange::Remove, Some(_)) => return Ok(None),
        (change, Some(mut row)) => {
            match change {
                UserChange::SetPassword { hash, generation } => {
                    row.password_hash = hash;
                    row.generation = generation;
                }
                UserChange::Grant { roles, disabled, dir: named, ids } => {
                    row.roles = roles.unwrap_or(row.roles);
                    row.disabled = disabled.unwrap_or(row.disabled);
                    if named.is_some() {
                        row.dir = dir;
                    }
                    row.ids = ids.map_or(row.ids, Arc::new);
                }
                UserChange::Revoke { generation } => row.generation = generation,
                // Answered above.
                UserChange::Add { .. } | UserChange::AddKeeper { .. } | UserChange::Remove => {}
            }
            row
        }
    };
    if row.roles.is_empty() {
        row.disabled = true;
    }
    check_bound(&row)?;
    Ok(Some(row))
}

#[cfg(test)]
mod tests {
    use super::super::operator::{Operation, OperatorReply};
    use super::super::testkit::Kit;
    use super::*;

    fn change(kit: &mut Kit, name: &str, change: UserChange) -> Result<UserRow, ErrorCode> {
        match kit.operate(Operation::User { name: name.to_owned(), change }) {
            Ok(OperatorReply::User(row)) => Ok(row),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.code),
        }
    }

    fn add(row: UserRow) -> UserChange {
        UserChange::Add { row, dir: Bytes::new() }
    }

    fn user(roles: &[Role]) -> UserRow {
        let roles = roles.iter().copied().collect();
        UserRow {
            password_hash: "hash".to_owned(),
            roles,
            disabled: false,
            generation: 1,
            ..UserRow::default()
        }
    }

    fn grant(roles: &[Role], disabled: bool) -> UserChange {
        UserChange::Grant {
            roles: Some(roles.iter().copied().collect()),
            disabled: Some(disabled),
            dir: None,
            ids: None,
        }
    }

    #[test]
    fn users_come_change_go_and_outlive_a_restart() {
        let mut kit = Kit::new();
        change(&mut kit, "root", add(user(&[Role::Admin]))).unwrap();
        change(&mut kit, "anna", add(user(&[Role::Rw]))).unwrap();
        assert_eq!(change(&mut kit, "anna", add(user(&[Role::Rw]))), Err(ErrorCode::Exists));
        change(&mut kit, "anna", grant(&[Role::Ro], true)).unwrap();
        change(&mut kit, "anna", UserChange::SetPassword { hash: "new".to_owned(), generation: 5 }).unwrap();
        change(&mut kit, "anna", UserChange::Revoke { generation: 6 }).unwrap();
        kit.restart();
        let anna = UserRow {
            password_hash: "new".to_owned(),
            roles: [Role::Ro].into_iter().collect(),
            disabled: true,
            generation: 6,
            ..UserRow::default()
        };
        assert_eq!(kit.state.user("anna"), Some(&anna));
        assert_eq!(change(&mut kit, "anna", UserChange::Remove), Ok(anna));
        assert_eq!(change(&mut kit, "anna", UserChange::Remove), Err(ErrorCode::NotFound));
        kit.restart();
        assert_eq!(kit.state.all_users().len(), 1);
    }

    #[test]
    fn the_last_admin_stays() {
        let mut kit = Kit::new();
        change(&mut kit, "root", add(user(&[Role::Admin]))).unwrap();
        let away = [UserChange::Remove, grant(&[Role::Rw], false), grant(&[Role::Admin], true)];
        for way in &away {
            assert_eq!(change(&mut kit, "root", way.clone()), Err(ErrorCode::Busy), "{way:?}");
        }
        let unable = UserRow { password_hash: String::new(), ..user(&[Role::Admin]) };
        change(&mut kit, "other", add(unable)).unwrap();
        assert_eq!(change(&mut kit, "root", UserChange::Remove), Err(ErrorCode::Busy));
        change(&mut kit, "third", add(user(&[Role::Admin]))).unwrap();
        change(&mut kit, "root", UserChange::Remove).unwrap();
    }

    #[test]
    fn a_keeper_is_made_once_and_nobody_else_becomes_one() {
        let mut kit = Kit::new();
        let made = change(&mut kit, "k", UserChange::AddKeeper { generation: 4 }).unwrap();
        assert_eq!(change(&mut kit, "k", UserChange::AddKeeper { generation: 9 }), Ok(made.clone()));
        assert_eq!((made.generation, made.roles.to_string().as_str()), (4, "keeper"));
        change(&mut kit, "anna", add(user(&[Role::Keeper]))).unwrap();
        let anna = change(&mut kit, "anna", UserChange::AddKeeper { generation: 9 });
        assert_eq!(anna, Err(ErrorCode::Exists));
    }

    #[test]
    fn names_are_checked() {
        let mut kit = Kit::new();
        for bad in ["", "-a", "a b", "ä", "a/b", "a\n", &"x".repeat(65)] {
            let added = change(&mut kit, bad, add(user(&[Role::Rw])));
            assert_eq!(added, Err(ErrorCode::Invalid), "{bad:?}");
        }
        change(&mut kit, "a.b-c_d@e", add(user(&[Role::Rw]))).unwrap();
        let nothing = change(&mut kit, "x", add(user(&[])));
        assert_eq!(nothing, Err(ErrorCode::Invalid));
    }

    #[test]
    fn a_row_does_not_show_the_password() {
        assert!(!format!("{:?}", user(&[Role::Rw])).contains("hash"));
    }
}
