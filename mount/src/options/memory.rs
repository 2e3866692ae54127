//! `--cache-size` and `--write-buffer`: budgets that make sense on this machine.

use dfs_proto::units::Size;

use super::OptionsError;

/// The least of either, in bytes: some blocks, and one write of the kernel's.
const LEAST: u64 = 1024 * 1024;

/// The part of the memory that a default takes at most.
const DEFAULT_PART: u64 = 4;

/// The budget in bytes. What was asked for (`said`) is used or refused; a default is cut to a quarter of the
/// machine's memory (`memory_bytes`, when known).
///
/// # Errors
/// Less than 1 MiB, or more than the machine has.
pub fn budget(flag: &str, size: Size, said: bool, memory_bytes: Option<u64>) -> Result<u64, OptionsError> {
    let memory = memory_bytes.unwrap_or(u64::MAX);
    if !said {
        return Ok(size.0.min((memory / DEFAULT_PART).max(LEAST)));
    }
    if size.0 < LEAST {
        return Err(OptionsError::Usage(format!("{flag} {size}: too small; name at least {}", Size(LEAST))));
    }
    if size.0 > memory {
        return Err(OptionsError::Usage(format!(
            "{flag} {size}: more than the memory of this machine, which is {}; name less",
            Size(memory)
        )));
    }
    Ok(size.0)
}

/// The machine's memory from the text of /proc/meminfo (proc_meminfo(5)), in bytes.
pub fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let ask = |size| budget("--cache-size", Size(size), true, Some(8 << 30));
        assert_eq!(ask(LEAST).unwrap(), LEAST);
        assert_eq!(ask(8 << 30).unwrap(), 8 << 30);
        for (bad, why) in
            [(0, "at least 1MiB"), (LEAST - 1, "too small"), ((8 << 30) + 1, "more than the memory")]
        {
            let error = ask(bad).unwrap_err().to_string();
            assert!(error.contains("--cache-size") && error.contains(why), "{error}");
        }
        assert!(budget("--cache-size", Size(1 << 50), true, None).is_ok(), "nobody knows better");
    }

    #[test]
    fn a_default_fits_a_small_machine() {
        assert_eq!(budget("--cache-size", Size(512 << 20), false, Some(8 << 30)).unwrap(), 512 << 20);
        assert_eq!(budget("--cache-size", Size(512 << 20), false, Some(512 << 20)).unwrap(), 128 << 20);
    }

    #[test]
    fn the_memory_is_found() {
        assert_eq!(total_of("MemTotal:       24576 kB\nMemFree: 5 kB\n"), Some(24576 * 1024));
        assert_eq!(total_of("nothing"), None);
    }
}
