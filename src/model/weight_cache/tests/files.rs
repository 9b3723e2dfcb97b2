//! Whole files: what is written is what is mapped, whoever else writes, and within the bounds.

use super::super::bounds::{is_written_elsewhere, make_room, tidy};
use super::super::directory::TEMPORARY;
use super::super::identity::SOURCE;
use super::*;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Barrier;
use std::time::{Duration, Instant, SystemTime};

#[test]
fn what_is_written_is_what_is_mapped() {
    let backend = backend();
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        let ((_directory, cache), key) = (cache(), key(1, dtype));
        let (matrices, tensors) = tensors(&backend, dtype, &SHAPES);
        assert!(open(&cache, &key).unwrap().is_none());
        let path = write_now(&cache, &key, &tensors).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(cache.directory.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let file = open(&cache, &key).unwrap().unwrap();
        for (shape, matrix) in SHAPES.iter().zip(&matrices) {
            let name = format!("matrix {shape:?}");
            let bytes = file.matrix(&name, *shape).unwrap();
            assert!(bytes.as_slice().as_ptr().addr().is_multiple_of(64));
            assert_eq!(bytes.as_slice(), backend.packed_bytes(matrix).unwrap().as_slice());
            assert!(backend.matrix_from_packed(*shape, MatrixRows::Plain, dtype.into(), &bytes).is_some());
            assert!(file.matrix(&name, (shape.0 + 1, shape.1)).is_none() && file.vector(&name, shape.1).is_none());
        }
        let gains = file.vector("gains", 3).unwrap();
        assert_eq!(gains.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), [1.5, -0.0, f32::MIN_POSITIVE].map(f32::to_bits));
        assert!(file.vector("gains", 4).is_none() && file.vector("other", 3).is_none() && file.matrix("gains", (1, 3)).is_none());
    }
}

#[test]
fn a_mapped_file_stays_whole_when_another_takes_its_name() {
    let (_directory, cache, path) = small_file();
    let file = open(&cache, &key(1, DType::Bf16)).unwrap().unwrap();
    let before = file.matrix("matrix (64, 64)", (64, 64)).unwrap();
    let copy = before.as_slice().to_vec();
    let (_, others) = tensors(&backend(), DType::Bf16, &[(64, 64)]);
    cache.discard(&key(1, DType::Bf16));
    write_now(&cache, &key(1, DType::Bf16), &others).unwrap();
    drop(file);
    assert_eq!(before.as_slice(), copy);
    let file = open(&cache, &key(1, DType::Bf16)).unwrap().unwrap();
    assert!(file.matrix("matrix (33, 7)", (33, 7)).is_none(), "the new file has only one matrix");
    std::fs::remove_file(path).unwrap();
    assert_eq!(before.as_slice(), copy);
}

#[test]
fn writers_and_readers_at_once_see_whole_files_or_none() {
    let ((_directory, cache), key) = (cache(), key(1, DType::F32));
    let (_, tensors) = tensors(&backend(), DType::F32, &SHAPES[..4]);
    let start = Barrier::new(6);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                start.wait();
                for _ in 0..5 {
                    match write_now(&cache, &key, &tensors) {
                        Ok(_) | Err(CacheError::Elsewhere) => cache.discard(&key),
                        Err(error) => panic!("{error}"),
                    }
                }
                // The last one finds nothing, or the file of another that is whole.
                assert!(matches!(write_now(&cache, &key, &tensors), Ok(_) | Err(CacheError::Elsewhere)));
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                start.wait();
                let since = Instant::now();
                let mut seen = 0;
                while seen < 5 && since.elapsed() < Duration::from_secs(30) {
                    let file = open(&cache, &key).expect("whole or none");
                    seen += usize::from(file.is_some());
                }
                assert_eq!(seen, 5);
            });
        }
    });
    assert_eq!(names(&cache), [key.file_name()]);
}

