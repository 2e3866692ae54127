//! Names of users and groups, as this machine's files have them. Numbers that they do not have stay numbers.

use std::collections::HashMap;

/// See the module.
pub(super) struct Names {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Names {
    /// As they are now. Without the files there are none.
    pub(super) fn of_machine() -> Names {
        let read = |file: &str| parse(&std::fs::read_to_string(file).unwrap_or_default());
        Names { users: read("/etc/passwd"), groups: read("/etc/group") }
    }

    pub(super) fn user(&self, uid: u32) -> Option<&str> {
        self.users.get(&uid).map(String::as_str)
    }

    pub(super) fn group(&self, gid: u32) -> Option<&str> {
        self.groups.get(&gid).map(String::as_str)
    }
}

/// Of passwd(5) and group(5): the first field is the name, the third the number. The first name of a number counts.
fn parse(text: &str) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(number)) = (fields.next(), fields.nth(1))
            && let Ok(number) = number.parse()
        {
            names.entry(number).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_number() {
        let names = parse("root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\n+nis\nanna:x:1000:1000\n");
        assert_eq!(names.get(&0).map(String::as_str), Some("root"));
        assert_eq!(names.get(&1000).map(String::as_str), Some("anna"));
        assert_eq!(names.len(), 2);
    }
}
