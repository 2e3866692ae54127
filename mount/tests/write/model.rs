//! Random operations on one file against an array of bytes.

use crate::cluster::{CHUNK, Cluster, Random, noise};

const LONGEST: u64 = 10 * CHUNK as u64;

#[tokio::test(flavor = "multi_thread")]
async fn a_file_behaves_like_an_array_of_bytes() {
    let cluster = Cluster::start(3).await;
    let (mount, other) = (cluster.mount().await, cluster.mount().await);
    for seed in 0..4u64 {
        let name = format!("f{seed}");
        let mut random = Random(seed);
        let mut model: Vec<u8> = Vec::new();
        let mut file = mount.create(&name).await;
        for step in 0..250 {
            let at = random.below(LONGEST);
            match random.below(20) {
                0 => {
                    file.truncate(at).await;
                    model.resize(at as usize, 0);
                }
                1 => file.flush().await.unwrap(),
                2 => {
                    file.close().await.unwrap();
                    assert!(other.content(&name).await == model, "seed {seed} step {step}: after close");
                    file = mount.open(&name, libc::O_RDWR).await;
                }
                3 => mount.fs.fsync(file.handle).await.unwrap(),
                4..=9 => {
                    let length = random.below(2 * CHUNK as u64) as usize;
                    let end = (at as usize + length).min(model.len());
                    let expected = model.get(at as usize..end).unwrap_or_default();
                    assert!(
                        file.read(at, length).await == expected,
                        "seed {seed} step {step}: {length} at {at}"
                    );
                }
                _ => {
                    let length = random.below(if step % 3 == 0 { 3 * CHUNK as u64 } else { 2_000 }) as usize;
                    let data = noise(seed * 1_000 + step, length);
                    file.write(at, &data).await.unwrap();
                    let end = at as usize + length;
                    if length > 0 && model.len() < end {
                        model.resize(end, 0);
                    }
                    if length > 0 {
                        model[at as usize..end].copy_from_slice(&data);
                    }
                }
            }
            let size = mount.fs.getattr(file.inode).await.unwrap().size;
            assert_eq!(size, model.len() as u64, "seed {seed} step {step}: size");
        }
        file.close().await.unwrap();
        assert!(other.content(&name).await == model, "seed {seed}: at the end");
    }
}
