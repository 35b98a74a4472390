//! Sides of edges that a filter kept out: their counterparts need not wait for them (processors §2.5).

use hashbrown::HashMap;

use crate::frame::EdgeKey;

/// The markers of one shard: until when each lives.
#[derive(Debug, Default)]
pub struct Markers(HashMap<(EdgeKey, bool), u64>);

impl Markers {
    /// Remember that the client side, or the server side, of an edge was kept out; `false` if there is no room.
    ///
    /// One that is there is refreshed even at the bound.
    pub fn put(
        &mut self,
        key: EdgeKey,
        is_client: bool,
        now_ns: u64,
        wait_ns: u64,
        max_items: usize,
    ) -> bool {
        let until_ns = now_ns.saturating_add(wait_ns);
        if let Some(known) = self.0.get_mut(&(key, is_client)) {
            *known = until_ns;
            return true;
        }
        if self.0.len() >= max_items {
            self.forget_expired(now_ns);
        }
        if self.0.len() >= max_items {
            return false;
        }
        self.0.insert((key, is_client), until_ns);
        true
    }

    /// Whether that side was kept out. A marker is not used up (Q18).
    #[inline]
    pub fn has(&self, key: EdgeKey, is_client: bool, now_ns: u64) -> bool {
        !self.0.is_empty()
            && self
                .0
                .get(&(key, is_client))
                .is_some_and(|until_ns| now_ns < *until_ns)
    }

    /// Drop what has lived its time.
    pub fn forget_expired(&mut self, now_ns: u64) {
        self.0.retain(|_, until_ns| now_ns < *until_ns);
    }

    /// Bytes held, for the state gauge.
    pub fn state_bytes(&self) -> usize {
        self.0.capacity() * (size_of::<((EdgeKey, bool), u64)>() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_the_bound_known_markers_are_refreshed_and_new_ones_are_not_taken() {
        let mut markers = Markers::default();
        let key = |number: u8| EdgeKey::new(&[1; 16], &[number; 8]);
        let mut put = |number, now_ns| markers.put(key(number), true, now_ns, 10, 2);
        assert_eq!(
            [put(1, 0), put(2, 0), put(1, 5), put(3, 5)],
            [true, true, true, false]
        );
        assert!(markers.has(key(1), true, 12) && !markers.has(key(2), true, 12));
        assert!(!markers.has(key(1), false, 12));
        // What has expired makes room.
        assert!(markers.put(key(3), true, 12, 10, 2));
    }
}
