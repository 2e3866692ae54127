//! What is written to the journal and what is read of it, without the store around it.

use super::*;
use proptest::prelude::*;

const SIZE: u64 = 1024 * 1024;

fn record(chunk: u64, length: usize) -> Record {
    let data: Vec<u8> = (0..length).map(|n| (n as u64 * 7 + chunk) as u8).collect();
    Record { chunk: ChunkId(chunk), sums: BlockSums::of(&data), data: data.into() }
}

struct Fixture {
    _temp: tempfile::TempDir,
    dir: DataDir,
    journal: Journal,
}

impl Fixture {
    fn new() -> Fixture {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&temp.path().join("data")).unwrap();
        let journal = Journal::begin(dir.path(), SIZE, &Found::default());
        Fixture { _temp: temp, dir, journal }
    }

    fn add(&self, record: &Record) -> bool {
        self.journal.write(&self.dir, record).is_some_and(|written| self.journal.sync(&self.dir, &written))
    }

    fn found(&self) -> Vec<u64> {
        read(self.dir.path(), SIZE).unwrap().records.iter().map(|record| record.chunk.0).collect()
    }

    fn restart(&mut self) {
        let found = read(self.dir.path(), SIZE).unwrap();
        self.journal = Journal::begin(self.dir.path(), SIZE, &found);
    }

    fn overwrite(&self, name: &str, at: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(self.dir.path().join(name)).unwrap();
        file.write_all_at(bytes, at).unwrap();
    }
}

#[test]
fn what_is_written_is_found_until_it_is_settled() {
    let mut fixture = Fixture::new();
    assert!(fixture.add(&record(1, 1)) && fixture.add(&record(2, LONGEST)));
    assert_eq!(read(fixture.dir.path(), SIZE).unwrap().records, [record(1, 1), record(2, LONGEST)]);
    assert_eq!(fixture.journal.turn(), [ChunkId(1), ChunkId(2)]);
    assert!(fixture.add(&record(3, 700)));
    assert_eq!(fixture.found(), [1, 2, 3]);
    assert_eq!(fixture.journal.turn(), [ChunkId(1), ChunkId(2)], "the other half is not settled yet");
    fixture.journal.settled();
    assert!(fixture.add(&record(4, 700)));
    assert_eq!(fixture.found(), [3, 4]);
    assert_eq!(fixture.journal.turn(), [ChunkId(3), ChunkId(4)]);
    fixture.journal.settled();
    // In place of the first, which is as long: what is behind it is of a settled epoch.
    assert!(fixture.add(&record(5, 1)));
    assert_eq!(fixture.found(), [5]);
    fixture.restart();
    assert!(fixture.add(&record(6, 1)));
    assert_eq!(fixture.found(), [6], "what was found at the start counts as settled");
}

#[test]
fn nothing_is_written_over_what_is_not_settled() {
    let fixture = Fixture::new();
    let mut n = 0;
    while fixture.add(&record(n, LONGEST)) {
        n += 1;
    }
    assert_eq!(n, 15, "a half is full");
    assert_eq!(fixture.journal.turn().len(), 15);
    while fixture.add(&record(n, LONGEST)) {
        n += 1;
    }
    assert_eq!(n, 30);
    fixture.journal.turn();
    assert!(!fixture.add(&record(n, LONGEST)));
    assert!(fixture.add(&record(n, 10)), "a small one has room still");
    assert_eq!(fixture.found(), (0..=30).collect::<Vec<_>>());
    fixture.journal.settled();
    fixture.journal.turn();
    assert!(fixture.add(&record(99, LONGEST)));
}

#[test]
fn a_journal_that_is_left_alone_takes_nothing_and_keeps_what_it_has() {
    let fixture = Fixture::new();
    assert!(fixture.add(&record(1, 5)));
    fixture.journal.leave_alone();
    assert!(!fixture.add(&record(2, 5)));
    assert_eq!(fixture.found(), [1]);
}

