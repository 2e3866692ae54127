//! Patterns as a shell has them for names (glob(7)): `*`, `?`, `[a-z]`, `[!a-z]`, and `\` before what is meant as it is. A leading dot is
//! a letter like others, as in find(1).

/// Does all of `name` match? In time proportional to the lengths' product at worst.
pub(super) fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut here) = (0, 0);
    // Where to go on when a letter does not match: behind the last star, with one more letter for it.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if at < pattern.len() && pattern[at] == b'*' {
            at += 1;
            star = Some((at, here));
            continue;
        }
        let one = match at < pattern.len() && here < name.len() {
            true => one(&pattern[at..], &name[here..]),
            false => None,
        };
        match (one, star) {
            (Some((of_pattern, of_name)), _) => {
                at += of_pattern;
                here += of_name;
            }
            _ if at == pattern.len() && here == name.len() => return true,
            (None, Some((behind, taken))) if taken < name.len() => {
                let taken = taken + letter(&name[taken..]);
                star = Some((behind, taken));
                (at, here) = (behind, taken);
            }
            _ => return false,
        }
    }
}

/// How many bytes the first letter has; of what is no UTF-8, one.
fn letter(text: &[u8]) -> usize {
    let length = match text.first() {
        Some(0xc0..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf7) => 4,
        _ => 1,
    };
    match text.get(..length).map(std::str::from_utf8) {
        Some(Ok(_)) => length,
        _ => 1,
    }
}

/// How many bytes of pattern and name match as one letter. The pattern does not begin with a star.
fn one(pattern: &[u8], name: &[u8]) -> Option<(usize, usize)> {
    let length = letter(name);
    match pattern[0] {
        b'?' => Some((1, length)),
        b'[' => match set(pattern, &name[..length]) {
            Some((used, true)) => Some((used, length)),
            Some((_, false)) => None,
            // It is not closed: a letter like others.
            None => (name[0] == b'[').then_some((1, 1)),
        },
        b'\\' if pattern.len() > 1 => (pattern[1] == name[0]).then_some((2, 1)),
        byte => (byte == name[0]).then_some((1, 1)),
    }
}

/// How long the set is that the pattern begins with, and whether `wanted` is in it.
fn set(pattern: &[u8], wanted: &[u8]) -> Option<(usize, bool)> {
    let is_not = matches!(pattern.get(1), Some(b'!' | b'^'));
    let first = if is_not { 2 } else { 1 };
    let (mut at, mut is_in) = (first, false);
    loop {
        if pattern.get(at) == Some(&b']') && at > first {
            return Some((at + 1, is_in != is_not));
        }
        let (low, after) = member(pattern, at)?;
        let is_range =
            pattern.get(after) == Some(&b'-') && pattern.get(after + 1).is_some_and(|next| *next != b']');
        let (high, after) = if is_range { member(pattern, after + 1)? } else { (low, after) };
        // Letters of UTF-8 are in the order of their bytes.
        is_in |= low <= wanted && wanted <= high;
        at = after;
    }
}

fn member(pattern: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let at = if pattern.get(at) == Some(&b'\\') { at + 1 } else { at };
    let rest = pattern.get(at..).filter(|rest| !rest.is_empty())?;
    let length = letter(rest);
    Some((&rest[..length], at + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_to_a_shell() {
        for (pattern, name, is_match) in [
            ("*", "", true),
            ("*", ".hidden", true),
            ("*.mp4", "a.mp4", true),
            ("*.mp4", "a.mp4.part", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("?", "ä", true),
            ("??", "ä", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("[]a]", "]", true),
            ("[a-]", "-", true),
            ("[ä-ü]", "ö", true),
            ("[", "[", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("", "", true),
            ("", "a", false),
            ("a", "ab", false),
            ("*a", "aaa", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), is_match, "{pattern} {name}");
        }
        assert!(matches(b"?", b"\xff"));
    }

    #[test]
    fn many_stars_take_no_for_an_answer_soon() {
        let (pattern, name) = ("*a".repeat(100) + "b", "a".repeat(255));
        assert!(!matches(pattern.as_bytes(), name.as_bytes()));
    }
}
