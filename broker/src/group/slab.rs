//! Places for many small values that come and go: an index stays with a value as long as it is there.

use std::ops::{Index, IndexMut};

/// No index.
pub(super) const NONE: u32 = u32::MAX;

/// Values by index; indices of removed values are given again.
#[derive(Debug)]
pub(super) struct Slab<T> {
    items: Vec<T>,
    free: Vec<u32>,
}

impl<T: Copy> Slab<T> {
    /// No values.
    pub(super) fn new() -> Self {
        Self { items: Vec::new(), free: Vec::new() }
    }

    /// Puts a value in and tells its index.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        if let Some(index) = self.free.pop() {
            self.items[index as usize] = value;
            return index;
        }
        let index = u32::try_from(self.items.len()).expect("bounded by the records that a group holds");
        self.items.push(value);
        index
    }

    /// Takes a value out. Its index must be of a value that is there.
    pub(super) fn remove(&mut self, index: u32) -> T {
        let value = self.items[index as usize];
        self.free.push(index);
        if self.free.len() == self.items.len() {
            self.items.clear();
            self.free.clear();
        }
        value
    }

    /// Number of values.
    pub(super) fn len(&self) -> usize {
        self.items.len() - self.free.len()
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        &self.items[index as usize]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.items[index as usize]
    }
}