#[test]
fn a_record_that_does_not_verify_hides_no_other() {
    let fixture = Fixture::new();
    for n in 1..=3 {
        assert!(fixture.add(&record(n, 3000)));
    }
    let second = SECTOR as u64 + 3072;
    fixture.overwrite("journal-0", second + 100, b"!");
    assert_eq!(fixture.found(), [1, 3]);
    fixture.overwrite("journal-0", second, &[0; 3072]);
    assert_eq!(fixture.found(), [1, 3]);
}

#[test]
fn bytes_of_a_chunk_do_not_pass_for_a_record() {
    let fixture = Fixture::new();
    // Somebody's file has a journal in it, with every key that he can know: of another journal, or none.
    let forged = encode(&[7; KEY_LEN], u64::MAX - 1, 0, &record(666, 100));
    let mut data = vec![0; SECTOR - DATA_AT];
    data.extend(&forged);
    let carrier = Record { chunk: ChunkId(1), sums: BlockSums::of(&data), data: data.into() };
    assert!(fixture.add(&carrier));
    assert_eq!(fixture.found(), [1]);
    // The head of the record that it is in is gone.
    fixture.overwrite("journal-0", SECTOR as u64, &[0; SECTOR]);
    assert_eq!(fixture.found(), [0u64; 0]);
    // With the right key it would pass: the key is what it hangs on.
    let key = decode_head(&std::fs::read(fixture.dir.path().join("journal-0")).unwrap()).unwrap();
    fixture.overwrite("journal-0", 2 * SECTOR as u64, &encode(&key, 9, 0, &record(666, 100)));
    assert_eq!(fixture.found(), [666]);
}

#[test]
fn a_head_that_does_not_verify_is_made_anew() {
    let mut fixture = Fixture::new();
    assert!(fixture.add(&record(1, 5)));
    fixture.overwrite("journal-0", 10, b"!");
    assert_eq!(fixture.found(), [0u64; 0]);
    fixture.restart();
    assert!(fixture.add(&record(2, 5)));
    assert_eq!(fixture.found(), [2]);
}

#[test]
fn golden() {
    let bytes = encode(&[1; KEY_LEN], 2, 3, &record(4, 5));
    assert_eq!(bytes.len(), SECTOR);
    assert_eq!(bytes[..16], [1; 16]);
    assert_eq!(bytes[16..24], [2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[24..32], [3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[32..44], [4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0]);
    assert_eq!(bytes[44..48], crc32c::crc32c(&[4, 11, 18, 25, 32]).to_le_bytes());
    assert_eq!(bytes[52..58], [4, 11, 18, 25, 32, 0]);
    let head = encode_head(&[1; KEY_LEN]);
    assert_eq!((&head[..8], &head[8..24]), (&b"DFSJRNL1"[..], &[1; 16][..]));
    assert_eq!(decode_head(&head), Some([1; KEY_LEN]));
}

proptest! {
    #[test]
    fn records_round_trip(chunk: u64, length in 1..=LONGEST, epoch: u64, settled: u64, key: [u8; KEY_LEN]) {
        let record = record(chunk, length);
        let bytes = encode(&key, epoch, settled, &record);
        prop_assert_eq!(decode(&bytes, &key), Some((record, epoch, settled, bytes.len())));
    }

    #[test]
    fn no_flipped_bit_passes(at in 0..DATA_AT + 300, bit in 0..8) {
        let key = [9; KEY_LEN];
        let mut bytes = encode(&key, 1, 0, &record(1, 300));
        bytes[at] ^= 1u8 << bit;
        prop_assert_eq!(decode(&bytes, &key), None);
    }

    #[test]
    fn hostile_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let key: Key = [0; KEY_LEN];
        let _ = decode(&[&key[..], &bytes].concat(), &key);
        let _ = decode_head(&bytes);
    }
}
