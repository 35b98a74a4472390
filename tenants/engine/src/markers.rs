//! Sides of edges that a filter kept out: their counterparts need not wait for them (processors §2.5).

use hashbrown::HashMap;

use crate::frame::EdgeKey;

/// One side of an edge: its key, and whether it is the client's.
pub type Side = (EdgeKey, bool);

#[derive(Debug)]
struct Marker {
    until_ns: u64,
    /// It is in the list of markers to tell of.
    is_touched: bool,
}

/// The markers of one shard.
#[derive(Debug, Default)]
pub struct Markers {
    sides: HashMap<Side, Marker>,
    /// Those put or refreshed since the last record, each once.
    touched: Vec<Side>,
}

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
        let side = (key, is_client);
        if let Some(known) = self.sides.get_mut(&side) {
            known.until_ns = until_ns;
            if !std::mem::replace(&mut known.is_touched, true) {
                self.touched.push(side);
            }
            return true;
        }
        if self.sides.len() >= max_items {
            self.forget_expired(now_ns);
        }
        if self.sides.len() >= max_items {
            return false;
        }
        let marker = Marker {
            until_ns,
            is_touched: true,
        };
        self.sides.insert(side, marker);
        self.touched.push(side);
        true
    }

    /// Remember what the collector knows.
    pub fn put_told(&mut self, side: Side, until_ns: u64) {
        let marker = Marker {
            until_ns,
            is_touched: false,
        };
        self.sides.insert(side, marker);
    }

    /// Whether that side was kept out. A marker is not used up (Q18).
    #[inline]
    pub fn has(&self, key: EdgeKey, is_client: bool, now_ns: u64) -> bool {
        !self.sides.is_empty()
            && self
                .sides
                .get(&(key, is_client))
                .is_some_and(|marker| now_ns < marker.until_ns)
    }

    /// Drop what has lived its time.
    pub fn forget_expired(&mut self, now_ns: u64) {
        self.sides.retain(|_, marker| now_ns < marker.until_ns);
        let sides = &self.sides;
        self.touched.retain(|side| sides.contains_key(side));
    }

    /// Tell of each marker that was put or refreshed since the last time, and until when it lives.
    pub fn tell(&mut self, mut tell: impl FnMut(Side, u64)) {
        for side in self.touched.drain(..) {
            if let Some(marker) = self.sides.get_mut(&side) {
                marker.is_touched = false;
                tell(side, marker.until_ns);
            }
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sides.is_empty()
    }

    /// Bytes held, for the state gauge.
    pub fn state_bytes(&self) -> usize {
        self.sides.capacity() * (size_of::<(Side, Marker)>() + 1)
            + self.touched.capacity() * size_of::<Side>()
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

    #[test]
    fn markers_are_told_of_once_after_each_change_and_not_when_they_are_gone() {
        let mut markers = Markers::default();
        let key = |number: u8| EdgeKey::new(&[1; 16], &[number; 8]);
        let told = |markers: &mut Markers| {
            let mut news = Vec::new();
            markers.tell(|(key, _), until_ns| news.push((key.span[0], until_ns)));
            news
        };
        markers.put_told((key(1), true), 10);
        for (number, now_ns) in [(2, 0), (3, 5), (3, 6), (2, 1)] {
            markers.put(key(number), true, now_ns, 10, 9);
        }
        markers.forget_expired(11);
        assert!(!markers.has(key(1), true, 0));
        assert_eq!(told(&mut markers), [(3, 16)]);
        assert_eq!(told(&mut markers), []);
        markers.put(key(3), true, 12, 10, 9);
        assert_eq!(told(&mut markers), [(3, 22)]);
    }
}
