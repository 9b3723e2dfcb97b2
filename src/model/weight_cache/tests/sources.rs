//! Source files are known again while nothing of them changed, and only then.

use super::super::identity::SOURCE;
use super::*;
use std::time::{Duration, SystemTime};

fn identity(path: &Path) -> SourceIdentity {
    SourceIdentity(vec![FileIdentity::of(path, &path.metadata().unwrap()).unwrap()])
}

fn set_age(path: &Path, seconds: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
}

/// A source file that changed a minute ago.
fn source() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    std::fs::write(&path, [1; 1000]).unwrap();
    set_age(&path, 60);
    (directory, path)
}

#[test]
fn a_hash_is_known_until_the_file_changes() {
    let ((_directory, cache), (_source, path)) = (cache(), source());
    let (hash, before) = (blake3::hash(b"weights"), identity(&path));
    assert_eq!(cache.known_hash(&before), None);
    cache.remember(&before, hash).unwrap();
    assert_eq!(cache.known_hash(&identity(&path)), Some(hash));
    // In place, of the same length, at another time.
    std::fs::write(&path, [2; 1000]).unwrap();
    set_age(&path, 59);
    assert_eq!(cache.known_hash(&identity(&path)), None);
    // Even with the old time put back: the file system has its own.
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_modified(before.0[0].modified_time()).unwrap();
    assert_eq!(cache.known_hash(&identity(&path)), None);
    assert_eq!(cache.known_hash(&before), Some(hash));
}

#[test]
fn the_order_number_and_path_of_files_count() {
    let ((_directory, cache), (source, path)) = (cache(), source());
    let other = source.path().join("other.safetensors");
    std::fs::hard_link(&path, &other).unwrap();
    let (one, two) = (identity(&path).0.remove(0), identity(&other).0.remove(0));
    let both = SourceIdentity(vec![one.clone(), two.clone()]);
    cache.remember(&both, blake3::hash(b"both")).unwrap();
    assert!(cache.known_hash(&both).is_some());
    for other in [vec![two.clone(), one.clone()], vec![one.clone()], vec![two], vec![one.clone(), one], vec![]] {
        assert_eq!(cache.known_hash(&SourceIdentity(other)), None);
    }
}

#[test]
fn files_that_changed_just_now_or_while_they_were_read_are_not_noted() {
    let ((_directory, cache), (_source, path)) = (cache(), source());
    let before = identity(&path);
    std::fs::write(&path, [2; 1000]).unwrap();
    cache.remember(&before, blake3::hash(b"old")).unwrap();
    cache.remember(&identity(&path), blake3::hash(b"new")).unwrap();
    assert!(names(&cache).is_empty());
    let gone = identity(&path);
    std::fs::remove_file(&path).unwrap();
    cache.remember(&gone, blake3::hash(b"gone")).unwrap();
    assert!(names(&cache).is_empty());
}

#[test]
fn entries_that_were_changed_are_not_believed() {
    let ((_directory, cache), (_source, path)) = (cache(), source());
    let identity = identity(&path);
    cache.remember(&identity, blake3::hash(b"weights")).unwrap();
    let [name] = names(&cache).try_into().unwrap();
    assert!(name.ends_with(SOURCE));
    let at = cache.directory.path().join(&name);
    let whole = std::fs::read(&at).unwrap();
    for index in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[index] ^= 1;
        std::fs::write(&at, &bytes).unwrap();
        assert_eq!(cache.known_hash(&identity), None, "byte {index}");
        std::fs::write(&at, &whole[..index]).unwrap();
        assert_eq!(cache.known_hash(&identity), None, "{index} bytes");
    }
    for bytes in [[&whole[..], b"\n"].concat(), vec![0xff; 5000], [&whole[..], &whole[..]].concat()] {
        std::fs::write(&at, bytes).unwrap();
        assert_eq!(cache.known_hash(&identity), None);
    }
    std::fs::write(&at, &whole).unwrap();
    assert!(cache.known_hash(&identity).is_some());
    let mut open = at.metadata().unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut open, 0o666);
    std::fs::set_permissions(&at, open).unwrap();
    assert_eq!(cache.known_hash(&identity), None, "anybody could have written it");
}
