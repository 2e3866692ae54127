//! Labels of keepers: `NAME=VALUE`. Those named [`HOST`] and [`RACK`] say what fails together, and copies are spread
//! by them; others are for operators to see.

/// The machine; without such a label, the keeper's host name.
pub const HOST: &str = "host";
/// What fails together when one switch or one fuse does. Keepers without such a label are in one rack together.
pub const RACK: &str = "rack";

/// The most labels of one keeper.
pub const MAX_LABELS: usize = 16;
/// The longest name or value, in bytes.
pub const MAX_LABEL_LEN: usize = 64;

/// Checks one label.
///
/// # Errors
/// What is wrong with it, for a person.
pub fn check(name: &str, value: &str) -> Result<(), String> {
    let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase());
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if !starts_well || !name.chars().all(is_name) || name.len() > MAX_LABEL_LEN {
        return Err(format!(
            "'{name}' cannot be a label's name: write a letter and up to {} more of a to z, 0 to 9, - and _",
            MAX_LABEL_LEN - 1
        ));
    }
    check_value(name, value)
}

fn check_value(name: &str, value: &str) -> Result<(), String> {
    let is_value = |c: char| !c.is_control() && !c.is_whitespace();
    if value.is_empty() || value.len() > MAX_LABEL_LEN || !value.chars().all(is_value) {
        return Err(format!(
            "the value of label '{name}' cannot be '{}': write 1 to {MAX_LABEL_LEN} bytes without spaces",
            value.escape_debug()
        ));
    }
    Ok(())
}

/// Reads `NAME=VALUE`, as people type it.
///
/// # Errors
/// As [`check`].
pub fn parse(text: &str) -> Result<(String, String), String> {
    let Some((name, value)) = text.split_once('=') else {
        return Err(format!("'{text}' is no label; write it as NAME=VALUE, such as rack=1"));
    };
    check(name, value).map(|()| (name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_as_people_type_them() {
        for (text, name, value) in [
            ("rack=1", "rack", "1"),
            ("host=höst.example", "host", "höst.example"),
            ("x-1_y=a=b", "x-1_y", "a=b"),
        ] {
            assert_eq!(parse(text), Ok((name.to_owned(), value.to_owned())));
        }
        let long = "x".repeat(MAX_LABEL_LEN + 1);
        for text in ["", "rack", "=1", "rack=", "Rack=1", "1=1", "ra ck=1", "rack=a b", "rack=a\nb"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert!(parse(&format!("{long}=1")).is_err() && parse(&format!("rack={long}")).is_err());
    }
}
