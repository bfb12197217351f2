//! Blobs into layers: what is checked, and who is to blame when it does not fit.

mod setup;

use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;

use robot_env_diag::{Error, Kind};
use robot_env_oci::{Algorithm, Descriptor, DiffId, Digest, Hasher, media_type};
use robot_env_store::Store;
use robot_env_testkit::image::{Compression, Entry, tar};
use robot_env_testkit::temporary::TemporaryDirectory;
use robot_env_transfer::{Known, Unpacker};
use setup::*;

fn layer() -> Vec<u8> {
    tar(&[Entry::directory("d/"), Entry::file("d/f", "content".repeat(10_000))])
}

fn described(blob: &[u8]) -> Descriptor {
    Descriptor::new(media_type::OCI_LAYER_GZIP, Digest::of(blob), blob.len() as u64)
}

fn diff_id(tar: &[u8]) -> DiffId {
    DiffId(Digest::of(tar))
}

/// A store in a directory that goes away.
fn store() -> (TemporaryDirectory, Store) {
    let directory = TemporaryDirectory::new("unpack");
    let store = open(&directory.join("store"));
    (directory, store)
}

#[test]
fn every_compression_is_found_out_and_hashed() {
    let (_directory, store) = store();
    let unpacker = Unpacker::new(&store, ownership());
    let tar = layer();
    for (compression, kind) in [
        (Compression::None, media_type::OCI_LAYER),
        (Compression::Gzip, media_type::OCI_LAYER_GZIP),
        (Compression::Zstd, media_type::OCI_LAYER_ZSTD),
    ] {
        let blob = compression.compress(&tar);
        let unpacked = unpacker.unpack(&blob[..], Known::default()).unwrap();
        assert_eq!(unpacked.diff_id, diff_id(&tar));
        assert_eq!(unpacked.blob, Descriptor::new(kind, Digest::of(&blob), blob.len() as u64));
    }
    // Blobs may be named by SHA-512; layers are not.
    let blob = Compression::Gzip.compress(&tar);
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(&blob);
    let known = Descriptor::new(media_type::OCI_LAYER_GZIP, hasher.finish(), blob.len() as u64);
    let unpacked = unpacker.unpack(&blob[..], Known { blob: Some(&known), diff_id: None }).unwrap();
    assert_eq!(unpacked.blob, known);
}

#[test]
fn blame_falls_on_whom_it_should() {
    let (directory, store) = store();
    let unpacker = Unpacker::new(&store, ownership());
    let tar = layer();
    let blob = Compression::Gzip.compress(&tar);
    let mut flipped = blob.clone();
    flipped[blob.len() / 2] ^= 4;
    let mut longer = blob.clone();
    longer.extend_from_slice(&Compression::Gzip.compress(b"more"));
    let nonsense = Compression::Zstd.compress(&vec![0x42; 300_000]);
    let no_compression = [&[0x1f, 0x8b, 8][..], &[9; 5000]].concat();
    let (right, own) = (described(&blob), diff_id(&tar));
    let other = diff_id(b"other");
    let of_nonsense = described(&nonsense);
    let of_no_compression = described(&no_compression);
    for (what, blob, known, diff_id, damaged) in [
        ("flipped bits", &flipped, &right, &own, true),
        ("cut off", &blob[..blob.len() - 9].to_vec(), &right, &own, true),
        ("more than declared", &longer, &right, &own, true),
        ("something else", &nonsense, &right, &own, true),
        ("a lying config", &blob, &right, &other, false),
        ("no tar inside", &nonsense, &of_nonsense, &own, false),
        ("no gzip inside", &no_compression, &of_no_compression, &own, false),
    ] {
        let known = Known { blob: Some(known), diff_id: Some(diff_id) };
        let failure = unpacker.unpack(&blob[..], known).unwrap_err();
        assert_eq!(failure.error.kind(), Kind::Corrupt, "{what}: {:?}", failure.error);
        assert_eq!(failure.damaged_blob, damaged, "{what}: {:?}", failure.error);
        assert_eq!(std::fs::read_dir(directory.join("store/staging")).unwrap().count(), 0, "{what}");
    }
    let xz = b"\xfd7zXZ\0 and so on";
    let failure = unpacker.unpack(&xz[..], Known::default()).unwrap_err();
    assert_eq!(failure.error.kind(), Kind::Unsupported);
}

#[test]
fn an_end_mark_may_be_missing_where_the_digest_is_known() {
    let (_directory, store) = store();
    let unpacker = Unpacker::new(&store, ownership());
    let whole = layer();
    let unmarked = &whole[..whole.len() - 1024];
    let own = diff_id(unmarked);
    unpacker.unpack(unmarked, Known { blob: None, diff_id: Some(&own) }).unwrap();
    let failure = unpacker.unpack(unmarked, Known::default()).unwrap_err();
    assert_eq!(failure.error.kind(), Kind::Corrupt);
}

/// Gives some bytes and then fails.
struct Failing(io::Cursor<Vec<u8>>, Kind);

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::Error::other(Error::new(self.1, "the line is dead"))),
            n => Ok(n),
        }
    }
}

#[test]
fn the_reader_s_own_error_is_told() {
    let (_directory, store) = store();
    let unpacker = Unpacker::new(&store, ownership());
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let blob = compression.compress(&layer());
        let known = described(&blob);
        for (kind, damaged) in [(Kind::Unavailable, false), (Kind::Interrupted, false), (Kind::Corrupt, true)]
        {
            for length in [0, 3, blob.len() / 2, blob.len()] {
                let reader = Failing(io::Cursor::new(blob[..length].to_vec()), kind);
                let failure =
                    unpacker.unpack(reader, Known { blob: Some(&known), diff_id: None }).unwrap_err();
                assert_eq!(failure.error.kind(), kind, "{compression:?} {length}: {:?}", failure.error);
                assert_eq!(failure.damaged_blob, damaged, "{compression:?} {length}: {:?}", failure.error);
                assert!(text(&failure.error).contains("the line is dead"), "{:?}", failure.error);
            }
        }
    }
}

#[test]
fn layers_of_one_batch_complete_each_other() {
    let (directory, store) = store();
    let unpacker = Unpacker::new(&store, ownership());
    let tars = [
        tar(&[Entry::directory("a/").mode(0o700), Entry::directory("a/b/").mode(0o711)]),
        // Implies a and a/b, and must pass on what it got to the next.
        tar(&[Entry::file("a/b/one", "1")]),
        tar(&[Entry::file("a/b/two", "2")]),
    ];
    let mut parent = None;
    let mut layers = Vec::new();
    for tar in &tars {
        let mut layer = unpacker.unpack(&tar[..], Known::default()).unwrap();
        layer.parent = parent;
        parent = Some(layer.chain_id());
        layers.push(layer);
    }
    unpacker.commit(layers).unwrap();
    let top = store.layer(&parent.unwrap()).unwrap().unwrap();
    assert_eq!(top.ancestors.len(), 2);
    let tree = directory.join("store/layers").join(top.chain_id.hex()).join("fs");
    let mode = |path: &str| std::fs::metadata(tree.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("a"), mode("a/b")), (0o700, 0o711));
    // A parent that is nowhere is an error, and nothing is committed.
    let mut orphan = unpacker.unpack(&tars[0][..], Known::default()).unwrap();
    orphan.parent = Some(robot_env_oci::ChainId(Digest::of(b"nowhere")));
    assert!(unpacker.commit(vec![orphan]).is_err());
    assert_eq!(store.layers().unwrap().len(), 3);
}
