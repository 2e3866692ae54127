//! How much a test does: its short form, or what the environment says (docs/TESTING.md).

/// The number in the variable `name`, or `default` where it is not set.
///
/// # Panics
/// When it is no number: a long run that was asked for must not silently be a short one.
pub fn amount(name: &str, default: u64) -> u64 {
    given(name).unwrap_or(default)
}

/// The number in the variable `name`, if it is set.
///
/// # Panics
/// As [`amount`].
pub fn given(name: &str) -> Option<u64> {
    let text = std::env::var_os(name)?;
    let number = text.to_str().and_then(|text| text.parse().ok());
    Some(number.unwrap_or_else(|| panic!("{name} is to be a number, and is {text:?}")))
}

/// Does `work` for 0 to `count` - 1, on so many threads.
pub fn in_parallel(threads: u64, count: u64, work: impl Fn(u64) + Sync) {
    let work = &work;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || (thread..count).step_by(threads as usize).for_each(work));
        }
    });
}
