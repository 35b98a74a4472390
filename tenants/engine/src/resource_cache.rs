//! Resources read under one plan, by content: a process repeats its own in every request.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::plan::Plan;
use crate::resource::Resource;
use crate::wire::{Cursor, WireResult};

/// Most bytes of one tenant's resources. At the bound all are forgotten, and read again when they come.
const MAX_BYTES: usize = 4 << 20;

/// Resources by content.
#[derive(Debug, Default)]
pub struct ResourceCache {
    numbers: HashTable<(u64, u32)>,
    hasher: DefaultHashBuilder,
    resources: Vec<Resource>,
    bytes: usize,
}

impl ResourceCache {
    /// Forget everything if it has become too much. Call between requests: numbers are good for one.
    pub fn keep_within_bound(&mut self) {
        if self.bytes > MAX_BYTES {
            *self = Self::default();
        }
    }

    /// Bytes held.
    pub fn state_bytes(&self) -> usize {
        self.bytes + self.numbers.capacity() * size_of::<(u64, u32)>()
    }

    /// The number of the resource with this message; read if it is new.
    #[inline]
    pub fn number<'m>(&mut self, message: &'m [u8], parent: &Cursor<'m>, plan: &Plan) -> WireResult<u32> {
        let hash = self.hasher.hash_one(message);
        let resources = &self.resources;
        let is_equal = |(other, number): &(u64, u32)| {
            *other == hash
                && resources
                    .get(*number as usize)
                    .is_some_and(|resource| *resource.message == *message)
        };
        if let Some((_, number)) = self.numbers.find(hash, is_equal) {
            return Ok(*number);
        }
        let resource = Resource::read(message, parent, plan)?;
        self.bytes += resource.state_bytes();
        let number = self.resources.len() as u32;
        self.resources.push(resource);
        self.numbers
            .insert_unique(hash, (hash, number), |(hash, _)| *hash);
        Ok(number)
    }

    /// The resource of this number.
    #[inline]
    pub fn get(&self, number: u32) -> Option<&Resource> {
        self.resources.get(number as usize)
    }

    /// The resource of this number.
    #[inline]
    pub fn get_mut(&mut self, number: u32) -> Option<&mut Resource> {
        self.resources.get_mut(number as usize)
    }
}
