//! The attribute keys that a plan looks at, numbered.

/// `service.name` is the first watched attribute of every plan.
pub const SERVICE_NAME: usize = 0;
/// `service.namespace` is the second.
pub const SERVICE_NAMESPACE: usize = 1;
/// `service.instance.id` is the third.
pub const SERVICE_INSTANCE_ID: usize = 2;

const ALWAYS: [&str; 3] = ["service.name", "service.namespace", "service.instance.id"];
const OUTLINES: usize = 256;

/// Attribute keys, numbered in order of first mention.
#[derive(Debug)]
pub struct Watch {
    /// Keys by their length and outer bytes: most attributes meet an empty list and are passed over.
    by_outline: [Vec<(Vec<u8>, usize)>; OUTLINES],
    len: usize,
}

impl Watch {
    /// Number `key`, if it has no number yet.
    pub fn number(&mut self, key: &str) -> usize {
        let key = key.as_bytes();
        if let Some(number) = self.find(key) {
            return number;
        }
        let number = self.len;
        self.len += 1;
        if let Some(keys) = self.by_outline.get_mut(outline(key)) {
            keys.push((key.to_vec(), number));
        }
        number
    }

    /// How many keys are watched; never none.
    #[allow(clippy::len_without_is_empty, reason = "a watch is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The number of `key`, if it is watched.
    #[inline]
    pub fn find(&self, key: &[u8]) -> Option<usize> {
        let keys = self.by_outline.get(outline(key))?;
        let (_, number) = keys.iter().find(|(watched, _)| watched == key)?;
        Some(*number)
    }
}

impl Default for Watch {
    fn default() -> Self {
        let mut watch = Self {
            by_outline: [const { Vec::new() }; OUTLINES],
            len: 0,
        };
        for key in ALWAYS {
            watch.number(key);
        }
        watch
    }
}

#[inline]
fn outline(key: &[u8]) -> usize {
    let outer = |byte: Option<&u8>| usize::from(byte.copied().unwrap_or_default());
    (key.len() * 37 + outer(key.first()) * 5 + outer(key.last())) % OUTLINES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_keeps_its_number() {
        let mut watch = Watch::default();
        let region = watch.number("cloud.region");
        assert_eq!(watch.number("cloud.region"), region);
        assert_eq!(watch.find(b"cloud.region"), Some(region));
        assert_eq!(watch.find(b"service.name"), Some(SERVICE_NAME));
        assert_eq!(watch.find(b"service.namespace"), Some(SERVICE_NAMESPACE));
        assert_eq!(watch.find(b"service.instance.id"), Some(SERVICE_INSTANCE_ID));
        assert_eq!(watch.find(b"cloud.regiom"), None);
        assert_eq!(watch.len(), 4);
    }
}