#[test]
fn a_writer_that_is_dropped_leaves_nothing_and_one_that_is_awaited_a_whole_file() {
    let ((_directory, cache), key) = (cache(), key(1, DType::F32));
    let (_, tensors) = tensors(&backend(), DType::F32, &SHAPES);
    drop(cache.clone().write_in_background(key.clone(), tensors.clone()).unwrap());
    // The thread may need a moment to begin, or to notice; what it had begun is gone then. It may also have been done before.
    let settle = || {
        let since = Instant::now();
        while names(&cache).iter().any(|name| name.ends_with(TEMPORARY)) && since.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    settle();
    assert!(names(&cache).iter().all(|name| *name == key.file_name()), "{:?}", names(&cache));
    // The first thread may yet begin: while it writes, nobody else does.
    let since = Instant::now();
    while names(&cache) != [key.file_name()] && since.elapsed() < Duration::from_secs(30) {
        cache.clone().write_in_background(key.clone(), tensors.clone()).unwrap().wait();
        settle();
    }
    assert_eq!(names(&cache), [key.file_name()]);
    assert!(open(&cache, &key).unwrap().is_some());
}

fn age(path: &Path, seconds: u64) {
    let time = SystemTime::now() - Duration::from_secs(seconds);
    std::fs::File::open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn the_least_recently_used_files_make_room_and_never_more_than_needed() {
    let (_directory, mut cache) = cache();
    let (_, tensors) = tensors(&backend(), DType::Bf16, &SHAPES[..3]);
    let paths = [1, 2, 3].map(|weights| write_now(&cache, &key(weights, DType::Bf16), &tensors).unwrap());
    let bytes = paths[0].metadata().unwrap().len();
    for (path, seconds) in paths.iter().zip([300, 200, 100]) {
        age(path, seconds);
    }
    // Using the oldest makes it the youngest.
    assert!(open(&cache, &key(1, DType::Bf16)).unwrap().is_some());
    cache.max_bytes = 3 * bytes;
    let fourth = write_now(&cache, &key(4, DType::Bf16), &tensors).unwrap();
    assert_eq!(paths.each_ref().map(|path| path.exists()), [true, false, true]);
    // A file that is there needs no room.
    cache.max_bytes = bytes;
    let refused = write_now(&cache, &key(4, DType::Bf16), &tensors).unwrap_err();
    assert!(matches!(refused, CacheError::Elsewhere) && names(&cache).len() == 3, "{refused}");
    cache.discard(&key(4, DType::Bf16));
    write_now(&cache, &key(4, DType::Bf16), &tensors).unwrap();
    assert!(fourth.exists() && names(&cache).len() == 1);
    cache.max_bytes = bytes - 1;
    let refused = write_now(&cache, &key(5, DType::Bf16), &tensors).unwrap_err();
    assert!(matches!(refused, CacheError::TooLarge { most, .. } if most == bytes - 1), "{refused}");
    assert!(fourth.exists(), "what does not fit at all removes nothing");
}

/// A file in the making by another process, last written to so many seconds ago.
fn others_file(cache: &WeightCache, key: &PackedKey, (bytes, seconds): (u64, u64)) -> PathBuf {
    let path = cache.directory.temporary(&key.file_name());
    std::fs::File::create_new(&path).unwrap().set_len(bytes).unwrap();
    age(&path, seconds);
    path
}

#[test]
fn what_another_process_writes_is_left_to_it_unless_it_stopped() {
    let ((_directory, cache), (ours, theirs)) = (cache(), (key(1, DType::Bf16), key(2, DType::Bf16)));
    let (_, tensors) = tensors(&backend(), DType::Bf16, &SHAPES[..3]);
    let other = others_file(&cache, &ours, (1, 60));
    let refused = write_now(&cache, &ours, &tensors).unwrap_err();
    assert!(matches!(refused, CacheError::Elsewhere) && names(&cache).len() == 1, "{refused}");
    write_now(&cache, &theirs, &tensors).unwrap();
    age(&other, 200);
    write_now(&cache, &ours, &tensors).unwrap();
    assert!(other.exists() && names(&cache).len() == 3, "{:?}", names(&cache));
}

#[test]
fn of_two_writers_that_began_at_once_one_goes_on() {
    let ((_directory, cache), key) = (cache(), key(1, DType::Bf16));
    let target = cache.path_of(&key);
    let mut both = [(); 2].map(|()| others_file(&cache, &key, (1, 0)));
    both.sort();
    let gives_up = |own: &PathBuf| is_written_elsewhere(&cache.directory, &target, Some(own)).unwrap();
    assert_eq!(both.each_ref().map(gives_up), [false, true]);
    // A clock that is ahead by a moment is no reason to write twice; one that is far ahead none to write never.
    let ahead = |seconds| {
        let time = SystemTime::now() + Duration::from_secs(seconds);
        std::fs::File::open(&both[0]).unwrap().set_modified(time).unwrap();
    };
    ahead(30);
    assert!(gives_up(&both[1]));
    ahead(10_000);
    assert!(!gives_up(&both[1]));
    std::fs::write(&target, "whole").unwrap();
    assert_eq!(both.each_ref().map(gives_up), [true, true]);
}

#[test]
fn files_in_the_making_count_and_nothing_gives_way_before_it_must() {
    let (_directory, mut cache) = cache();
    let (_, tensors) = tensors(&backend(), DType::Bf16, &SHAPES[..3]);
    let paths = [1, 2].map(|weights| write_now(&cache, &key(weights, DType::Bf16), &tensors).unwrap());
    let bytes = paths[0].metadata().unwrap().len();
    age(&paths[0], 100);
    let there = || paths.each_ref().map(|path| path.exists());
    // As a file grows: nothing, one, both, and then it must end.
    let own = others_file(&cache, &key(3, DType::Bf16), (bytes, 0));
    let room = |most, wanted| make_room(&cache.directory, most, (&own, wanted)).map(|()| there());
    assert_eq!(room(3 * bytes, bytes).unwrap(), [true, true]);
    assert_eq!(room(3 * bytes, bytes + 1).unwrap(), [false, true]);
    assert!(matches!(room(3 * bytes, 3 * bytes + 1), Err(CacheError::NoRoom { .. })));
    assert_eq!(there(), [false, true], "what cannot be written removes nothing");
    // Another process writes too much for this one beside it.
    let other = others_file(&cache, &key(4, DType::Bf16), (2 * bytes, 0));
    std::fs::remove_file(&own).unwrap();
    cache.max_bytes = 3 * bytes - 1;
    let refused = write_now(&cache, &key(5, DType::Bf16), &tensors).unwrap_err();
    assert!(matches!(refused, CacheError::NoRoom { .. }), "{refused}");
    assert_eq!((there(), names(&cache).len()), ([false, true], 2));
    cache.max_bytes = 3 * bytes;
    write_now(&cache, &key(5, DType::Bf16), &tensors).unwrap();
    assert!(other.exists() && there() == [false, false]);
}

#[test]
fn what_dead_writers_left_and_too_many_sources_are_removed() {
    let (_directory, cache) = cache();
    let at = |name: &str| cache.directory.path().join(name);
    let (dead, alive, stranger) = (at(&format!("dead.{TEMPORARY}")), at(&format!("alive.{TEMPORARY}")), at("notes.txt"));
    for path in [&dead, &alive, &stranger] {
        std::fs::write(path, "x").unwrap();
    }
    age(&dead, 3601);
    age(&stranger, 1_000_000);
    for index in 0..70 {
        let path = at(&format!("{index}.{SOURCE}"));
        std::fs::write(&path, "x").unwrap();
        age(&path, 1000 - index);
    }
    tidy(&cache.directory).unwrap();
    assert!(!dead.exists() && alive.exists() && stranger.exists());
    assert_eq!(names(&cache).iter().filter(|name| name.ends_with(SOURCE)).count(), 64);
    assert!(!at(&format!("5.{SOURCE}")).exists() && at(&format!("6.{SOURCE}")).exists());
}

#[test]
fn directories_of_others_and_open_ones_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let refused = |path: &Path, part: &str| {
        let message = WeightCache::open(path).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(part) && message.contains(&path.display().to_string()), "{message}");
    };
    let open = directory.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o1777)).unwrap();
    refused(&open, "every user may write to it (mode 777)");
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&open, &link).unwrap();
    refused(&link, "every user may write to it");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o775)).unwrap();
    WeightCache::open(&link).unwrap();
    // Root may give a directory away; anybody else finds one of root's.
    let foreign = match std::os::unix::fs::chown(&open, Some(12345), None) {
        Ok(()) => open,
        Err(_) => PathBuf::from("/usr"),
    };
    refused(&foreign, "it belongs to user");
    let file = directory.path().join("file");
    std::fs::write(&file, "x").unwrap();
    refused(&file, "it is not a directory");
    refused(&file.join("below"), "");
}

/// `/proc/self/fd` is a directory of this user that nobody can write to, not even root.
#[cfg(target_os = "linux")]
#[test]
fn a_directory_that_cannot_be_written_to_fails_the_writer_alone() {
    let cache = WeightCache::open(Path::new("/proc/self/fd")).unwrap();
    let (_, tensors) = tensors(&backend(), DType::Bf16, &SHAPES[..1]);
    assert!(open(&cache, &key(1, DType::Bf16)).unwrap().is_none());
    let error = write_now(&cache, &key(1, DType::Bf16), &tensors).unwrap_err();
    assert!(matches!(error, CacheError::Write { .. }), "{error}");
    cache.write_in_background(key(1, DType::Bf16), tensors).unwrap().wait();
}
