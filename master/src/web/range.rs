//! Which bytes of a file a request wants: `Range` and what it depends on (RFC 9110). Pure.

use dfs_observe::axum::http::{HeaderMap, header};

/// What is to be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    /// 304: whoever asks has it.
    Nothing,
    /// 200.
    All,
    /// 206: from the first byte to the one before the second.
    Part(u64, u64),
    /// 416.
    Impossible,
}

/// `tag`: the file's, as it is now. A range in a unit or of a form that we do not know, and several at once, count for nothing: all is sent.
pub(super) fn wanted(headers: &HeaderMap, tag: &str, size: u64) -> Wanted {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let has_it = |list: &str| {
        list.split(',').any(|one| one.trim() == "*" || one.trim().trim_start_matches("W/") == tag)
    };
    if text(header::IF_NONE_MATCH).is_some_and(has_it) {
        return Wanted::Nothing;
    }
    let Some(range) = text(header::RANGE) else { return Wanted::All };
    // A part of something else is worth nothing. A date says less than the tag, so it counts as another.
    if text(header::IF_RANGE).is_some_and(|known| known.trim() != tag) {
        return Wanted::All;
    }
    part(range, size)
}

fn part(range: &str, size: u64) -> Wanted {
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // More than can be is as good as the most that can be.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let Some((first, last)) = range.trim().strip_prefix("bytes=").and_then(|part| part.split_once('-'))
    else {
        return Wanted::All;
    };
    match (number(first.trim()), number(last.trim())) {
        (Some(first), Some(last)) if first <= last && first < size => {
            Wanted::Part(first, last.saturating_add(1).min(size))
        }
        (Some(first), Some(last)) if first > last => Wanted::All,
        (Some(first), None) if last.trim().is_empty() && first < size => Wanted::Part(first, size),
        (None, Some(length)) if first.trim().is_empty() && length > 0 && size > 0 => {
            Wanted::Part(size.saturating_sub(length), size)
        }
        (Some(_), Some(_)) => Wanted::Impossible,
        (Some(_), None) if last.trim().is_empty() => Wanted::Impossible,
        (None, Some(_)) if first.trim().is_empty() => Wanted::Impossible,
        _ => Wanted::All,
    }
}

#[cfg(test)]
mod tests {
    use dfs_observe::axum::http::HeaderValue;

    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_has_them() {
        use Wanted::{All, Impossible, Part};
        for (range, expected) in [
            ("bytes=0-0", Part(0, 1)),
            ("bytes=0-99", Part(0, 100)),
            ("bytes=0-", Part(0, 100)),
            ("bytes=10-19", Part(10, 20)),
            ("bytes= 10 - 19", Part(10, 20)),
            ("bytes=90-1000", Part(90, 100)),
            ("bytes=99-99999999999999999999999", Part(99, 100)),
            ("bytes=-1", Part(99, 100)),
            ("bytes=-1000", Part(0, 100)),
            ("bytes=100-", Impossible),
            ("bytes=100-200", Impossible),
            ("bytes=99999999999999999999999-", Impossible),
            ("bytes=-0", Impossible),
            ("bytes=5-4", All),
            ("bytes=0-1,5-6", All),
            ("bytes=a-b", All),
            ("bytes=-", All),
            ("bytes=--1", All),
            ("bytes", All),
            ("", All),
            ("lines=1-2", All),
        ] {
            assert_eq!(part(range, 100), expected, "{range}");
        }
        assert_eq!((part("bytes=0-", 0), part("bytes=-5", 0)), (Impossible, Impossible));
    }

    #[test]
    fn a_range_counts_for_the_file_that_was_meant_alone() {
        let headers = |pairs: &[(header::HeaderName, &'static str)]| -> HeaderMap {
            pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
        };
        let range = (header::RANGE, "bytes=1-2");
        let of = |pairs: &[(header::HeaderName, &'static str)]| wanted(&headers(pairs), "\"7-3\"", 10);
        assert_eq!(of(&[]), Wanted::All);
        assert_eq!(of(std::slice::from_ref(&range)), Wanted::Part(1, 3));
        assert_eq!(of(&[range.clone(), (header::IF_RANGE, "\"7-3\"")]), Wanted::Part(1, 3));
        assert_eq!(of(&[range.clone(), (header::IF_RANGE, "\"7-4\"")]), Wanted::All);
        assert_eq!(of(&[range, (header::IF_RANGE, "Wed, 21 Oct 2015 07:28:00 GMT")]), Wanted::All);
        assert_eq!(of(&[(header::IF_NONE_MATCH, "\"1-1\", \"7-3\"")]), Wanted::Nothing);
        assert_eq!(of(&[(header::IF_NONE_MATCH, "\"1-1\"")]), Wanted::All);
    }
}
