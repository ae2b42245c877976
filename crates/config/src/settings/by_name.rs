//! Things that the file tells apart by their names.

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;

/// A list in the order of the file, in which a name is found at once. Names are compared without regard to letter case and surrounding
/// white space.
#[derive(Clone)]
pub struct ByName<T> {
    items: Vec<T>,
    /// The normal form of a name to the place of the first item that has it.
    places: HashMap<String, usize>,
}

impl<T> ByName<T> {
    pub(super) fn new(items: Vec<T>, name: impl Fn(&T) -> Option<&str>) -> Self {
        let mut places = HashMap::new();
        for (place, item) in items.iter().enumerate() {
            if let Some(name) = name(item) {
                places.entry(normal(name)).or_insert(place);
            }
        }
        Self { items, places }
    }

    /// The item of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&T> {
        self.items.get(self.place(name)?)
    }

    /// The place of the first item of this name.
    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.places.get(&normal(name)).copied()
    }
}

fn normal(name: &str) -> String {
    name.trim().to_lowercase()
}

impl<T> Deref for ByName<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.items
    }
}

impl<'a, T> IntoIterator for &'a ByName<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.items.iter()
    }
}

impl<T: fmt::Debug> fmt::Debug for ByName<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.items.fmt(f)
    }
}

impl<T: PartialEq> PartialEq for ByName<T> {
    fn eq(&self, other: &Self) -> bool {
        self.items == other.items
    }
}
