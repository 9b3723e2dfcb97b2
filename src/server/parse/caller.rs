//! Who sends a request, as far as it matters for the work.

use std::sync::Arc;

/// Who sends a request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The id the client knows (`x-request-id`).
    pub request_id: Arc<str>,
    /// The hash of the API key that it brought.
    pub key: Option<[u8; 32]>,
}

impl Caller {
    /// The salt of the prefix cache: callers with different keys, and requests with different salts, do not share it, so that how long a
    /// prompt takes tells nobody of another one's prompts. 0 without either.
    pub(super) fn cache_salt(&self, salt: Option<&str>) -> u64 {
        if self.key.is_none() && salt.is_none() {
            return 0;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.key.unwrap_or_default());
        hasher.update(salt.unwrap_or_default().as_bytes());
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        u64::from_le_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_salts_part_the_cache() {
        let salt = |key: Option<u8>, salt| Caller { request_id: "".into(), key: key.map(|byte| [byte; 32]) }.cache_salt(salt);
        let all = [
            salt(None, None),
            salt(None, Some("a")),
            salt(None, Some("b")),
            salt(Some(1), None),
            salt(Some(1), Some("a")),
            salt(Some(2), None),
        ];
        let distinct: std::collections::BTreeSet<u64> = all.into_iter().collect();
        assert_eq!((distinct.len(), all[0]), (6, 0));
        assert_eq!(salt(Some(1), Some("a")), all[4]);
    }
}
