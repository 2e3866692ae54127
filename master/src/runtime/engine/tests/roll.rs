//! Mounts are let in, and those of the time before a start are waited for.

use super::*;
use crate::core::Row;

#[tokio::test]
async fn while_a_mount_of_before_the_start_may_trust_what_it_has_no_change_is_taken() {
    let since = Instant::now().checked_sub(quiet::LONGEST - Duration::from_millis(300)).unwrap();
    let fixture = Fixture::since(a_store_with("a").await.0, since);
    let mut mount = fixture.mount().await;
    fixture.mkdir(&mut mount, 1, "b").await;
    assert!(since.elapsed() >= quiet::LONGEST, "after {:?}", since.elapsed());
}

async fn is_on_the_roll(fixture: &Fixture, session: u64) {
    let stored = async {
        while !fixture.rows.rows().contains(&Row::Session(SessionId(session))) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, stored).await.expect("its row is stored");
}

#[tokio::test]
async fn a_mount_is_on_the_roll_before_it_is_let_in() {
    let fixture = Fixture::new();
    for _ in 0..20 {
        let mount = fixture.mount().await;
        assert!(fixture.rows.rows().contains(&Row::Session(mount.link.peer)));
    }
}

#[tokio::test]
async fn a_mount_is_let_in_soon_whatever_the_store_does_and_its_row_follows() {
    // It hangs; its commits fail; it is known to take nothing.
    for gate in [Gate::Closed, Gate::Full, Gate::FoundFull] {
        let fixture = Fixture::new();
        let mut writer = fixture.mount().await;
        let clean = fixture.mkdir(&mut writer, 1, "clean").await;
        fixture.engine.read(|_, _| ()).await.unwrap();
        fixture.set(gate);
        if gate == Gate::FoundFull {
            let mut in_trouble = fixture.engine.shared.in_trouble.subscribe();
            tokio::time::timeout(DEADLINE, in_trouble.wait_for(|there| *there)).await.unwrap().unwrap();
        }
        for _ in 0..3 {
            let begun = Instant::now();
            let mut mount = fixture.mount().await;
            assert!(begun.elapsed() < Duration::from_secs(3), "{gate:?}: {:?}", begun.elapsed());
            let seen = fixture.call(&mut mount, 1, getattr(clean)).await;
            assert!(matches!(seen, mount_reply::Result::Attr(_)), "{seen:?}");
            assert!(!fixture.rows.rows().contains(&Row::Session(mount.link.peer)), "{gate:?}");
        }
        // Nor does who looks at the state wait for rows of mounts.
        fixture.engine.read(|_, _| ()).await.unwrap();
        let last = fixture.mount().await.link.peer.0;
        fixture.set(Gate::Open);
        is_on_the_roll(&fixture, last).await;
    }
}

#[tokio::test]
async fn a_welcome_waits_for_nothing_that_the_hello_changes() {
    let fixture = Fixture::new();
    let (mut first, mut second) = (fixture.mount().await, fixture.mount().await);
    let create = pb::Create { parent: 1, name: "log".into(), mode: 0o644, ..pb::Create::default() };
    let created = fixture.call(&mut first, 1, mount_request::Op::Create(create)).await;
    let mount_reply::Result::Attr(attr) = created else { panic!("{created:?}") };
    let lease = pb::FileLock {
        inode: attr.inode,
        kind: pb::LockKind::Append as i32,
        mode: pb::LockMode::Exclusive as i32,
        end: u64::MAX,
        ..pb::FileLock::default()
    };
    let wanted = || mount_request::Op::SetLock(pb::SetLock { lock: Some(lease), wait: true });
    fixture.call(&mut first, 2, wanted()).await;
    fixture.ask(&second, 1, wanted()).await;
    fixture.engine.read(|_, _| ()).await.unwrap();
    second.replies();

    fixture.set(Gate::Closed);
    // It has forgotten its lease, which so goes to the other one: that is stored with the file.
    let again = fixture.mount_again(first.link.peer.0).await;
    assert_eq!(again.link.peer, first.link.peer);
    fixture.commit_waits().await;
    assert!(second.replies().is_empty(), "told, and not stored");
    fixture.set(Gate::Open);
    assert!(matches!(second.next().await, mount_down::Msg::Reply(pb::MountReply { id: 1, .. })));
}
