//! The places of one listing: which number goes on after which name. The kernel keeps a number and may come back to any that it
//! was told (telldir, seekdir), so a number means the same name for as long as it is known.
//!
//! Memory is bounded by the directory: a listing that is begun again and again, while names come and go, forgets what it
//! told long ago.

use std::collections::HashMap;
use std::sync::Arc;

/// A name of a directory, shared by all who list it.
pub type Name = Arc<[u8]>;

/// The number that follows "..", and so goes before the first name. 1 follows ".".
pub const FIRST_NAME: u64 = 2;

/// Names that are kept of a small directory.
const KEPT: usize = 1024;

/// See the module.
#[derive(Default)]
pub struct Places {
    /// Numbers that were forgotten.
    forgotten: u64,
    /// By number.
    names: Vec<Name>,
    /// Of each name, when one was told again; before, no name needs to be looked for.
    numbers: Option<HashMap<Name, u64>>,
    /// The last name in the order of lists, and its number: what follows it was never told.
    highest: Option<(Name, u64)>,
    /// Names told since the listing was last begun, and most of one time.
    told: usize,
    most_told: usize,
}

impl Places {
    /// The listing begins, also once more.
    pub fn begin(&mut self) {
        self.told = 0;
        if self.names.len() > KEPT.max(2 * self.most_told) {
            self.forgotten += self.names.len() as u64;
            (self.names, self.numbers, self.highest) = (Vec::new(), None, None);
        }
    }

    /// The name after which a listing goes on at `cookie`: an empty one before all, `None` where nothing is known to be.
    pub fn name(&self, cookie: u64) -> Option<Name> {
        match cookie.checked_sub(FIRST_NAME) {
            None | Some(0) => Some(Name::default()),
            Some(number) => {
                let index = (number - 1).checked_sub(self.forgotten)?;
                self.names.get(usize::try_from(index).ok()?).cloned()
            }
        }
    }

    /// The cookie that goes on after `name`, which is told now.
    pub fn tell(&mut self, name: &Name) -> u64 {
        self.told += 1;
        self.most_told = self.most_told.max(self.told);
        let number = self.forgotten + self.names.len() as u64 + 1;
        match &self.highest {
            // It did not fit into the answer before.
            Some((highest, number)) if highest == name => return FIRST_NAME + number,
            Some((highest, _)) if highest > name => {
                if let Some(number) = self.numbers().get(name) {
                    return FIRST_NAME + number;
                }
            }
            Some(_) | None => self.highest = Some((name.clone(), number)),
        }
        self.names.push(name.clone());
        if let Some(numbers) = &mut self.numbers {
            numbers.insert(name.clone(), number);
        }
        FIRST_NAME + number
    }

    fn numbers(&mut self) -> &HashMap<Name, u64> {
        let (names, forgotten) = (&self.names, self.forgotten);
        self.numbers.get_or_insert_with(|| names.iter().cloned().zip(forgotten + 1..).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u32) -> Name {
        format!("{n:06}").into_bytes().into()
    }

    fn tell(places: &mut Places, names: impl IntoIterator<Item = u32>) -> Vec<u64> {
        names.into_iter().map(|n| places.tell(&name(n))).collect()
    }

    #[test]
    fn a_number_means_the_same_name_whatever_is_told_later() {
        let mut places = Places::default();
        places.begin();
        let first = tell(&mut places, [10, 20, 30]);
        assert_eq!(first, [3, 4, 5]);
        assert_eq!(tell(&mut places, [30]), [5]);
        assert!(places.numbers.is_none(), "whoever goes straight on looks for nothing");
        // Gone back to the first; a name has come and one is gone.
        assert_eq!(tell(&mut places, [15, 30, 40]), [6, 5, 7]);
        places.begin();
        assert_eq!(tell(&mut places, [5, 10, 15, 20, 50]), [8, 3, 6, 4, 9]);
        let of = |cookie| places.name(cookie);
        assert_eq!([3, 4, 5, 6, 7, 8, 9].map(of), [10, 20, 30, 15, 40, 5, 50].map(|n| Some(name(n))));
        assert_eq!([0, 1, 2].map(of), [0; 3].map(|_| Some(Name::default())));
        assert_eq!([10, u64::MAX].map(of), [None, None]);
    }

    #[test]
    fn a_listing_that_is_begun_again_and_again_forgets_what_it_told_long_ago() {
        let mut places = Places::default();
        let mut last = 0;
        for round in 0..100 {
            places.begin();
            let told = tell(&mut places, round * 1000..(round + 1) * 1000);
            assert!(told[0] > last && told.is_sorted(), "no number comes back with another meaning");
            last = told[999];
            assert_eq!(places.name(last), Some(name(round * 1000 + 999)));
            assert!(places.names.len() <= 3000);
        }
        assert_eq!(places.name(3), None);
    }
}
